"""One LoRA file against one network: which tensors change which layer, and why the others do not."""

from __future__ import annotations

import functools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import WanError, shown
from ..models.transformer import TransformerConfig, WanTransformer
from ..variants.variant import HIGH_NOISE
from .adapters import Delta, Dense, Hadamard, Kronecker, LowRank, tucker
from .keys import LayerNames, Place, parse_key

Parts = Mapping[str, Tensor]
Factor = Callable[[int], float]  # an adapter's rank to the number that scales it

UNMATCHED = "unmatched"
OTHER_SHAPE = "layer of another shape"  # how the reason begins
DORA = "DoRA, which needs the weights themselves"


# --- what comes out ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What an adapter does to one parameter of a module: its "weight", "bias" or "modulation"."""

    layer: str
    part: str
    delta: Delta
    strength: float = 1.0

    @property
    def parameter(self) -> str:
        """The parameter's name in the state dict."""
        return f"{self.layer}.{self.part}"


@dataclass(frozen=True)
class Outcome:
    """What became of one adapter, or of a tensor that belongs to none: changes, or the reason why not.

    `names` are its stored tensors; `expert` is whose it is, where the file says so.
    """

    names: tuple[str, ...]
    changes: tuple[Change, ...] = ()
    reason: str | None = None
    expert: str | None = None


# --- what goes in -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scaling:
    """How strong an adapter is that has no alpha among its tensors; peft says so beside them.

    `by_layer` maps the ends of layers' names to alphas. rs-LoRA divides by the square root of the rank, which
    no tensor shows.
    """

    alpha: float | None = None
    by_layer: Mapping[str, float] = field(default_factory=dict)
    rank_stabilized: bool = False

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Scaling:
        """From peft's LoraConfig as a table; what is no number there counts as not said."""
        alpha, by_layer = config.get("lora_alpha"), config.get("alpha_pattern")
        by_layer = by_layer if isinstance(by_layer, dict) else {}
        return cls(
            alpha=float(alpha) if isinstance(alpha, int | float) else None,
            by_layer={end: float(value) for end, value in by_layer.items() if isinstance(value, int | float)},
            rank_stabilized=config.get("use_rslora") is True,
        )

    def factor(self, stem: str, rank: int) -> float:
        """The factor of one adapter; 1 where nothing is said, as if alpha were the rank."""
        named = (alpha for end, alpha in self.by_layer.items() if f".{stem}".endswith(f".{end}"))
        alpha = next(named, self.alpha)
        return 1.0 if alpha is None else alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


class Network:
    """The layers of a transformer that a LoRA may change, with their shapes; no weights."""

    def __init__(self, config: TransformerConfig) -> None:
        state = WanTransformer(config, device="meta").state_dict()
        self.shapes = {name: tuple(value.shape) for name, value in state.items()}
        self.names = LayerNames({re.sub(r"\.(?:weight|bias)$", "", name) for name in self.shapes})


@functools.lru_cache(maxsize=4)
def network_of(config: TransformerConfig) -> Network:
    """The layers of a network of this shape."""
    return Network(config)


# --- the fitting ------------------------------------------------------------------------------------------


def fit(file: str, tensors: Parts, network: Network, scaling: Scaling) -> list[Outcome]:
    """Find the place of every tensor. Raises WanError for one that is NaN or no plain float."""
    adapters: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # (stem, adapter) -> part -> name
    alphas: dict[str, str] = {}  # stem -> name; adapters of one layer share it
    outcomes: list[Outcome] = []
    for name in tensors:
        key = parse_key(name)
        if key is None:
            place = network.names.find(name)
            outcomes.append(Outcome((name,), reason=place if isinstance(place, str) else UNMATCHED))
        elif key.part == "alpha":
            alphas[key.stem] = name
        else:
            adapters[key.stem, key.adapter][key.part] = name

    places = {stem: network.names.find(stem) for stem in [stem for stem, _ in adapters] + list(alphas)}
    has_experts = any(isinstance(place, Place) and place.expert for place in places.values())
    by_stem: dict[str, list[Outcome]] = defaultdict(list)
    for (stem, _), names in adapters.items():
        place = places[stem]
        if not isinstance(place, Place):
            by_stem[stem].append(Outcome(tuple(names.values()), reason=place or UNMATCHED))
            continue
        expert = HIGH_NOISE if place.first and has_experts else place.expert
        parts = {part: _numbers(file, name, tensors[name]) for part, name in names.items()}
        factor = functools.partial(scaling.factor, stem)
        if stem in alphas:
            factor = functools.partial(_over_rank, file, alphas[stem], tensors[alphas[stem]])
        by_stem[stem] += _adapter(place.layer, names, parts, factor, network, expert)
    for stem, name in alphas.items():
        # An alpha shares its adapter's fate, and without one is nothing.
        alone = Outcome((), reason=UNMATCHED)
        fate = min(by_stem[stem], key=lambda one: one.reason is not None, default=alone)
        by_stem[stem].append(Outcome((name,), reason=fate.reason, expert=fate.expert))
    return outcomes + [outcome for group in by_stem.values() for outcome in group]


def _adapter(
    layer: str, names: Mapping[str, str], parts: Parts, factor: Factor, network: Network, expert: str | None
) -> list[Outcome]:
    """What one layer's tensors do to it: an adapter, and perhaps a changed bias beside it."""
    if "dora" in parts:
        return [Outcome(tuple(names.values()), reason=DORA, expert=expert)]
    outcomes = []
    for own, read in _KINDS:
        held = {part: parts[part] for part in parts if own.match(part)}
        if not held:
            continue
        stored = tuple(names[part] for part in held)
        try:
            changes = tuple(read(layer, held, factor))
            for change in changes:
                _check_shape(change, network.shapes)
        except _Unfit as fault:
            outcomes.append(Outcome(stored, reason=str(fault), expert=expert))
        else:
            outcomes.append(Outcome(stored, changes, expert=expert))
    return outcomes


class _Unfit(Exception):  # noqa: N818 (no error: the reason why a part of a file is left out)
    """An adapter that cannot be used; the message says what it is."""


def _lora(layer: str, parts: Parts, factor: Factor) -> list[Change]:
    up, down = _both(parts, "up", "down")
    rank, inner = len(down), down.flatten(1)
    if "mid" in parts:
        core = parts["mid"]
        if core.ndim < 2 or tuple(core.shape[:2]) != (up.shape[1], rank):
            raise _Unfit("adapter whose factors do not fit each other")
        inner = torch.einsum("mn...,ni->mi...", core.float(), inner.float()).flatten(1)
    changes = [Change(layer, "weight", _low_rank(up, inner, factor(rank)))]
    if "up_bias" in parts:
        changes.append(Change(layer, "bias", Dense(factor(rank) * parts["up_bias"].float())))
    return changes


def _loha(layer: str, parts: Parts, factor: Factor) -> list[Change]:
    first, second = _both(parts, "hada_w1_a", "hada_w1_b"), _both(parts, "hada_w2_a", "hada_w2_b")
    scale = factor(len(first[1]))
    if "hada_t1" in parts or "hada_t2" in parts:
        cores = _both(parts, "hada_t1", "hada_t2")
        product = _tucker(cores[0], *first) * _tucker(cores[1], *second)
        return [Change(layer, "weight", Dense(scale * product))]
    delta = Hadamard(_low_rank(*first, scale), _low_rank(*second, 1.0))
    if delta.first.shape != delta.second.shape:
        raise _Unfit("adapter whose factors do not fit each other")
    return [Change(layer, "weight", delta)]


def _lokr(layer: str, parts: Parts, factor: Factor) -> list[Change]:
    """Alpha counts only where a side is split in two, and is over the rank of that split (LyCORIS)."""
    whole = [name for name in ("lokr_w1", "lokr_w2") if name in parts]
    if whole == ["lokr_w1", "lokr_w2"]:
        outer, inner = (Dense(_matrix(parts[name])) for name in whole)
        return [Change(layer, "weight", Kronecker(outer, inner))]
    if "lokr_w2" in parts:
        pair = _both(parts, "lokr_w1_a", "lokr_w1_b")
        delta = Kronecker(_low_rank(*pair, factor(len(pair[1]))), Dense(_matrix(parts["lokr_w2"])))
        return [Change(layer, "weight", delta)]
    pair = _both(parts, "lokr_w2_a", "lokr_w2_b")
    scale = factor(len(pair[1]))
    inner = (
        Dense(scale * _tucker(parts["lokr_t2"], *pair).flatten(1))
        if "lokr_t2" in parts
        else _low_rank(*pair, scale)
    )
    outer = (
        Dense(_matrix(parts["lokr_w1"]))
        if "lokr_w1" in parts
        else _low_rank(*_both(parts, "lokr_w1_a", "lokr_w1_b"), 1.0)
    )
    return [Change(layer, "weight", Kronecker(outer, inner))]


def _difference(layer: str, parts: Parts, _: Factor) -> list[Change]:
    owner, _, last = layer.rpartition(".")
    if last == "modulation":  # a parameter of the block itself
        return [Change(owner, last, Dense(parts["diff"]))]
    return [Change(layer, "weight", Dense(parts["diff"]))]


def _bias_difference(layer: str, parts: Parts, _: Factor) -> list[Change]:
    return [Change(layer, "bias", Dense(parts["diff_b"]))]


_KINDS = (
    (re.compile(r"(?:up|down|mid|up_bias)$"), _lora),
    (re.compile(r"hada_"), _loha),
    (re.compile(r"lokr_"), _lokr),
    (re.compile(r"diff$"), _difference),
    (re.compile(r"diff_b$"), _bias_difference),
)


def _check_shape(change: Change, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if change.parameter not in shapes:
        raise _Unfit(f"change of a {change.part} that its layer does not have")
    expected = shapes[change.parameter]
    exact = isinstance(change.delta, Dense)
    found = tuple(change.delta.value.shape) if exact else change.delta.shape
    # a convolution's factors are matrices over all it reads: (O, I * kernel)
    wanted = expected if exact and len(found) == len(expected) else (expected[0], math.prod(expected[1:]))
    if found != wanted:
        raise _Unfit(f"{OTHER_SHAPE} ({_by(found)}, this model has {_by(wanted)})")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _low_rank(up: Tensor, down: Tensor, scale: float) -> LowRank:
    up, down = _matrix(up), _matrix(down)
    if up.shape[1] != len(down):
        raise _Unfit("adapter whose factors do not fit each other")
    return LowRank(up, down, scale)


def _tucker(core: Tensor, out_side: Tensor, in_side: Tensor) -> Tensor:
    sides = (len(out_side), len(in_side))
    if out_side.ndim != 2 or in_side.ndim != 2 or tuple(core.shape[:2]) != sides:
        raise _Unfit("adapter whose factors do not fit each other")
    return tucker(core, out_side, in_side)


def _matrix(tensor: Tensor) -> Tensor:
    if tensor.ndim < 2:
        raise _Unfit("adapter with a factor that is no matrix")
    return tensor.flatten(1)


def _both(parts: Parts, first: str, second: str) -> tuple[Tensor, Tensor]:
    missing = [part for part in (first, second) if part not in parts]
    if missing:
        raise _Unfit(f"half of an adapter ({' and '.join(missing)} missing)")
    return parts[first], parts[second]


# --- the stored tensors -----------------------------------------------------------------------------------


def _numbers(file: str, name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        raise WanError(
            f"{file}: {shown(name)} is stored as {str(tensor.dtype).removeprefix('torch.')}, expected plain "
            "floats; choose the float16 or bfloat16 file of this LoRA"
        )
    if tensor.element_size() == 1:  # fp8, which torch moves and casts and does nothing else with
        tensor = tensor.to(torch.bfloat16)
    if not math.isfinite(tensor.sum(dtype=torch.float32)):  # one NaN is enough to show in it
        raise WanError(
            f"{file}: {shown(name)} holds NaN or infinite values; download the LoRA again or choose another"
        )
    return tensor


def _over_rank(file: str, name: str, alpha: Tensor, rank: int) -> float:
    """Read only where it counts: ai-toolkit's alpha of a whole LoKr is 1e10, and infinite in float16."""
    if alpha.numel() != 1 or not math.isfinite(value := float(alpha.float())):
        raise WanError(
            f"{file}: {shown(name)} is no single finite number; download the LoRA again or choose another"
        )
    return value / rank
