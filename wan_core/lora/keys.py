"""LoRA key names: which tensor of which adapter a name means, and which layer of the network it changes.

Files differ in how a key begins (`diffusion_model.`, `lora_unet_`, `transformer.`, nothing, ...), in how it
names the layer (as released or as diffusers does, with dots or underscores) and in how it ends (`lora_A`,
`lora_down`, `lokr_w1`, ...). The three are taken apart here; the layer is looked up among the network's own,
never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..variants.variant import HIGH_NOISE, LOW_NOISE

# --- how a key ends ---------------------------------------------------------------------------------------

_NAMED = r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?"  # peft's name for the adapter, such as "default"
_ENDINGS = tuple(
    (re.compile(pattern), part)
    for pattern, part in (
        (rf"[._]lora(?:_linear_layer)?[._](?:A|a|down){_NAMED}(?:\.weight)?$", "down"),
        (rf"[._]lora(?:_linear_layer)?[._](?:B|b|up){_NAMED}(?:\.weight)?$", "up"),
        (rf"[._]lora_(?:B|up){_NAMED}\.bias$", "up_bias"),
        (r"\.lora_mid\.weight$", "mid"),
        (rf"\.(?:dora_scale|lora_magnitude_vector{_NAMED}(?:\.weight)?)$", "dora"),
        (r"\.(?:lora_)?alpha$", "alpha"),
        (r"\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))$", r"\1"),
        (r"\.(?:diff|diff_m|w_norm)$", "diff"),
        (r"\.(?:diff_b|b_norm)$", "diff_b"),
    )
)


@dataclass(frozen=True)
class Key:
    """A stored name taken apart: `stem` names the layer, `part` says what the tensor is to its adapter.

    part     "down", "up", "mid", "up_bias", "alpha", "dora", "diff", "diff_b", "hada_w1_a", "lokr_w2", ...
    adapter  the name that peft gave the adapter, else ""
    """

    stem: str
    part: str
    adapter: str = ""


def parse_key(name: str) -> Key | None:
    """Take a stored name apart; None for a tensor of no adapter this library knows."""
    for pattern, part in _ENDINGS:
        if match := pattern.search(name):
            named = match.groupdict().get("adapter") or ""
            return Key(name[: match.start()], match.expand(part), named)
    return None


# --- which layer it names ---------------------------------------------------------------------------------

# A layer's name in a block, and outside of the blocks: as released, as diffusers has it.
DIFFUSERS_IN_BLOCK = (
    *((f"self_attn.{x}", f"attn1.to_{x}") for x in "qkv"),
    *((f"cross_attn.{x}", f"attn2.to_{x}") for x in "qkv"),
    *(
        (f"{ours}.o", f"{theirs}.to_out.0")
        for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
    ),
    *((f"self_attn.norm_{x}", f"attn1.norm_{x}") for x in "qk"),
    *((f"cross_attn.norm_{x}", f"attn2.norm_{x}") for x in "qk"),
    ("norm3", "norm2"),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
    ("modulation", "scale_shift_table"),
)
DIFFUSERS_OUTSIDE = (
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("head.head", "proj_out"),
    ("head.modulation", "scale_shift_table"),
)

# What may stand before a layer's name, in any order and number, once dots are underscores. `high` and `low`
# say whose the layer is; `first` does where the file has a `low` as well, as with diffusers' transformer and
# transformer_2 or DiffSynth's dit and dit2.
_PREFIXES = re.compile(
    r"(?:(?:(?P<high>transformer_1|high(?:_noise)?(?:_model|_expert)?)"
    r"|(?P<low>transformer_2|dit_?2|low(?:_noise)?(?:_model|_expert)?)"
    r"|(?P<first>transformer|dit)"
    r"|lora|lycoris|unet|base_model|diffusion_model|model|module|pipe)_+)*"
)

# Layers that no plain Wan2.2 transformer has, and whose they are.
_ELSEWHERE = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (
            r"^img_emb_|_(?:[kv]_img|norm_k_img|add_[kv]_proj|norm_added_[kq])$|^condition_embedder_image_",
            "image branch of Wan2.1 (k_img, v_img, img_emb), which no Wan2.2 model has",
        ),
        (r"^te\d?_|^text_encoders?_|^text_model_|^t5_", "text encoder, which stays as it is"),
        (r"_loras_(?:down|up)_weight$", "Stand-In adapter, which works only with that model's own code"),
        (r"^(?:dwpose|randomref)_embedding_", "UniAnimate's pose branch, which no plain Wan2.2 model has"),
        (r"^vace_", "VACE control branch, which no plain Wan2.2 model has"),
        (
            r"^(?:control_adapter|ref_conv|face_adapter|face_encoder|pose_patch_embedding|casual_audio_encoder"
            r"|audio_injector|audio_proj|motion_encoder|fps_embedding)(?:_|$)",
            "branch of another Wan variant, which no plain Wan2.2 model has",
        ),
        (
            r"(?:_oft_(?:blocks|diag)|_[ab][12]_weight|_on_input|_lora_embedding_[ab]|_set_weight)$",
            "kind of adapter that is not supported (OFT, GLoRA, IA3 or replaced weights)",
        ),
    )
)
_BLOCK = re.compile(r"^blocks_(\d{1,4})_")


@dataclass(frozen=True)
class Place:
    """Where a key belongs: a layer, and the expert that its prefix names, if it names one.

    `first` is a prefix that means the high-noise expert only beside another that means the low-noise one.
    """

    layer: str
    expert: str | None = None
    first: bool = False


class LayerNames:
    """A network's layers by every spelling in which LoRA files name them."""

    def __init__(self, layers: Iterable[str]) -> None:
        self._layers: dict[str, str] = {}
        self.blocks = 0
        for layer in layers:
            # LightX2V names a modulation's change by its block: blocks.0.diff_m, head.diff_m
            for spelling in (layer, _as_diffusers(layer), layer.removesuffix(".modulation")):
                self._layers[_plain(spelling)] = layer
            if match := _BLOCK.match(_plain(layer)):
                self.blocks = max(self.blocks, int(match[1]) + 1)

    def find(self, stem: str) -> Place | str | None:
        """The layer that a stem names; the reason why it has no place here; None when it means nothing."""
        plain = _plain(stem)
        prefix = _PREFIXES.match(plain)
        bare = plain[prefix.end() :].lstrip("_")
        if bare in self._layers:
            expert = HIGH_NOISE if prefix["high"] else LOW_NOISE if prefix["low"] else None
            return Place(self._layers[bare], expert, bool(prefix["first"]))
        for pattern, reason in _ELSEWHERE:
            if pattern.search(bare):
                return reason
        block = _BLOCK.match(bare)
        if block and int(block[1]) >= self.blocks:
            return f"block beyond the {self.blocks} of this model"
        return None


def _plain(name: str) -> str:
    """A name with its separators made alike. No two layers of the network become one by it."""
    return name.lower().replace(".", "_")


def _as_diffusers(layer: str) -> str:
    block = re.match(r"(blocks\.\d+\.)(.+)", layer)
    if block:
        return block[1] + dict(DIFFUSERS_IN_BLOCK).get(block[2], block[2])
    return dict(DIFFUSERS_OUTSIDE).get(layer, layer)
