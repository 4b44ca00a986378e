"""Whole runs on devices of every size, inside ComfyUI's own Python: run by test_memory.py as

    <ComfyUI's python> inside_memory.py <ComfyUI> <pack> <models folder>

The last line of stdout is JSON.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import inside_comfyui as inside  # starts ComfyUI; beside this script, so on the path
import torch
from inside_comfyui import handles, mm, nodes
from torch import Tensor, nn

denormalize = importlib.import_module("pack_under_test.wan_core.models.latent_scale").denormalize_latent
checkpoint = importlib.import_module("pack_under_test.wan_core.checkpoints.checkpoint")
mapped = importlib.import_module("pack_under_test.nodes.mapped")
text_encode = importlib.import_module("pack_under_test.nodes.text_encode")
live_spec = importlib.util.spec_from_file_location("live", inside.PACK / "bench" / "live.py")
live = importlib.util.module_from_spec(live_spec)
live_spec.loader.exec_module(live)
VAE = inside.MODELS / "vae" / "wan_tiny_vae.safetensors"
VAE_2_2 = inside.MODELS / "vae" / "wan_tiny_vae_2_2.safetensors"
TI2V = inside.MODELS / "diffusion_models" / "wan_tiny_ti2v.safetensors"
MID_HIGH, MID_LOW, MID_TI2V = (
    inside.MODELS / "diffusion_models" / f"mid_{name}.safetensors"
    for name in ("high_noise", "low_noise", "ti2v")
)
MID_VAE, MID_VAE_2_2 = (inside.MODELS / "vae" / f"mid_vae{kind}.safetensors" for kind in ("", "_2_2"))
# What the device has, in experts: room for all models, for all but one or two, then ever less of one.
BUDGETS = {"all": 8.0, "three": 3.0, "one": 1.3, "half": 0.6, "little": 0.2, "nothing": 0.0}


class Watch:
    """Core's loading and pinning, noted while they go on."""

    def __init__(self, models: dict[str, Any]) -> None:
        self.models = models
        self.loads: list[dict[str, Any]] = []
        self.pinned: dict[int, int] = {}
        self.most_pinned = 0
        self.read_ahead = checkpoint.Checkpoint.read_ahead
        checkpoint.Checkpoint.read_ahead = lambda *arguments: self.note_ahead(*arguments)
        self.load_models_gpu = mm.load_models_gpu
        mm.load_models_gpu, mm.pin_memory, mm.unpin_memory = self.load, self.pin, self.unpin

    def load(self, patchers: list[Any], memory_required: int = 0) -> None:
        """As core does, with a note of where every model's weights are afterwards."""
        self.load_models_gpu(patchers, memory_required=memory_required)
        (asked,) = [name for name, model in self.models.items() if model is patchers[0]]
        self.loads.append(
            {
                "asked": asked,
                "ahead": [],
                "loaded": {name: model.loaded_size() for name, model in self.models.items()},
                "copied": {name: copied(model) - model.loaded_size() for name, model in self.models.items()},
            }
        )

    def note_ahead(self, file: Any, limit: int) -> Any:
        """Note under the last model loaded which file is read while that is at work."""
        self.loads[-1]["ahead"].append([file.path.name, limit])
        ahead = self.read_ahead(file, limit)
        ahead.wait()
        return ahead

    def pin(self, tensor: Tensor) -> bool:
        """As core does: what is pinned already is passed over."""
        place = mapped._place(tensor)
        if place in self.pinned:
            return False
        self.pinned[place] = tensor.nbytes
        self.most_pinned = max(self.most_pinned, sum(self.pinned.values()))
        return True

    def unpin(self, tensor: Tensor) -> bool:
        return self.pinned.pop(mapped._place(tensor), None) is not None

    def end(self) -> None:
        mm.load_models_gpu = self.load_models_gpu
        checkpoint.Checkpoint.read_ahead = self.read_ahead


def copied(patcher: Any) -> int:
    """Bytes of a model's layers that lie outside its file's pages: on the device, or copied to memory."""
    layers = (layer for layer in patcher.model.modules() if hasattr(layer, "comfy_cast_weights"))
    values = (value for layer in layers for value in layer.parameters(recurse=False))
    return sum(value.nbytes for value in values if not mapped.is_mapped(value))


def estimates() -> dict[str, list[float]]:
    """By kind of work: what core is asked to keep free, and what the work takes, both in bytes."""
    long = " ".join([inside.PROMPT] * 6)
    encoder = handles.load_text_encoder(inside.TEXT_ENCODER)
    answer = {
        "short prompt": peak(encoder.encode, "positive", inside.PROMPT),
        "long prompt": peak(encoder.encode, "positive", long),
    }
    texts = nodes.WanCoreTextEncode.execute(encoder, inside.PROMPT, long).args
    for name, file, low, sizes in (
        ("t2v", inside.HIGH, inside.LOW, (16, 48)),
        ("ti2v", TI2V, None, (16, 48)),
        ("mid-size t2v", MID_HIGH, MID_LOW, (48,)),
        ("mid-size ti2v", MID_TI2V, None, (48,)),
    ):
        model = handles.load_model(file, low, None)
        for cells in sizes:
            answer[f"{name} {cells}"] = peak(sample, model, texts, empty_latent(model, cells))
    for name, file, channels, scale, sizes in (
        ("vae", VAE, 16, 8, (6, 12)),
        ("vae 2.2", VAE_2_2, 48, 16, (6, 12)),
        ("mid-size vae", MID_VAE, 16, 8, (8,)),
        ("mid-size vae 2.2", MID_VAE_2_2, 48, 16, (8,)),
    ):
        vae = handles.load_vae(file)
        for cells in sizes:
            latent = torch.zeros(1, channels, 3, cells, cells)
            video = torch.zeros(1, 3, 9, scale * cells, scale * cells).split([1, 4, 4], dim=2)
            answer[f"{name} decode {cells}"] = peak(decode, vae, latent)
            answer[f"{name} encode {cells}"] = peak(vae.encode, video)
    return answer


def peak(work: Callable[..., object], *arguments: Any) -> list[float]:
    """What core is asked for, and the bytes of live tensors at the worst moment."""
    asked = []
    load_models_gpu = mm.load_models_gpu
    mm.load_models_gpu = lambda _, memory_required=0: asked.append(memory_required)
    with torch.inference_mode(), live.LiveBytes() as counted:
        work(*arguments)
    mm.load_models_gpu = load_models_gpu
    return [asked[-1], counted.peak]


def decode(vae: Any, latent: Tensor) -> None:
    """All frames, none of which is kept."""
    for _ in vae.decode(latent):
        pass


def empty_latent(model: Any, cells: int) -> dict[str, Tensor]:
    """Three latent frames, of which TI2V keeps the first, as after Image to Video."""
    zero = denormalize(torch.zeros(1, model.variant.latent_channels, 3, cells, cells))
    if model.variant.boundary is not None:
        return {"samples": torch.zeros_like(zero)}
    mask = torch.ones(1, 1, 3, cells, cells)
    mask[:, :, 0] = 0
    return {"samples": zero, "noise_mask": mask}


def every_budget() -> dict[str, Any]:
    """Two runs, and another node's model between them, on devices of every size."""
    size = inside.HIGH.stat().st_size
    answer: dict[str, Any] = {}
    expected = None
    for name, share in BUDGETS.items():
        answer[name], made = two_runs(budget := int(share * size) + (1 << 17))
        expected = expected or made
        distances = [inside.distance(ours, theirs) for ours, theirs in zip(made, expected, strict=True)]
        answer[name] |= {"budget": budget, "distances": distances}
    return answer


def two_runs(budget: int) -> tuple[dict[str, Any], list[Tensor]]:
    """The same graph twice with two seeds, its loaders cached; what was seen, and both latents and videos."""
    encoder, vae = handles.load_text_encoder(inside.TEXT_ENCODER), handles.load_vae(VAE)
    model, other = handles.load_model(inside.HIGH, inside.LOW, None), another_node_s()
    models = {"text": encoder.patcher, "vae": vae.patcher, "other": other}
    models |= {name: expert.patcher for name, expert in model.experts.items()}
    inside.give_memory(budget, models.values())
    watch, made = Watch(models), []
    text_encode._made.clear()  # one file has one encoder, which might remember the run before
    with torch.inference_mode():
        texts = nodes.WanCoreTextEncode.execute(encoder, inside.PROMPT, "").args
        for seed in (1, 2):
            mm.load_models_gpu([other])
            again = handles.load_model(inside.HIGH, inside.LOW, None)  # as a second loader of the same files
            latent = nodes.WanCoreEmptyVideoLatent.execute(32, 32, 5)[0]
            made.append(sample(again, texts, latent, seed))
            made.append(nodes.WanCoreDecode.execute({"samples": made[-1]}, vae)[0])
    mm.unload_all_models()
    watch.end()
    seen = {
        "sizes": {name: model.model_size() for name, model in models.items()},
        "loads": watch.loads,
        "most_pinned": watch.most_pinned,
        "left": {
            "loaded": sum(model.loaded_size() for model in models.values()),
            "copied": {name: copied(model) for name, model in models.items() if name != "other"},
            "pinned": sum(watch.pinned.values()),
        },
    }
    return seen, made


def sample(model: Any, texts: Any, latent: dict[str, Tensor], seed: int = 1) -> Tensor:
    return nodes.WanCoreSampler.execute(model, *texts, latent, seed, 4, 12.0, 0.9, 2.0, 2.0, "unipc")[0][
        "samples"
    ]


def another_node_s() -> Any:
    """A model that some other node has in core's care."""
    layers = nn.Sequential(*(inside.comfy.ops.manual_cast.Linear(512, 512) for _ in range(4)))
    return inside.comfy.model_patcher.CoreModelPatcher(layers, DEVICE, torch.device("cpu"))


def in_bfloat16() -> dict[str, float]:
    """How far a VAE that computes in bfloat16 is from one in float32."""
    vae = handles.load_vae(VAE, "bfloat16, half the memory")
    lean = dataclasses.replace(vae, dtype=torch.bfloat16)  # which a CPU does not get by itself
    video = torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        latents = [each.encode(video.split([1, 4], dim=2)) for each in (lean, vae)]
        videos = [torch.cat(list(each.decode(latents[1]))) for each in (lean, vae)]
    return {
        "on a CPU": str(vae.dtype),
        "encode": inside.distance(*latents),
        "decode": inside.distance(*videos),
    }


def out_of_memory() -> dict[str, Any]:
    """Decoding where memory runs out at the second latent frame: what comes of it, and what is said."""
    latent = torch.randn(1, 16, 3, 16, 8, generator=torch.Generator().manual_seed(1))
    vae_device, mm.vae_device = mm.vae_device, mm.get_torch_device
    vae = handles.load_vae(VAE)
    mm.vae_device = vae_device
    inside.give_memory(1 << 40)
    whole, tiled, say = vae.module.decode_chunks, handles.decode_tiled, inside.hosting.say
    expected, answer = torch.cat(list(vae.decode(latent))), {}
    for last, fewest in (("caches", 1), ("tiles", 2)):
        said: list[str] = []
        inside.hosting.say = said.append
        vae.module.decode_chunks = failing(whole)
        handles.decode_tiled = lambda *arguments, fewest=fewest, **more: (
            tiled if len(arguments[2]) >= fewest else failing(tiled)
        )(*arguments, **more)
        made = list(vae.decode(latent))
        answer[last] = {
            "frames": [len(chunk) for chunk in made],
            "distance": inside.distance(torch.cat(made), expected),
            "said": [line for line in said if line.startswith("loading")],
        }
    handles.decode_tiled = failing(tiled)
    answer["always"] = raised(vae, latent)
    vae.module.decode_chunks = failing(whole, ValueError)
    answer["another"] = raised(vae, latent)
    vae.module.decode_chunks, handles.decode_tiled, inside.hosting.say = whole, tiled, say
    return answer


def failing(
    decode: Callable[..., Any], error: type[Exception] = torch.OutOfMemoryError
) -> Callable[..., Any]:
    """A way to decode that breaks off after a chunk."""

    def chunks(*arguments: Any, **more: Any) -> Any:
        yield next(iter(decode(*arguments, **more)))
        raise error("injected")

    return chunks


def raised(vae: Any, latent: Tensor) -> str | None:
    """The name of the error that decoding ends with."""
    try:
        decode(vae, latent)
    except (torch.OutOfMemoryError, ValueError) as error:
        return type(error).__name__
    return None


class Sink:
    """An output node that keeps what it is given."""

    FUNCTION, OUTPUT_NODE, CATEGORY, RETURN_TYPES = "take", True, "test", ()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - core's name
        return {"required": {"latent": ("LATENT",)}}

    def take(self, latent: Any) -> dict[str, Any]:
        return {"ui": {"latent": [latent["samples"].sum().item()]}}


def through_the_queue() -> dict[str, Any]:
    """Two samplers that share their loaders, queued twice with other seeds: what is loaded and encoded."""
    core = importlib.import_module("nodes")
    execution, server = importlib.import_module("execution"), importlib.import_module("server")
    for folder in ("diffusion_models", "text_encoders"):
        inside.folder_paths.add_model_folder_path(folder, str(inside.MODELS / folder), is_default=True)
    said: list[str] = []
    server.PromptServer.instance = SimpleNamespace(
        client_id="c",
        last_node_id=None,
        last_prompt_id=None,
        sockets_metadata={},
        send_sync=lambda *_: None,
        send_progress_text=lambda text, *_: said.append(text),
    )
    ours = asyncio.run(nodes.WanCoreExtension().get_node_list())
    core.NODE_CLASS_MAPPINGS |= {node.GET_SCHEMA().node_id: node for node in ours} | {"Sink": Sink}
    inside.give_memory(1 << 30)
    executor = execution.PromptExecutor(
        server.PromptServer.instance,
        cache_type=execution.CacheType.CLASSIC,
        cache_args={"ram": 0, "ram_inactive": 0, "lru": 0},
    )
    text_encode._made.clear()
    counts, sums = Counter[str](), []
    count_calls(counts)
    for seeds in ((1, 2), (3, 4)):
        graph = two_samplers(*seeds)
        ok, error, outputs, faults = asyncio.run(execution.validate_prompt("p", graph, None))
        assert ok, (error, faults)
        executor.execute(graph, "p", {"client_id": "c"}, outputs)
        assert executor.success, executor.status_messages
        sums += [output["latent"][0] for output in executor.history_result["outputs"].values()]
    return {"counts": counts, "sums": sums, "said": [line for line in said if line.startswith("loading")]}


def count_calls(counts: Counter[str]) -> None:
    """Count how often files are opened, prompts read, and bytes brought to the device, by model."""
    load = inside.comfy.model_patcher.ModelPatcher.load
    encode = handles.TextEncoderHandle.encode

    def counted_load(patcher: Any, *arguments: Any, **more: Any) -> None:
        before = patcher.loaded_size()
        load(patcher, *arguments, **more)
        if patcher.loaded_size() > before:
            counts[f"loaded {type(patcher.model).__name__}"] += 1

    def counted_encode(handle: Any, *arguments: Any) -> Any:
        counts["encoded"] += 1
        return encode(handle, *arguments)

    inside.comfy.model_patcher.ModelPatcher.load = counted_load
    handles.TextEncoderHandle.encode = counted_encode
    for module, name in (("load_model", "load_model"), ("load_text_encoder", "load_text_encoder")):
        node = importlib.import_module(f"pack_under_test.nodes.{module}")
        opened = getattr(node, name)

        def counted(*arguments: Any, opened: Any = opened, name: str = name) -> Any:
            counts[name] += 1
            return opened(*arguments)

        setattr(node, name, counted)


def two_samplers(*seeds: int) -> dict[str, Any]:
    """The API-format graph."""
    graph: dict[str, Any] = {
        "model": node(
            "WanCoreLoadModel",
            high_noise_model=inside.HIGH.name,
            low_noise_model="auto (partner of the high-noise file)",
            weight_dtype="auto",
        ),
        "encoder": node("WanCoreLoadTextEncoder", text_encoder_name=inside.TEXT_ENCODER.name),
        "texts": node("WanCoreTextEncode", text_encoder=["encoder", 0], positive=inside.PROMPT, negative=""),
        "empty": node("WanCoreEmptyVideoLatent", width=32, height=32, frames=5),
    }
    sizes = {"steps": 4, "shift": 12.0, "boundary": 0.9, "cfg_high": 2.0, "cfg_low": 2.0}
    links = {
        "model": ["model", 0],
        "positive": ["texts", 0],
        "negative": ["texts", 1],
        "latent": ["empty", 0],
    }
    for seed in seeds:
        graph[f"sampler {seed}"] = node("WanCoreSampler", **links, **sizes, seed=seed, scheduler="euler")
        graph[f"sink {seed}"] = node("Sink", latent=[f"sampler {seed}", 0])
    return graph


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {}}


if __name__ == "__main__":
    estimated, lean = estimates(), in_bfloat16()
    DEVICE = inside.pretend_a_gpu()
    mm.should_use_fp16 = mm.should_use_bf16 = lambda *_, **__: False  # so it computes in float32
    mm.MIN_WEIGHT_MEMORY_RATIO = 0.0  # as on NVIDIA cards
    answers = {
        "estimates": estimated,
        "in_bfloat16": lean,
        "out_of_memory": out_of_memory(),
        "every_budget": every_budget(),
        "through_the_queue": through_the_queue(),
    }
    mm.unload_all_models()
    inside.give_memory(4_700_000)
    expert = handles.load_model(inside.HIGH, inside.LOW, None).experts["high_noise"]
    answers["tight"] = inside.hosting.memory_line(expert.patcher, 1 << 17)
    sys.stdout.write(json.dumps(answers) + "\n")
