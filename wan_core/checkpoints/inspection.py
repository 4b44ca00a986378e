"""`inspect`: what a weight file is, in eight words for programs and a few lines for people."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import WanError
from ..lora.keys import parse_key
from ..variants import Variant, variant_for_task
from ..variants.variant import DENSE, HIGH_NOISE, LOW_NOISE
from .configs import transformer_config, umt5_config, vae_config
from .containers import read_header
from .detect import Detection, detect, missing_parts
from .header import Header, listed, shown_file
from .known import known_expert
from .layouts import LORA, TRANSFORMER, UMT5, UNKNOWN, VAE_2_1, VAE_2_2
from .pairs import expert_of
from .quantization import Storage, detect_storage

FAMILY_WORDS = {
    TRANSFORMER: "a Wan transformer",
    VAE_2_1: "a Wan2.1 VAE",
    VAE_2_2: "a Wan2.2 VAE",
    UMT5: "a UMT5 text encoder",
    LORA: "a LoRA",
    UNKNOWN: "a file we do not know",
}
TASK_WORDS = {"t2v": "text to video", "i2v": "image to video", "ti2v": "text or image to video"}
EXPERT_WORDS = {HIGH_NOISE: "high noise", LOW_NOISE: "low noise", DENSE: "one network for all steps"}
LAYOUT_WORDS = {
    "released": "as in the released files",
    "comfyui": "as ComfyUI's files have them",
    "diffusers": "as diffusers has them",
    "huggingface": "as Hugging Face transformers has them",
    "gguf": "as llama.cpp has them",
}


# A LoRA's layer whose columns are the network's width, and whose width that is.
_QUERY = re.compile(r"(?:self_attn[._]q|attn1[._]to_q)$")
_WIDTHS = {5120: "the A14B models", 3072: "TI2V-5B", 1536: "Wan2.1 1.3B, which is not loaded here"}


@dataclass(frozen=True)
class Inspection:
    """What a file is. `to_dict` is the stable part; the rest is for people.

    family        "wan-transformer", "wan-vae-2.1", "wan-vae-2.2", "umt5", "lora" or "unknown"
    task          "t2v", "i2v", "ti2v" by a transformer's channels, else None
    expert        "high_noise" or "low_noise", by its numbers when the model is known (known.py), else a hint
                  from the file's name; "dense" for a model that is one network; None when nothing says
    layout        "released", "comfyui" (released names behind a prefix, or a text encoder with its tokenizer
                  inside), "diffusers", "huggingface", "gguf", or None
    quantization  see quantization.py; the scheme of most of the numbers
    parameters    the exact number of weights, without scales and tokenizer; None when it cannot be read
    problems      what is wrong with the file, a line each
    limits        what is right with the file and still cannot be loaded, a line each
    known         the model whose expert this is by its numbers, else None
    """

    file: str
    family: str = UNKNOWN
    task: str | None = None
    expert: str | None = None
    layout: str | None = None
    quantization: str | None = None
    parameters: int | None = None
    problems: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    known: str | None = None
    facts: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What it is, with its article, as messages say it."""
        if self.family == TRANSFORMER and self.task:
            return f"{FAMILY_WORDS[TRANSFORMER]} for {TASK_WORDS[self.task]}"
        return FAMILY_WORDS[self.family]

    def to_dict(self) -> dict[str, object]:
        """The eight fields of `inspect --json`."""
        return {
            "file": self.file,
            "family": self.family,
            "task": self.task,
            "expert": self.expert,
            "layout": self.layout,
            "quantization": self.quantization,
            "parameters": self.parameters,
            "problems": list(self.problems),
        }


def inspect(path: str | Path) -> Inspection:
    """Say what a file is. Never raises for a bad file: what is wrong with it stands in `problems`."""
    try:
        header = read_header(path)
    except WanError as error:
        return Inspection(str(path), problems=(str(error),))
    return inspect_header(path, header, detect(header))


def inspect_header(path: str | Path, header: Header, detection: Detection) -> Inspection:
    """The same from a header that has been read already."""
    storage = detect_storage(header)
    facts, faults = _facts(detection)
    known = known_expert(header, detection)
    file = shown_file(path)
    return Inspection(
        file=str(path),
        family=detection.family,
        task=detection.task,
        expert=known.expert if known else _expert(path, detection),
        layout=detection.layout,
        quantization=storage.quantization,
        parameters=_parameters(detection, storage),
        problems=(*header.problems, *(f"{file}: {fault}" for fault in faults)),
        limits=tuple(f"{file}: {limit}" for limit in _limits(detection, storage)),
        known=known.model if known else None,
        facts=(*facts, *_parts(header), *storage.notes),
    )


def readable(inspection: Inspection) -> str:
    """A few lines that say what the file is, what it fits with, and what is wrong with it."""
    lines = [inspection.file]
    if inspection.family != UNKNOWN:
        lines.append(f"  {_sentence(inspection)}")
    if inspection.expert:
        lines.append(f"  Expert: {EXPERT_WORDS[inspection.expert]}{_source(inspection)}.")
    elif inspection.task in ("t2v", "i2v"):
        lines.append(
            "  Expert: the name does not say high or low noise, and the tensors of the two look alike."
        )
    if inspection.layout:
        lines.append(f"  Names: {LAYOUT_WORDS[inspection.layout]}.")
    lines += [f"  {fact[0].upper()}{fact[1:]}." for fact in inspection.facts]
    if not inspection.limits and not inspection.problems and (fits := _fits(inspection)):
        lines.append(f"  Fits with: {fits}.")
    lines += [f"  Cannot be loaded: {limit}" for limit in inspection.limits]
    lines += [f"  Problem: {problem}" for problem in inspection.problems]
    return "\n".join(lines)


def _source(inspection: Inspection) -> str:
    """Where the word about the expert comes from."""
    if inspection.known:
        return f", by its numbers, which are those of {inspection.known}"
    return "" if inspection.expert == DENSE else ", going by its name (the tensors do not say)"


def _sentence(inspection: Inspection) -> str:
    words = f"{inspection.words[0].upper()}{inspection.words[1:]}"
    count = "" if inspection.parameters is None else f", {inspection.parameters:,} parameters"
    stored = "" if inspection.quantization is None else f", stored as {inspection.quantization}"
    return f"{words}{count}{stored}."


def _parameters(detection: Detection, storage: Storage) -> int:
    return sum(
        info.elements * (2 if detection.names[name] in storage.packed else 1)
        for name, info in detection.tensors.items()
    )


def _expert(path: str | Path, detection: Detection) -> str | None:
    if detection.family not in (TRANSFORMER, LORA):
        return None
    if detection.task is not None and variant_for_task(detection.task).boundary is None:
        return DENSE
    return expert_of(str(path))


def _facts(detection: Detection) -> tuple[list[str], list[str]]:
    """What there is to say about the model's size, and what is wrong with its table of tensors."""
    if not detection.tensors:
        return [], ["holds no weights; choose a file with tensors in it"]
    if detection.family == UNKNOWN:
        return [], [_unknown(detection)]
    if missing := missing_parts(detection):
        return [], [
            f"lacks {len(missing):,} of its weights ({listed(missing)}): one piece of a sharded model, or "
            "damaged; choose the whole file"
        ]
    try:
        return _SIZES[detection.family](detection), []
    except WanError as error:
        return [], [str(error)]


def _parts(header: Header) -> list[str]:
    count = len({info.file for info in header.tensors.values()})
    return [f"one model in {count} files, loaded together"] if count > 1 else []


def _unknown(detection: Detection) -> str:
    what = detection.stranger or f"none of Wan's files (its tensors: {listed(list(detection.tensors))})"
    return f"this is {what}; choose a Wan transformer, a Wan VAE or a UMT5 text encoder"


def _transformer_size(detection: Detection) -> list[str]:
    config = transformer_config(detection.tensors)
    return [
        f"{config.num_layers} layers, {config.dim} wide, {config.in_channels} channels in and "
        f"{config.out_channels} out; reads text embeddings {config.text_dim} wide"
    ]


def _umt5_size(detection: Detection) -> list[str]:
    config = umt5_config(detection.tensors)
    tokenizer = (
        "its tokenizer is inside"
        if detection.has_tokenizer
        else "its tokenizer is not inside (put spiece.model of google/umt5-xxl beside it)"
    )
    return [f"{config.num_layers} layers, {config.dim} wide, {config.vocab_size:,} tokens; {tokenizer}"]


def _vae_size(detection: Detection) -> list[str]:
    config = vae_config(detection.tensors)
    side = 16 if detection.family == VAE_2_2 else 8
    cell = f"4 x {side} x {side}"
    return [f"{config.latent_channels} latent channels, one cell for {cell} pixels; {config.dim} wide"]


def _lora_size(detection: Detection) -> list[str]:
    keys = {name: key for name in detection.tensors if (key := parse_key(name))}
    downs = {key.stem: detection.tensors[name].shape for name, key in keys.items() if key.part == "down"}
    ranks = sorted({shape[0] for shape in downs.values() if shape})
    widths = sorted({shape[1] for stem, shape in downs.items() if len(shape) == 2 and _QUERY.search(stem)})
    facts = [f"changes {len({key.stem for key in keys.values()}):,} layers"]
    if ranks:
        facts[0] += f", rank {ranks[0]}" + (f" to {ranks[-1]}" if len(ranks) > 1 else "")
    for width in widths[:1]:
        facts.append(f"made for a network {width:,} wide ({_WIDTHS.get(width, 'none of the released ones')})")
    return facts


_SIZES: dict[str, Callable[[Detection], list[str]]] = {
    TRANSFORMER: _transformer_size,
    UMT5: _umt5_size,
    VAE_2_1: _vae_size,
    VAE_2_2: _vae_size,
    LORA: _lora_size,
}


def _limits(detection: Detection, storage: Storage) -> list[str]:
    """What cannot be loaded though nothing is wrong with the file."""
    limits = []
    if detection.extra_part:
        wanted = (
            "the encoder alone, such as umt5_xxl_fp16.safetensors"
            if detection.family == UMT5
            else "a plain Wan2.2 T2V, I2V or TI2V transformer"
        )
        limits.append(f"holds {detection.extra_part}; choose {wanted}")
    elif detection.family == TRANSFORMER and detection.task is None:
        limits.append(
            "its channels are those of another variant (a plain one reads 16, 36 or 48); choose a Wan2.2 "
            "T2V, I2V or TI2V transformer"
        )
    # a LoRA's alpha may be an integer
    unreadable = {name: how for name, how in storage.unreadable.items() if not _is_alpha(name)}
    if detection.family != UNKNOWN and unreadable:
        schemes = " and ".join(sorted(set(unreadable.values())))
        limits.append(
            f"keeps {len(unreadable):,} of its weights ({listed(list(unreadable))}) as "
            f"{schemes}, which cannot be loaded; choose a float16, bfloat16, fp8 or GGUF (Q2_K to Q8_0) file "
            "of this model"
        )
    return limits


def _is_alpha(name: str) -> bool:
    key = parse_key(name)
    return key is not None and key.part == "alpha"


def _fits(inspection: Inspection) -> str | None:
    if inspection.family == TRANSFORMER and inspection.task:
        return _fits_transformer(variant_for_task(inspection.task))
    return {
        VAE_2_1: "the A14B models, text to video and image to video (TI2V-5B needs the Wan2.2 VAE)",
        VAE_2_2: "the TI2V-5B model only (the A14B models need the Wan2.1 VAE)",
        UMT5: "every Wan2.2 model that reads text embeddings of its width",
        LORA: "the transformer it was trained on, or another of the same task and width",
    }.get(inspection.family)


def _fits_transformer(variant: Variant) -> str:
    partner = "" if variant.boundary is None else "the other expert of its pair, "
    return (
        f"{partner}the {FAMILY_WORDS[variant.vae_family][2:]} and a UMT5 text encoder; "
        f"width and height in steps of {variant.size_multiple}, 4n + 1 frames"
    )
