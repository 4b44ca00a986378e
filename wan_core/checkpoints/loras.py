"""LoRA files: opened, fitted to a model's layers, and shared out between its experts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..errors import WanError, shown
from ..lora import (
    UNMATCHED,
    Change,
    Coverage,
    ExpertCoverage,
    Outcome,
    Scaling,
    fit,
    network_of,
    parse_key,
)
from ..models.transformer import TransformerConfig
from ..variants.variant import DENSE, HIGH_NOISE, LOW_NOISE
from .containers import map_stored, read_header
from .detect import detect
from .header import Header, shown_file
from .inspection import FAMILY_WORDS
from .pairs import expert_of, find_partner

SUFFIXES = (".safetensors", ".pth", ".pt")
# Where peft writes what no tensor shows: beside its own file, and diffusers in the header.
PEFT_FILE, PEFT_CONFIG, PEFT_METADATA = "adapter_model", "adapter_config.json", "lora_adapter_metadata"
MOST_STRENGTH = 100.0


@dataclass(frozen=True)
class Lora:
    """One LoRA, fitted to a model: each expert's changes at their strength, and what became of the files."""

    changes: Mapping[str, tuple[Change, ...]]  # by expert
    coverage: Coverage


def load_lora(
    path: Path, config: TransformerConfig, strengths: Mapping[str, float], partner: Path | None = None
) -> Lora:
    """Fit a LoRA to a model, whose experts are the keys of `strengths`.

    A file whose tensors name the experts feeds each its own. Of two files the names say which is for which
    (else the first is for high noise), and one alone whose name says an expert feeds only that one. Every
    other file feeds all experts. Raises WanError for a bad file and for one of which nothing fits.
    """
    for expert, strength in strengths.items():
        if not abs(strength) <= MOST_STRENGTH:
            raise WanError(
                f"strength of the {expert} expert: {strength} is no number from -{MOST_STRENGTH:g} to "
                f"{MOST_STRENGTH:g}; 1 is as trained"
            )
    fitted = {path: _fitted(path, config)}
    combined = any(outcome.expert for outcome in fitted[path])
    if DENSE in strengths:
        feeds = {DENSE: path}
    elif combined:
        feeds = dict.fromkeys(strengths, path)
    else:
        feeds = _shared_out(path, partner)
    for file in set(feeds.values()) - {path}:
        fitted[file] = _fitted(file, config)

    if DENSE in strengths:
        fitted[path] = [_for_one_network(outcome) for outcome in fitted[path]]
    for file, outcomes in fitted.items():
        _check_any_applied(file, outcomes)

    changes: dict[str, tuple[Change, ...]] = dict.fromkeys(strengths, ())
    rows = []
    for expert, file in feeds.items():
        strength = strengths[expert]
        outcomes = [outcome for outcome in fitted[file] if outcome.expert in (None, expert)]
        rows.append(ExpertCoverage.of(expert, shown_file(file), strength, outcomes))
        if strength:
            changes[expert] = tuple(
                replace(change, strength=strength) for outcome in outcomes for change in outcome.changes
            )
    return Lora(changes, Coverage(tuple(rows), tuple(_notes(path, partner, feeds, strengths))))


def lora_partner(path: Path) -> Path | None:
    """The LoRA for the other expert, found by name beside this one or in a folder beside its own."""
    beside = {file.name: file for file in path.parent.glob("*") if file.suffix.lower() in SUFFIXES}
    if (name := find_partner(path.name, beside)) is not None:
        return beside[name]
    folders = [
        folder for folder in path.parent.parent.glob("*") if folder.is_dir() and expert_of(folder.name)
    ]
    others = {
        f"{folder.name}/{file.name}": file for folder in folders for file in folder.glob(f"*{path.suffix}")
    }
    name = find_partner(f"{path.parent.name}/{path.name}", others)
    return None if name is None else others[name]


def _shared_out(path: Path, partner: Path | None) -> dict[str, Path]:
    """Which file feeds which of two experts, by their names."""
    own = expert_of(path.name) or expert_of(f"{path.parent.name}/{path.name}")
    if partner is not None:
        other = HIGH_NOISE if own == LOW_NOISE else LOW_NOISE
        feeds = {own or HIGH_NOISE: path, other: partner}
        return {expert: feeds[expert] for expert in (HIGH_NOISE, LOW_NOISE)}
    return {own: path} if own else {HIGH_NOISE: path, LOW_NOISE: path}


def _for_one_network(outcome: Outcome) -> Outcome:
    """What an outcome is to a model without experts."""
    if outcome.expert is None:
        return outcome
    return Outcome(outcome.names, reason="part for one of two experts, and this model is one network")


def _check_any_applied(file: Path, outcomes: list[Outcome]) -> None:
    if any(outcome.reason is None for outcome in outcomes):
        return
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        reason = "layer this model does not have" if outcome.reason == UNMATCHED else outcome.reason
        counts[reason] += len(outcome.names)
    why = "; ".join(f"{count:,}: {reason}" for reason, count in counts.most_common(3))
    example = shown(outcomes[0].names[0]) if outcomes else "none"
    raise WanError(
        f"{shown_file(file)}: none of its {counts.total():,} tensors fits this model ({why}; the first is "
        f"{example}); choose a LoRA made for this model"
    )


def _notes(
    path: Path, partner: Path | None, feeds: Mapping[str, Path], strengths: Mapping[str, float]
) -> Iterable[str]:
    if partner is not None and partner not in feeds.values():
        what = "the model is one network" if DENSE in feeds else f"{shown_file(path)} is for both experts"
        yield f"{shown_file(partner)} is left out: {what}"
    for expert in strengths.keys() - feeds.keys():
        yield (
            f"the {expert.replace('_', '-')} expert gets nothing: {shown_file(path)} is the other's by its "
            "name, and has no partner; choose the partner, or the same file again to feed both"
        )


# --- the file ---------------------------------------------------------------------------------------------


def _fitted(path: Path, config: TransformerConfig) -> list[Outcome]:
    header = read_header(path)
    if not any(map(parse_key, header.tensors)):
        raise WanError(
            f"{shown_file(path)} is {FAMILY_WORDS[detect(header).family]}, not a LoRA; choose a file from "
            "models/loras"
        )
    tensors: dict[str, Tensor] = map_stored(header, header.tensors)
    return fit(shown_file(path), tensors, network_of(config), _scaling(header))


def _scaling(header: Header) -> Scaling:
    """What peft says of the adapters' strength. Raises WanError for a config that is no table."""
    file = next(iter(header.tensors.values())).file
    config = file.with_name(PEFT_CONFIG)
    if PEFT_METADATA in header.metadata:
        table = _table(header.metadata[PEFT_METADATA], f"{shown_file(file)}: {PEFT_METADATA}")
        # diffusers writes "transformer.lora_alpha"
        return Scaling.from_peft({key.rpartition(".")[2]: value for key, value in table.items()})
    if file.stem == PEFT_FILE and config.is_file():
        return Scaling.from_peft(_table(config.read_text("utf-8", errors="replace"), shown_file(config)))
    return Scaling()


def _table(text: str, where: str) -> dict[str, object]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise WanError(f"{where} is no table of settings in JSON; download the LoRA again")
    return table
