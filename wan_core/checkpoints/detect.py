"""What a file is, from its tensors' names and shapes alone: never from its file name or metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..variants import variant_for_channels
from .header import Header, TensorInfo
from .layouts import LAYOUTS, LORA, TRANSFORMER, UMT5, UNKNOWN, VAE_2_1, VAE_2_2, Layout, common_prefix
from .quantization import is_side_tensor

TIED = "token_embedding.weight"  # Hugging Face may store it under both of its names
GGUF_TOKENIZER = "tokenizer.ggml.model"
SPIECE_MODEL = "spiece_model"  # the tokenizer, kept as a uint8 tensor in ComfyUI's text encoders

# Models people mix up with Wan's, by a name only they have.
_STRANGERS = (
    (r"^model\.diffusion_model\.", "several models in one file (an all-in-one checkpoint)"),
    (r"^double_blocks\.\d+\.", "a Flux or Hunyuan transformer"),
    (r"^(?:input_blocks|down_blocks\.\d+\.attentions)\.", "a Stable Diffusion UNet"),
    (r"^joint_blocks\.\d+\.", "a Stable Diffusion 3 transformer"),
    (r"^transformer_blocks\.\d+\.", "another model's transformer (LTX, Flux or Qwen-Image)"),
    (r"^vision_model\.|^visual\.transformer\.", "a CLIP vision model, which Wan2.2 does not use"),
    (r"^(?:text_model|transformer\.text_model)\.", "a CLIP text encoder"),
    (r"^encoder\.down\.\d+\.block\.", "a Stable Diffusion or Flux VAE"),
    (r"^decoder\.\d+\.(?:conv\.|bias$|weight$)", "a small preview VAE (TAE)"),
    (r"^layers\.\d+\.self_attn\.[qkvo]_proj\.", "a language model"),
)
# Parts that the plain Wan2.2 models do not have, and whose they are.
_EXTRA_PARTS = {
    TRANSFORMER: (
        ("img_emb.", "image features of a Wan2.1 image-to-video model"),
        ("vace_", "a VACE control branch"),
        ("control_adapter.", "a camera control branch"),
        ("casual_audio_encoder.", "the speech-to-video branch"),
        ("face_adapter.", "the Animate branch"),
        ("ref_conv.", "a reference-image branch"),
    ),
    UMT5: (
        ("decoder.", "UMT5's decoder, which Wan does not read"),
        ("dec.", "UMT5's decoder, which Wan does not read"),
    ),
}


# Weights outside the row of blocks that a whole file has.
_OUTER = {
    TRANSFORMER: (
        *(
            "patch_embedding.weight",
            "patch_embedding.bias",
            "text_embedding.0.weight",
            "text_embedding.2.weight",
        ),
        *("time_embedding.0.weight", "time_embedding.2.weight", "time_projection.1.weight"),
        *("head.head.weight", "head.modulation"),
    ),
    UMT5: ("token_embedding.weight", "norm.weight"),
}
_OUTER[VAE_2_1] = _OUTER[VAE_2_2] = (
    *("conv1.weight", "conv2.weight", "encoder.conv1.weight", "encoder.head.2.weight"),
    *("decoder.conv1.weight", "decoder.head.0.gamma", "decoder.head.2.weight"),
)


@dataclass(frozen=True)
class Detection:
    """What was found. `names` maps the released spelling of every weight to the stored one.

    `tensors` are the weights under their released names; scales and markers are left out, and so is the
    tokenizer. A tied embedding that is written out twice counts once.
    """

    family: str
    layout: str | None
    prefix: str
    names: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    has_tokenizer: bool = False
    stranger: str | None = None  # a known model that is none of Wan's
    extra_part: str | None = None  # what makes it another member of the family

    @property
    def task(self) -> str | None:
        """ "t2v", "i2v" or "ti2v" by the transformer's channels; None for anything else."""
        return _task(self.tensors) if self.family == TRANSFORMER else None


def detect(header: Header) -> Detection:
    """Find family, layout and prefix, and the released name of every weight."""
    names = [name for name in header.tensors if not is_side_tensor(name) and name != SPIECE_MODEL]
    prefix = common_prefix(names)
    short = {name: name.removeprefix(prefix) for name in names}
    layout = next((lay for lay in LAYOUTS if any(lay.sign.search(name) for name in short.values())), None)
    if layout is None or layout.family == LORA:
        return _unmapped(header, names, UNKNOWN if layout is None else LORA, _stranger(short.values()))
    if layout.family == UMT5 and (other := _other_t5(layout, short.values())):
        return _unmapped(header, names, UNKNOWN, other)
    released: dict[str, str] = {}
    for name, bare in short.items():
        renamed = layout.rename(bare).removesuffix("._data")
        if renamed not in released:
            released[renamed] = name
        elif renamed != TIED:  # a second tensor for one place: under its own name the audit will find it
            released[name] = name
    has_spiece = SPIECE_MODEL in header.tensors
    tensors = {name: header.tensors[stored] for name, stored in released.items()}
    return Detection(
        family=layout.family,
        layout="comfyui" if "model." in prefix or has_spiece else layout.name,
        prefix=prefix,
        names=released,
        tensors=_with_lost_axes(tensors) if header.container == "gguf" else tensors,
        has_tokenizer=has_spiece or GGUF_TOKENIZER in header.metadata,
        extra_part=_extra_part(released, layout.family),
    )


def _unmapped(header: Header, names: list[str], family: str, stranger: str | None) -> Detection:
    """A file whose names mean nothing to us: they stay as they are."""
    tensors = {name: header.tensors[name] for name in names}
    return Detection(family, None, "", {name: name for name in names}, tensors, stranger=stranger)


def _with_lost_axes(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """The shapes as they were before ggml, which drops leading axes of one and has no fifth axis.

    llama.cpp and stable-diffusion.cpp write a modulation (1, 6, D) as (6, D), and the patch embedding's
    kernel (D, C, 1, 2, 2) as (D * C, 1, 2, 2); not every tool notes the shape beside it.
    """
    restored = dict(tensors)
    for name, info in tensors.items():
        if name.endswith("modulation") and len(info.shape) == 2:
            restored[name] = replace(info, shape=(1, *info.shape))
    kernel, bias = tensors.get("patch_embedding.weight"), tensors.get("patch_embedding.bias")
    if kernel and bias and len(kernel.shape) == 4 and bias.elements and kernel.shape[0] % bias.elements == 0:
        shape = (bias.elements, kernel.shape[0] // bias.elements, *kernel.shape[1:])
        restored["patch_embedding.weight"] = replace(kernel, shape=shape)
    return restored


def missing_parts(detection: Detection) -> list[str]:
    """Weights that a whole file of this family would have: its outer ones, and a gap in the row of blocks.

    Not the strict audit (that one compares with the module); it finds shards and half-written files.
    """
    missing = [name for name in _OUTER.get(detection.family, ()) if name not in detection.tensors]
    blocks: dict[int, set[str]] = {}
    for name in detection.tensors:
        if match := re.match(r"^blocks\.(\d{1,4})\.(.+)$", name):
            blocks.setdefault(int(match[1]), set()).add(match[2])
    if blocks:
        every = set().union(*blocks.values())
        for index in range(max(blocks) + 1):
            missing += [f"blocks.{index}.{rest}" for rest in sorted(every - blocks.get(index, set()))]
    return missing


def _task(tensors: Mapping[str, TensorInfo]) -> str | None:
    patch, head = tensors.get("patch_embedding.weight"), tensors.get("head.head.weight")
    if patch is None or head is None or len(patch.shape) != 5 or len(head.shape) != 2:
        return None
    variant = variant_for_channels(patch.shape[1], head.shape[0] // 4)  # the head writes 2 x 2 per channel
    return variant.task if variant else None


def _other_t5(layout: Layout, names: Iterable[str]) -> str | None:
    """UMT5 has a position table in every layer; T5 shares its first layer's."""
    released = {layout.rename(name) for name in names}
    layers = sum(name.endswith(".attn.q.weight") for name in released)
    tables = sum(name.endswith(".pos_embedding.embedding.weight") for name in released)
    return "a T5 text encoder (Flux, SD3), not the UMT5 that Wan needs" if tables == 1 < layers else None


def _stranger(names: Iterable[str]) -> str | None:
    names = list(names)
    for pattern, what in _STRANGERS:
        if any(re.search(pattern, name) for name in names):
            return what
    return None


def _extra_part(names: Iterable[str], family: str) -> str | None:
    names = list(names)
    for start, what in _EXTRA_PARTS.get(family, ()):
        if any(name.startswith(start) for name in names):
            return what
    return None
