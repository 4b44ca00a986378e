"""Real sizes on a CUDA device: step time, share of the matrix rate, memory, streaming, switch and VAEs.

Random bfloat16 weights are drawn on the device, and the peers compute with the very same tensors. A budget is
held by the allocator (`set_per_process_memory_fraction`): it emulates a smaller card's room, not its speed.
`--dry` walks the same code with toy sizes on the CPU, and writes nothing.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wan_core.checkpoints.layouts import LAYOUTS, TRANSFORMER
from wan_core.memory.choice import choose, weigh
from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.models.vae import make_vae
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import VAE22Config
from wan_core.pipeline import placed
from wan_core.speed import Speed, apply

from . import flops, machine, results
from .activations import A14B, TI2V_5B
from .contest import clock, say
from .live import LiveBytes
from .peers import comfyui, diffusers

GB = 1e9
BUDGETS = (8, 12, 16, 24)  # GB
CONTEXT = 0.5  # GB that the CUDA context takes beside the allocator
ROUNDS = 5
TEXT = 60
SIXTEEN_BIT = "16-bit"


@dataclass(frozen=True)
class Size:
    """A transformer and the latent (F, h, w) of a clip."""

    name: str
    words: str
    config: TransformerConfig
    latent: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        """Patches of 1 x 2 x 2 cells."""
        return self.latent[0] * self.latent[1] * self.latent[2] // 4


SIZES = (
    Size("A14B_480p", "A14B, 832 x 480 x 81", A14B, (21, 60, 104)),
    Size("A14B_720p", "A14B, 1280 x 720 x 81", A14B, (21, 90, 160)),
    Size("5B_704p", "5B, 1280 x 704 x 121", TI2V_5B, (31, 44, 80)),
)
VAES: tuple[tuple[str, VAEConfig | VAE22Config, tuple[int, int, int]], ...] = (
    ("vae21_480p", VAEConfig(), (81, 480, 832)),
    ("vae21_720p", VAEConfig(), (81, 720, 1280)),
    ("vae22_704p", VAE22Config(), (121, 704, 1280)),
)
TOY = TransformerConfig(dim=128, ffn_dim=256, num_heads=1, num_layers=6, text_dim=64)
DRY_SIZES = (Size("toy", "toy", TOY, (1, 4, 4)),)
DRY_VAES = (("toy_vae", VAEConfig(dim=8), (5, 16, 16)),)


@dataclass
class Bench:
    """Where it runs, and how time and memory are read there."""

    device: torch.device
    rounds: int
    budgets: tuple[float, ...]
    dtype: torch.dtype = torch.bfloat16
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator(self.device).manual_seed(0)

    def measure(self, call: Callable[[], object]) -> dict[str, list[float]]:
        """Seconds and peak bytes above what was there before, of each round; the first run is not kept."""
        found: dict[str, list[float]] = {"wall": [], "peak": []}
        for number in range(self.rounds + 1):
            seconds, peak = self.once(call)
            if number:
                found["wall"].append(round(seconds, 5))
                found["peak"].append(peak)
        return found

    def once(self, call: Callable[[], object]) -> tuple[float, int]:
        """(seconds, peak bytes) of one run."""
        if self.device.type == "cpu":
            begin = time.perf_counter()
            with torch.no_grad(), LiveBytes() as live:
                call()
            return time.perf_counter() - begin, live.peak
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        begin = time.perf_counter()
        with torch.no_grad():
            call()
        torch.cuda.synchronize()
        return time.perf_counter() - begin, torch.cuda.max_memory_allocated() - before

    def gemm_rate(self, size: int = 8192) -> float:
        """FLOP/s of a large matrix product in the compute dtype: what MFU is a share of."""
        size = size if self.device.type == "cuda" else 256
        a, b = (torch.randn(size, size, device=self.device, dtype=self.dtype) for _ in range(2))
        return 2 * size**3 / min(self.measure(lambda: torch.mm(a, b))["wall"])

    @contextmanager
    def limited(self, budget: float) -> Iterator[None]:
        """Only so many GB may be allocated."""
        self.free()
        if self.device.type == "cpu":
            yield
            return
        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (budget - CONTEXT) * GB / total))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def free(self) -> None:
        """Let go of what nobody holds."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def describe(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    parser.add_argument("--case", action="append", help="only these cases")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--budget", type=float, action="append", help="GB to stream in (default: 8 12 16 24)")
    parser.add_argument("--dry", action="store_true", help="toy sizes on the CPU, to try the code")
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="where the JSON goes")


def run(options: argparse.Namespace) -> int:
    """Measure, print, write; 1 where there is no CUDA device."""
    if not options.dry and not torch.cuda.is_available():
        say("gpu: there is no CUDA device here; run it on one, or try the code with --dry")
        return 1
    device = torch.device("cpu" if options.dry else "cuda")
    bench = Bench(device, options.rounds, tuple(options.budget or ((0.001,) if options.dry else BUDGETS)))
    record = None if options.dry else _record(options.results, bench)
    for name, count in _cases(bench, DRY_SIZES if options.dry else SIZES, DRY_VAES if options.dry else VAES):
        if options.case and name not in options.case:
            continue
        say(f"{clock()} {name}")
        try:
            row = {"name": name, "rounds": options.rounds, **count()}
        except torch.OutOfMemoryError as error:
            row = {"name": name, "words": f"out of memory: {str(error).splitlines()[0]}"}
        bench.free()
        say(_shown(row))
        if record is not None:
            record.add(row)
    return 0


def _record(folder: Path, bench: Bench) -> results.Record:
    record = results.Record("gpu", folder, machine.cores())
    properties = torch.cuda.get_device_properties(bench.device)
    record.head["machine"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GB"
    record.head["gemm"] = bench.gemm_rate()
    return record


def _cases(
    bench: Bench, sizes: tuple[Size, ...], vaes: tuple[Any, ...]
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    for size in sizes:
        yield size.name, lambda size=size: transformer(bench, size)
        yield f"{size.name}_stream", lambda size=size: streaming(bench, size)
    for name, config, clip in vaes:
        yield name, lambda config=config, clip=clip: vae(bench, config, clip)


# --- cases ------------------------------------------------------------------------------------------------


def transformer(bench: Bench, size: Size) -> dict[str, Any]:
    """One prediction, resident: ours, also with a 16-bit residual, and the peers on the same tensors."""
    network = draw(WanTransformer(size.config, device="meta", dtype=bench.dtype), bench)
    apply(network, Speed(), bench.device)
    latent, timestep, context = _inputs(bench, size)
    contestants: dict[str, dict[str, Any]] = {
        "wan_core": bench.measure(lambda: network(latent, timestep, context))
    }
    apply(network, Speed(residual=SIXTEEN_BIT), bench.device)
    contestants["wan_core, 16-bit residual"] = bench.measure(lambda: network(latent, timestep, context))
    for name, make in (("diffusers", _as_diffusers), ("comfyui", _as_comfyui)):
        bench.free()
        peer = make(network, bench, size)
        if peer is None:
            continue
        try:
            contestants[name] = bench.measure(peer)
        except torch.OutOfMemoryError:
            contestants[name] = {"failed": "out of memory"}
    words = f"one prediction of {size.words}, bfloat16; a step with guidance is two"
    return {"words": words, "flops": flops.prediction(size.config, size.tokens), "contestants": contestants}


def streaming(bench: Bench, size: Size) -> dict[str, Any]:
    """The same from weights on the host within budgets, and what bringing in another expert takes."""
    network = draw(WanTransformer(size.config, device="meta", dtype=bench.dtype), bench)
    apply(network, Speed(), bench.device)
    inputs = _inputs(bench, size)
    resident = bench.measure(lambda: network(*inputs))
    normal, work = statistics.median(resident["wall"]), max(resident["peak"])
    network.cpu()
    bench.free()
    weights = weigh({name: value.nbytes for name, value in network.state_dict().items()})
    facts = [_fact("a prediction with resident weights", normal, "s")]
    facts += _switch(bench, network, inputs, normal)
    for budget in bench.budgets:
        room = int((budget - CONTEXT) * GB)
        if bench.device.type == "cpu":  # half of the toy's blocks
            room = weights.total - weights.blocks[0] + int(work)
        residence = choose(weights, int(work), room)
        if residence is None:
            facts.append(_fact(f"{budget:g} GB: too little for", weights.total / GB, "GB of weights"))
            continue
        with bench.limited(budget), placed(network, residence, bench.device):
            found = bench.measure(lambda: network(*inputs))
        network.cpu()  # the blocks that stayed
        streamed = len(residence.streamed)
        seconds = statistics.median(found["wall"])
        words = f"{budget:g} GB, {streamed} of {len(weights.blocks)} blocks streamed"
        facts.append(_fact(f"{words}: time to resident", seconds / normal))
        facts.append(_fact(f"{words}: peak", (max(found["peak"]) + residence.device_bytes) / GB, "GB"))
    return {"words": f"weights streamed from the host, {size.words}", "facts": facts}


def vae(bench: Bench, config: VAEConfig | VAE22Config, clip: tuple[int, int, int]) -> dict[str, Any]:
    """A whole clip decoded frame by frame, in float32 and in bfloat16."""
    frames, height, width = clip
    ways = {
        "wan_core": (bench.dtype, None),
        "wan_core, caches on the host": (bench.dtype, "cpu"),
        "wan_core, float32": (torch.float32, None),
    }
    contestants = {}
    for name, (dtype, cache_device) in ways.items():
        network = draw(make_vae(config, device="meta", dtype=dtype), bench)
        stride = network.stride
        shape = (1, config.latent_channels, (frames - 1) // 4 + 1, height // stride[1], width // stride[2])
        latent = _draw(shape, bench, 1.0).to(dtype)
        contestants[name] = bench.measure(partial(_decode, network, latent, cache_device))
        del network
        bench.free()
    words = f"decode of {frames} frames of {width} x {height}, streamed, bfloat16"
    return {"words": words, "flops": flops.decode(config, frames, height, width), "contestants": contestants}


def _decode(network: Any, latent: Tensor, cache_device: str | None) -> None:
    for chunk in network.decode_chunks(latent, cache_device):
        del chunk


def _switch(bench: Bench, network: Any, inputs: Any, normal: float) -> Iterator[dict[str, Any]]:
    """Weights from the host's memory to the device, and the first prediction with them."""
    residence = choose(weigh({name: value.nbytes for name, value in network.state_dict().items()}), 0, None)
    assert residence is not None

    def turn() -> None:
        with placed(network, residence, bench.device):
            network(*inputs)

    seconds, _ = bench.once(turn)
    network.cpu()
    bench.free()
    yield _fact("an expert brought in and its first prediction, to a prediction", seconds / normal)


# --- networks ---------------------------------------------------------------------------------------------


def draw(network: Any, bench: Bench) -> Any:
    """A network from meta with random weights on the device: zeros would be faster than real ones."""
    network = network.to_empty(device=bench.device).eval().requires_grad_(False)
    for name, value in network.named_parameters():
        scale = 0.02 if value.ndim < 2 or "modulation" in name else value[0].numel() ** -0.5
        value.normal_(0.0, scale, generator=bench.generator)
        if ("norm" in name and name.endswith("weight")) or name.endswith("gamma"):
            value.add_(1.0)
    return network


def _as_diffusers(network: nn.Module, bench: Bench, size: Size) -> Callable[[], object] | None:
    if diffusers.version() is None:
        return None
    with torch.device("meta"):
        peer = diffusers.transformer(size.config)
    rename = next(one.rename for one in LAYOUTS if (one.family, one.name) == (TRANSFORMER, "diffusers"))
    ours = network.state_dict()
    peer.load_state_dict({name: ours[rename(name)] for name in peer.state_dict()}, assign=True)
    peer.rope = type(peer.rope)(size.config.dim // size.config.num_heads, size.config.patch_size, 1024)
    peer.rope.to(bench.device)
    latent, timestep, context = _inputs(bench, size)
    context = nn.functional.pad(context, (0, 0, 0, size.config.text_len - context.shape[1]))
    if size.config.in_channels == 48:  # its pipeline gives 5B a timestep per token, always
        timestep = timestep.expand(1, size.tokens)
    timestep = timestep.to(bench.device)
    return lambda: peer(latent, timestep, context, return_dict=False)


def _as_comfyui(network: nn.Module, bench: Bench, size: Size) -> Callable[[], object] | None:
    if comfyui.version() is None:
        return None
    peer = comfyui.transformer(size.config, "meta", bench.dtype)
    ours = network.state_dict()
    first = {name: value.float() for name, value in ours.items() if name.startswith("patch_embedding.")}
    peer.load_state_dict(ours | first, assign=True)
    latent, timestep, context = _inputs(bench, size)
    context = nn.functional.pad(context, (0, 0, 0, size.config.text_len - context.shape[1]))
    timestep = timestep.to(bench.device)
    return lambda: peer(latent, timestep, context, transformer_options={})


def _inputs(bench: Bench, size: Size) -> tuple[Tensor, Tensor, Tensor]:
    latent = _draw((1, size.config.in_channels, *size.latent), bench, 1.0)
    return latent, torch.tensor([875.0]), _draw((1, TEXT, size.config.text_dim), bench, 1.0)


def _draw(shape: tuple[int, ...], bench: Bench, scale: float) -> Tensor:
    values = torch.empty(shape, device=bench.device, dtype=bench.dtype)
    return values.normal_(0.0, scale, generator=bench.generator)


def _fact(words: str, value: float, unit: str = "") -> dict[str, Any]:
    return {"words": words, "value": value, "unit": unit}


def _shown(row: dict[str, Any]) -> str:
    lines = [f"  {row['words']}"]
    for name, one in row.get("contestants", {}).items():
        found = one.get("failed") or (
            f"{statistics.median(one['wall']):.3f} s, peak {max(one['peak']) / GB:.2f} GB"
        )
        lines.append(f"  {name}: {found}")
    lines += [f"  {fact['words']}: {fact['value']:.3g} {fact['unit']}" for fact in row.get("facts", [])]
    return "\n".join(lines)
