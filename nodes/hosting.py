"""The bridge to ComfyUI: where networks live, how they get memory, how progress and interruption travel.

`wan_core` knows nothing of ComfyUI. What core offers is handed to it from here: layer classes that stream and
cast their weights (`comfy.ops`), a patcher that decides what is resident, and the user's wish to stop.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
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
from comfy_execution.utils import get_executing_context
from torch import Tensor, nn

from ..wan_core.checkpoints import Checkpoint, audit, fill
from ..wan_core.errors import WanError
from ..wan_core.sampling.denoise import StepInfo
from ..wan_core.variants.variant import DENSE
from .quantized import into_core

# As Hugging Face's tools number them: model-00002-of-00006.safetensors.
LATER_PIECE = re.compile(r"-(?!0*1-)\d+-of-\d+\.\w+$")

# Layers that cast each weight to its input's dtype and device on use, and look for an interrupt each time.
CORE_LAYERS = comfy.ops.manual_cast


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

    def load(self, activation_bytes: int) -> None:
        """Make room for the network and for `activation_bytes` of work, evicting others as core sees fit."""
        mm.load_models_gpu([self.patcher], memory_required=activation_bytes)


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
    well. Raises WanError for a file that does not fit the network.
    """
    # Core's layers may have no weights before they are loaded, so a plain twin is compared with the file.
    audit(network(config, device="meta"), checkpoint.header, checkpoint.file)
    module = network(config, ops=CORE_LAYERS, device="meta")
    fill(module, checkpoint, dtype)
    into_core(module, checkpoint, device, compute_dtype)
    module.requires_grad_(False).train(False)
    mm.archive_model_dtypes(module)
    # Looked up at this moment: core binds the name anew while it starts.
    patcher = comfy.model_patcher.CoreModelPatcher(module, load_device=device, offload_device=resting_device)
    return Hosted(patcher)


class Progress:
    """One progress bar over one node's run, which stops the run when the user asked for that."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.bar = comfy.utils.ProgressBar(total)

    def update(self, done: int) -> None:
        """Show `done` of `total`; raises core's InterruptProcessingException after an interrupt."""
        mm.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(done, self.total)


class StepProgress(Progress):
    """Progress of a sampling run, with a line of text on the node: who works, how far, how fast."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        self.since = 0.0  # when the working expert was ready
        self.steps = 0  # it has done

    @contextmanager
    def loading(self, expert: str) -> Iterator[None]:
        """While an expert comes in."""
        say(f"loading the {expert_words(expert)}")
        yield
        self.since, self.steps = time.monotonic(), 0

    def step(self, info: StepInfo) -> None:
        """One step is done."""
        self.update(info.index + 1)
        self.steps += 1
        pace = (time.monotonic() - self.since) / self.steps
        say(f"step {info.index + 1} of {info.total}, {expert_words(info.expert)}, {pace:.1f} s per step")


def expert_words(expert: str) -> str:
    """Who works, as people say it: high-noise expert."""
    return "model" if expert == DENSE else f"{expert.replace('_', '-')} expert"


def say(text: str) -> None:
    """One line of text on the node that runs, for whoever queued the graph and is looking."""
    node = get_executing_context()
    if node is None:  # called as a function, without a graph
        return
    from server import PromptServer  # half of ComfyUI, so only where it is there anyway

    if PromptServer.instance.client_id is not None:
        PromptServer.instance.send_progress_text(text, node.node_id, PromptServer.instance.client_id)


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
    """The file behind a name in a loader's list. Raises WanError when it is gone."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise WanError(
            f"{name}: there is no such file in models/{folder}; choose another or refresh the list"
        )
    return Path(path)


def file_state(*paths: Path) -> list[tuple[int, int]]:
    """Changes when one of the files does; ComfyUI then loads it again.

    No paths in it: core writes the answer into the graph that every saved video carries.
    """
    return [(path.stat().st_mtime_ns, path.stat().st_size) for path in paths]


def resting(tensor: Tensor) -> Tensor:
    """A node's tensor output, float32, where core keeps what waits between nodes."""
    return tensor.to(mm.intermediate_device(), torch.float32)
