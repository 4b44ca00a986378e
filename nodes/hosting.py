"""The bridge to ComfyUI: where networks live, how they get memory, how progress and interruption travel.

`wan_core` knows nothing of ComfyUI. What core offers is handed to it from here: layer classes that stream and
cast their weights (`comfy.ops`), a patcher that decides what is resident, and the user's wish to stop.
"""

from __future__ import annotations

import logging
import re
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import comfy.utils
import folder_paths
import torch
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from torch import Tensor, nn

from ..wan_core.checkpoints import Checkpoint, audit, fill, local_name
from ..wan_core.errors import WanError
from ..wan_core.models.layers import linear, rms_norm
from ..wan_core.sampling.denoise import StepInfo
from ..wan_core.sampling.experts import ExpertPlan
from ..wan_core.sampling.plan import PlannedStep, saved_words, taken_step
from ..wan_core.sampling.time_left import TimeLeft, clock_words
from ..wan_core.schedulers import Schedule
from ..wan_core.variants.variant import DENSE
from .mapped import stay_mapped
from .quantized import into_core

log = logging.getLogger("wancore")

# As Hugging Face's tools number them: model-00002-of-00006.safetensors.
LATER_PIECE = re.compile(r"-(?!0*1-)\d+-of-\d+\.\w+$")


class CORE_LAYERS(comfy.ops.manual_cast):  # noqa: N801 (core names its own so)
    """Layers that cast each weight to its input's dtype and device on use, and look for an interrupt then.

    On a CPU they multiply and normalize as the library's own layers do: faster, and to the same bits.
    """

    @staticmethod
    @contextmanager
    def borrow(layer: nn.Module, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
        """A layer's (weight, bias) on `like`'s device in its dtype, wherever core keeps them."""
        comfy.ops.run_every_op()  # looks for an interrupt, but not while a graph is made: that knows no locks
        weight, bias, lent = comfy.ops.cast_bias_weight(layer, like, offloadable=True)
        try:
            yield weight, bias
        finally:
            comfy.ops.uncast_bias_weight(layer, weight, bias, lent)

    class Linear(comfy.ops.manual_cast.Linear):
        def forward_comfy_cast_weights(self, x: Tensor) -> Tensor:
            with CORE_LAYERS.borrow(self, x) as (weight, bias):
                return linear(x, weight, bias)

        def with_gelu(self, x: Tensor) -> Tensor:
            with CORE_LAYERS.borrow(self, x) as (weight, bias):
                return linear(x, weight, bias, gelu=True)

        @contextmanager
        def lend(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor | None] | None]:
            """For many calls and beside other layers, so it is copied: core has one buffer for all."""
            with CORE_LAYERS.borrow(self, like) as (weight, bias):
                lent = None
                if weight.data_ptr() != self.weight.data_ptr():
                    lent = weight.clone(), None if bias is None else bias.clone()
                del weight, bias  # what core made would lie beside its copy as long as that is lent
            yield lent

    class RMSNorm(comfy.ops.manual_cast.RMSNorm):
        def forward_comfy_cast_weights(self, x: Tensor) -> Tensor:
            with CORE_LAYERS.borrow(self, x) as (weight, _):
                return rms_norm(x, weight, self.eps)


# The patchers in use, by what they were made of: who asks for the same once more shares them, so that core
# neither loads nor pins one file's weights twice.
_in_use = weakref.WeakValueDictionary[tuple[object, ...], comfy.model_patcher.ModelPatcher]()


@dataclass(frozen=True)
class Hosted:
    """One network in the care of ComfyUI's model management.

    Core looks for `patcher`, `get_models` and `is_dynamic` on what travels between nodes.
    """

    patcher: comfy.model_patcher.ModelPatcher

    @property
    def module(self) -> nn.Module:
        return self.patcher.model

    @property
    def device(self) -> torch.device:
        """Where the network computes once loaded."""
        return self.patcher.load_device

    def get_models(self) -> list[comfy.model_patcher.ModelPatcher]:
        return [self.patcher]

    def is_dynamic(self) -> bool:
        return self.patcher.is_dynamic()

    def load(self, words: str, work: int) -> None:
        """Make room for the network, called `words`, and for `work` bytes of it, evicting others as core sees
        fit. Says on the node and in the log what that takes, what there is, and so what becomes of it.
        """
        line = f"loading the {words}: {memory_line(self.patcher, work)}"
        log.info(line)
        say(line)
        mm.load_models_gpu([self.patcher], memory_required=work)


def host(
    network: Callable[..., nn.Module],
    config: Any,
    checkpoint: Checkpoint,
    device: torch.device,
    resting_device: torch.device,
    dtype: torch.dtype | None = None,
    compute_dtype: torch.dtype | None = None,
) -> Hosted:
    """Build `network(config)` from core's layers with the checkpoint's weights, and put it under core's care.

    The weights stay mapped from the file unless `dtype` asks for another type; quantized ones stay as stored
    whatever it says. `compute_dtype`, of a transformer, lets core's own quantized layers have what they do
    well. Two calls for the same get one patcher. Raises WanError for a file that does not fit the network.
    """
    path, places = checkpoint.path, (str(device), str(resting_device))
    made_of = (network, config, path.resolve(), *file_state(path), *places, dtype, compute_dtype)
    patcher = _in_use.get(made_of)
    if patcher is None:
        patcher = _in_use[made_of] = _patcher(
            network, config, checkpoint, device, resting_device, dtype, compute_dtype
        )
    return Hosted(patcher)


def _patcher(
    network: Callable[..., nn.Module],
    config: Any,
    checkpoint: Checkpoint,
    device: torch.device,
    resting_device: torch.device,
    dtype: torch.dtype | None,
    compute_dtype: torch.dtype | None,
) -> comfy.model_patcher.ModelPatcher:
    # Core's layers may have no weights before they are loaded, so a plain twin is compared with the file.
    audit(network(config, device="meta"), checkpoint.header, checkpoint.file)
    module = network(config, ops=CORE_LAYERS, device="meta")
    fill(module, checkpoint, dtype)
    into_core(module, checkpoint, device, compute_dtype)
    module.requires_grad_(False).train(False)
    mm.archive_model_dtypes(module)
    # Looked up at this moment: core binds the name anew while it starts.
    patcher = comfy.model_patcher.CoreModelPatcher(module, load_device=device, offload_device=resting_device)
    stay_mapped(patcher)
    return patcher


def memory_line(patcher: comfy.model_patcher.ModelPatcher, work: int) -> str:
    """What loading a model takes, what there is, and what core will do about it.

    All that is loaded counts as free: core lets others go first, idle text encoders among them.
    """
    size, device = patcher.model_size(), patcher.load_device
    takes, ram = f"{gb(size)} of weights, {gb(work)} of work", mm.get_free_memory(torch.device("cpu"))
    if mm.is_device_cpu(device):
        return f"{takes}; {gb(ram)} of RAM free"
    has = could_be_free(device)
    room = max(mm.minimum_inference_memory(), work + mm.extra_reserved_memory())
    streamed = min(size, max(0, size + room - has))
    if streamed:
        return f"{takes}; {device} has {gb(has)}: about {gb(streamed)} stream from RAM ({gb(ram)} free)"
    done = "it is there already" if patcher.loaded_size() >= size else "all of it goes there"
    return f"{takes}; {device} has {gb(has)}: {done}"


def could_be_free(device: torch.device) -> int:
    """Bytes of a device, all that core has loaded there counting as free."""
    loaded = [model for model in mm.loaded_models() if model is not None and model.load_device == device]
    return mm.get_free_memory(device) + sum(model.loaded_size() for model in loaded)


def gb(size: float) -> str:
    """Bytes as people read them: 28.6 GB, 7.6 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


class Progress:
    """One progress bar over one node's run, which stops the run when the user asked for that.

    doing: said on the node with how much of it is done, such as "decoding"; None: nothing is.
    """

    def __init__(self, total: int, doing: str | None = None) -> None:
        self.total, self.doing = total, doing
        self.began = time.monotonic()
        self.bar = comfy.utils.ProgressBar(total)

    def update(self, done: int) -> None:
        """Show `done` of `total`; raises core's InterruptProcessingException after an interrupt."""
        mm.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(done, self.total)
        if self.doing is not None and done:
            words = self.doing if self.total == 1 else f"{self.doing} {done} of {self.total}"
            left = (time.monotonic() - self.began) / done * (self.total - done)
            say(f"{words}, {clock_words(left)} left" if left >= 1 else words)


class StepProgress(Progress):
    """Progress of a sampling run, with a line of text on the node: who works, how far, how fast, how long."""

    def __init__(self, schedule: Schedule, plan: ExpertPlan, scales: Sequence[float]) -> None:
        """scales: the guidance of each step."""
        super().__init__(schedule.steps)
        self.time = TimeLeft(plan.experts, scales, self.began)
        self.taken: list[PlannedStep] = []
        # Where the first step will be, so that the page can show it before its expert is loaded.
        timestep, sigma = schedule.timesteps[0].item(), schedule.sigmas[0].item()
        tell_step(-1, self.total, plan.experts[0], timestep, sigma)

    def ready(self) -> None:
        """An expert has come in."""
        self.time.ready(time.monotonic())

    def step(self, info: StepInfo) -> None:
        """One step is done."""
        self.update(info.index + 1)
        self.time.step(time.monotonic())
        tell_step(info.index, self.total, info.expert, info.timestep, info.sigma)
        self.taken.append(taken_step(info))
        where = f"step {info.index + 1} of {self.total}, {self.time.pace:.1f} s per step"
        who = [] if info.expert == DENSE else [expert_words(info.expert)]
        saved = ["reused"] if info.skipped else []
        say(", ".join([*who, where, self._left(), *saved]))

    def _left(self) -> str:
        if self.time.done < self.total:
            return f"{clock_words(self.time.seconds)} left"
        return f"{clock_words(time.monotonic() - self.began)} in all"

    def finish(self) -> None:
        """All steps are done: say which were not computed as usual, if any."""
        if saved := saved_words(self.taken):
            say("; ".join(saved))
            log.info("; ".join(saved))


def expert_words(expert: str) -> str:
    """Who works, as people say it: high-noise expert."""
    return "model" if expert == DENSE else f"{expert.replace('_', '-')} expert"


def tell_step(index: int, total: int, expert: str, timestep: float, sigma: float) -> None:
    """Have the page know which step is done, -1 before the first, for what it draws on the Sampler."""
    server = listened_to()
    if server is not None:
        node = place_in_graph()["display_node_id"]
        said = {"index": index, "total": total, "expert": expert, "timestep": timestep, "sigma": sigma}
        server.send_sync("wancore.step", {"node": node, **said}, server.client_id)


def say(text: str) -> None:
    """One line of text on the node that runs, for whoever queued the graph and is looking."""
    server = listened_to()
    if server is not None:
        server.send_progress_text(text, get_executing_context().node_id, server.client_id)


def listened_to() -> Any | None:
    """ComfyUI's server, if a node runs that was queued by somebody who listens; else None."""
    if get_executing_context() is None:  # called as a function, without a graph
        return None
    from server import PromptServer  # half of ComfyUI, so only where it is there anyway

    return PromptServer.instance if PromptServer.instance.client_id is not None else None


def place_in_graph() -> dict[str, str | None]:
    """Where the node that runs is, in the words of ComfyUI's messages. In a subgraph ids look like "8:5"."""
    context, graph = get_executing_context(), get_progress_state().dynprompt
    return {
        "node_id": context.node_id,
        "prompt_id": context.prompt_id,
        "display_node_id": graph.get_display_node_id(context.node_id),
        "parent_node_id": graph.get_parent_node_id(context.node_id),
        "real_node_id": graph.get_real_node_id(context.node_id),
    }


def model_files(folder: str) -> list[str]:
    """What a loader lists: the names of the files in one of ComfyUI's model folders, GGUF among them.

    Core lists no GGUF, and keeps the lists it made by folder name, so ours has a name of its own. Of a model
    in pieces the first stands for all.
    """
    listed = f"wancore_{folder}"
    if listed not in folder_paths.folder_names_and_paths:
        paths, extensions = folder_paths.folder_names_and_paths[folder]
        folder_paths.folder_names_and_paths[listed] = (paths, {*extensions, ".gguf"})
    return [name for name in folder_paths.get_filename_list(listed) if not LATER_PIECE.search(name)]


def if_there(name: str, files: list[str]) -> str | None:
    """The default of a loader's list: `name`, or where it is missing None, which stands for the first."""
    return name if name in files else None


def model_path(folder: str, name: str) -> Path:
    """The file behind a name in a loader's list, or the one of its base name, as `local_file` finds it.

    Raises WanError where there is none, or several.
    """
    path = folder_paths.get_full_path(folder, local_file(folder, name))
    if path is None:
        raise WanError(
            f"{name}: there is no such file in models/{folder}; choose another or refresh the list"
        )
    return Path(path)


def local_file(folder: str, name: str) -> str:
    """How a loader's list names a file that a graph from another machine may name with other folders.

    Raises WanError where none or several have its base name.
    """
    return local_name(name, model_files(folder))


def file_state(*paths: Path) -> list[tuple[int, int]]:
    """Changes when one of the files does; ComfyUI then loads it again.

    No paths in it: core writes the answer into the graph that every saved video carries.
    """
    return [(path.stat().st_mtime_ns, path.stat().st_size) for path in paths]


def resting(tensor: Tensor) -> Tensor:
    """A node's tensor output, float32, where core keeps what waits between nodes."""
    return tensor.to(mm.intermediate_device(), torch.float32)
