"""One LoRA file against one network: which tensors change which layer, and why the others do not."""

from __future__ import annotations

import functools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import WanError, shown
from ..models.transformer import TransformerConfig, WanTransformer
from ..variants.variant import HIGH_NOISE
from .adapters import Delta, Dense, Hadamard, Kronecker, LowRank, tucker
from .keys import Key, LayerNames, Place, parse_key

Parts = Mapping[str, Tensor]
Factor = Callable[[int], float]  # an adapter's rank to the number that scales it

UNMATCHED = "unmatched"
DORA = "DoRA, which needs the weights themselves"
TWICE = "second spelling of a tensor that is there already"
NO_FIT = "adapter whose factors do not fit each other"


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
    layers, outcomes = _by_layer(tensors, network)
    for layer in layers:
        made: list[Outcome] = []
        for names in layer.adapters.values():
            parts = {part: _numbers(file, name, tensors[name]) for part, name in names.items()}
            factor = functools.partial(scaling.factor, layer.stem)
            if layer.alpha is not None:
                factor = functools.partial(_over_rank, file, layer.alpha, tensors[layer.alpha])
            made += _adapter(layer, names, parts, factor, network)
        if layer.alpha is not None:  # it shares its adapter's fate, and without one is nothing
            fate = min(made, key=lambda one: one.reason is not None, default=Outcome((), reason=UNMATCHED))
            made.append(Outcome((layer.alpha,), reason=fate.reason, expert=layer.expert))
        outcomes += made
    return outcomes


@dataclass
class _Layer:
    """The stored tensors of one layer under one spelling of its name."""

    name: str
    expert: str | None
    stem: str
    alpha: str | None = None  # its adapters share it
    adapters: dict[str, dict[str, str]] = field(default_factory=dict)  # adapter -> part -> stored name

    def take(self, key: Key, name: str) -> bool:
        """Note a tensor down; False for one that is there already."""
        if key.part == "alpha":
            first, self.alpha = self.alpha is None, self.alpha or name
            return first
        return self.adapters.setdefault(key.adapter, {}).setdefault(key.part, name) == name

    @property
    def parts(self) -> set[tuple[str, str]]:
        return {(adapter, part) for adapter, names in self.adapters.items() for part in names}

    @property
    def stored(self) -> tuple[str, ...]:
        alpha = () if self.alpha is None else (self.alpha,)
        return (*(name for names in self.adapters.values() for name in names.values()), *alpha)


def _by_layer(names: Iterable[str], network: Network) -> tuple[list[_Layer], list[Outcome]]:
    """The layers that tensors belong to, and what became of the tensors that belong to none."""
    keys = {name: parse_key(name) for name in names}
    places = {name: network.names.find(key.stem if key else name) for name, key in keys.items()}
    has_experts = any(isinstance(place, Place) and place.expert for place in places.values())
    layers: dict[tuple[str | None, str], _Layer] = {}
    left: list[Outcome] = []
    for name, key in keys.items():
        place = places[name]
        if key is None or not isinstance(place, Place):
            left.append(Outcome((name,), reason=place if isinstance(place, str) else UNMATCHED))
            continue
        expert = place.expert or (HIGH_NOISE if place.first and has_experts else None)
        layer = layers.setdefault((expert, key.stem), _Layer(place.layer, expert, key.stem))
        if not layer.take(key, name):
            left.append(Outcome((name,), reason=TWICE, expert=expert))

    kept: dict[tuple[str | None, str], list[_Layer]] = defaultdict(list)
    for layer in layers.values():
        spellings = kept[layer.expert, layer.name]
        if any(layer.parts & other.parts for other in spellings):
            left.append(Outcome(layer.stored, reason=TWICE, expert=layer.expert))
        else:
            spellings.append(layer)
    return [layer for spellings in kept.values() for layer in spellings], left


def _adapter(
    layer: _Layer, names: Mapping[str, str], parts: Parts, factor: Factor, network: Network
) -> list[Outcome]:
    """What one adapter's tensors do to its layer: change the weight, and perhaps the bias as well."""
    if "dora" in parts:
        return [Outcome(tuple(names.values()), reason=DORA, expert=layer.expert)]
    outcomes = []
    for own, read in _KINDS:
        held = {part: parts[part] for part in parts if own.match(part)}
        if not held:
            continue
        stored = tuple(names[part] for part in held)
        try:
            changes = tuple(read(layer.name, held, factor))
            for change in changes:
                _check_shape(change, network.shapes)
        except _Unfit as fault:
            outcomes.append(Outcome(stored, reason=str(fault), expert=layer.expert))
        else:
            outcomes.append(Outcome(stored, changes, expert=layer.expert))
    return outcomes


class _Unfit(Exception):  # noqa: N818 (no error: the reason why a part of a file is left out)
    """An adapter that cannot be used; the message says what it is."""


def _lora(layer: str, parts: Parts, factor: Factor) -> list[Change]:
    up, down = _both(parts, "up", "down")
    rank, inner = len(down), down.flatten(1)
    if "mid" in parts:
        core = parts["mid"]
        if core.ndim < 2 or tuple(core.shape[:2]) != (up.shape[1], rank):
            raise _Unfit(NO_FIT)
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
        raise _Unfit(NO_FIT)
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
    wanted = shapes[change.parameter]
    found = tuple(change.delta.value.shape) if isinstance(change.delta, Dense) else change.delta.shape
    if len(wanted) == 5 and len(found) == 2:  # a convolution's factors are matrices over all that it reads
        wanted = (wanted[0], math.prod(wanted[1:]))
    if found != wanted:
        raise _Unfit(f"layer of another shape ({_by(found)}, this model has {_by(wanted)})")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _low_rank(up: Tensor, down: Tensor, scale: float) -> LowRank:
    up, down = _matrix(up), _matrix(down)
    if up.shape[1] != len(down):
        raise _Unfit(NO_FIT)
    return LowRank(up, down, scale)


def _tucker(core: Tensor, out_side: Tensor, in_side: Tensor) -> Tensor:
    sides = (len(out_side), len(in_side))
    if out_side.ndim != 2 or in_side.ndim != 2 or tuple(core.shape[:2]) != sides:
        raise _Unfit(NO_FIT)
    return tucker(core, out_side, in_side)


def _matrix(tensor: Tensor) -> Tensor:
    if tensor.ndim < 2 or tensor.numel() == 0:
        raise _Unfit("adapter with a factor that is no matrix")
    return tensor.flatten(1)


def _both(parts: Parts, first: str, second: str) -> tuple[Tensor, Tensor]:
    missing = [part for part in (first, second) if part not in parts]
    if missing:
        raise _Unfit(f"half of an adapter ({' and '.join(missing)} missing)")
    for part in (first, second):
        _matrix(parts[part])
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
