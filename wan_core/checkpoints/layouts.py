"""Key layouts: by what names a file calls the tensors, and how each name is spelled in the released files.

A layout is data: a sign that it is this one, and anchored patterns of which the first that fits renames. They
change a name's beginning up to a dot, so `.weight`, `.bias` and the scales of a quantized file follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

TRANSFORMER = "wan-transformer"
UMT5 = "umt5"
VAE_2_1 = "wan-vae-2.1"
VAE_2_2 = "wan-vae-2.2"
LORA = "lora"
UNKNOWN = "unknown"

# ComfyUI's, and those of torch's wrappers (data parallel, compiled), which training programs leave in.
PREFIXES = ("diffusion_model.", "model.", "module.", "_orig_mod.")
MOST_PREFIXES = 4  # one behind the other

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Layout:
    """One way of naming one family's tensors; of each stage in turn, the first fitting rule applies."""

    name: str
    family: str
    sign: re.Pattern[str]  # a name that only this layout has
    stages: tuple[Rules, ...] = ()

    def rename(self, name: str) -> str:
        """The released spelling of a name; names the layout does not know come back as they are."""
        for rules in self.stages:
            for pattern, replacement in rules:
                renamed, count = re.subn(pattern, replacement, name)
                if count:
                    name = renamed
                    break
        return name


def common_prefix(names: Iterable[str]) -> str:
    """The known prefixes that every name has; "" when there are none."""
    names, found = list(names), ""
    for _ in range(MOST_PREFIXES if names else 0):
        longer = (found + prefix for prefix in PREFIXES)
        found = next((start for start in longer if all(name.startswith(start) for name in names)), found)
    return found


_BLOCK = r"^(blocks\.\d+)"
_TRANSFORMER_DIFFUSERS: Rules = (
    (_BLOCK + r"\.attn1\.to_([qkv])\.", r"\1.self_attn.\2."),
    (_BLOCK + r"\.attn1\.to_out\.0\.", r"\1.self_attn.o."),
    (_BLOCK + r"\.attn1\.(norm_[qk])\.", r"\1.self_attn.\2."),
    (_BLOCK + r"\.attn2\.to_([qkv])\.", r"\1.cross_attn.\2."),
    (_BLOCK + r"\.attn2\.to_out\.0\.", r"\1.cross_attn.o."),
    (_BLOCK + r"\.attn2\.(norm_[qk])\.", r"\1.cross_attn.\2."),
    (_BLOCK + r"\.norm2\.", r"\1.norm3."),
    (_BLOCK + r"\.ffn\.net\.0\.proj\.", r"\1.ffn.0."),
    (_BLOCK + r"\.ffn\.net\.2\.", r"\1.ffn.2."),
    (_BLOCK + r"\.scale_shift_table$", r"\1.modulation"),
    (r"^condition_embedder\.text_embedder\.linear_1\.", r"text_embedding.0."),
    (r"^condition_embedder\.text_embedder\.linear_2\.", r"text_embedding.2."),
    (r"^condition_embedder\.time_embedder\.linear_1\.", r"time_embedding.0."),
    (r"^condition_embedder\.time_embedder\.linear_2\.", r"time_embedding.2."),
    (r"^condition_embedder\.time_proj\.", r"time_projection.1."),
    (r"^condition_embedder\.image_embedder\.", r"img_emb."),
    (r"^scale_shift_table$", r"head.modulation"),
    (r"^proj_out\.", r"head.head."),
)

_HF_BLOCK = r"^encoder\.block\.(\d+)\.layer"
_UMT5_HUGGINGFACE: Rules = (
    (_HF_BLOCK + r"\.0\.SelfAttention\.([qkvo])\.", r"blocks.\1.attn.\2."),
    (_HF_BLOCK + r"\.0\.SelfAttention\.relative_attention_bias\.", r"blocks.\1.pos_embedding.embedding."),
    (_HF_BLOCK + r"\.0\.layer_norm\.", r"blocks.\1.norm1."),
    (_HF_BLOCK + r"\.1\.layer_norm\.", r"blocks.\1.norm2."),
    (_HF_BLOCK + r"\.1\.DenseReluDense\.wi_0\.", r"blocks.\1.ffn.gate.0."),
    (_HF_BLOCK + r"\.1\.DenseReluDense\.wi_1\.", r"blocks.\1.ffn.fc1."),
    (_HF_BLOCK + r"\.1\.DenseReluDense\.wo\.", r"blocks.\1.ffn.fc2."),
    (r"^(shared|encoder\.embed_tokens)\.", r"token_embedding."),
    (r"^encoder\.final_layer_norm\.", r"norm."),
)

_GGUF_BLOCK = r"^enc\.blk\.(\d+)"
_UMT5_GGUF: Rules = (
    (_GGUF_BLOCK + r"\.attn_([qkvo])\.", r"blocks.\1.attn.\2."),
    (_GGUF_BLOCK + r"\.attn_rel_b\.", r"blocks.\1.pos_embedding.embedding."),
    (_GGUF_BLOCK + r"\.attn_norm\.", r"blocks.\1.norm1."),
    (_GGUF_BLOCK + r"\.ffn_norm\.", r"blocks.\1.norm2."),
    (_GGUF_BLOCK + r"\.ffn_gate\.", r"blocks.\1.ffn.gate.0."),
    (_GGUF_BLOCK + r"\.ffn_up\.", r"blocks.\1.ffn.fc1."),
    (_GGUF_BLOCK + r"\.ffn_down\.", r"blocks.\1.ffn.fc2."),
    (r"^token_embd\.", r"token_embedding."),
    (r"^enc\.output_norm\.", r"norm."),
)

# The VAE's diffusers names change in two places: which part it is, then which layer inside a residual block.
_VAE_PARTS: Rules = (
    (r"^quant_conv\.", r"conv1."),
    (r"^post_quant_conv\.", r"conv2."),
    (r"^(encoder|decoder)\.conv_in\.", r"\1.conv1."),
    (r"^(encoder|decoder)\.norm_out\.", r"\1.head.0."),
    (r"^(encoder|decoder)\.conv_out\.", r"\1.head.2."),
    (r"^(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.middle.0."),
    (r"^(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.middle.1."),
    (r"^(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.middle.2."),
)
_VAE_LAYERS: Rules = (
    (r"^(.+\.(?:down|up)samples\.\d+|.+\.middle\.[02])\.norm1\.", r"\1.residual.0."),
    (r"^(.+\.(?:down|up)samples\.\d+|.+\.middle\.[02])\.conv1\.", r"\1.residual.2."),
    (r"^(.+\.(?:down|up)samples\.\d+|.+\.middle\.[02])\.norm2\.", r"\1.residual.3."),
    (r"^(.+\.(?:down|up)samples\.\d+|.+\.middle\.[02])\.conv2\.", r"\1.residual.6."),
    (r"^(.+\.(?:down|up)samples\.\d+)\.conv_shortcut\.", r"\1.shortcut."),
)
# The 2.1 decoder is one flat list: three residual blocks and a resampler per stage.
_VAE_2_1_STAGES: Rules = (
    (r"^encoder\.down_blocks\.(\d+)\.", r"encoder.downsamples.\1."),
    *(
        (rf"^decoder\.up_blocks\.{b}\.resnets\.{j}\.", rf"decoder.upsamples.{4 * b + j}.")
        for b in range(4)
        for j in range(3)
    ),
    *((rf"^decoder\.up_blocks\.{b}\.upsamplers\.0\.", rf"decoder.upsamples.{4 * b + 3}.") for b in range(3)),
)
_VAE_2_2_STAGES: Rules = (
    (r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"encoder.downsamples.\1.downsamples.\2."),
    (r"^encoder\.down_blocks\.(\d+)\.downsampler\.", r"encoder.downsamples.\1.downsamples.2."),
    (r"^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.", r"decoder.upsamples.\1.upsamples.\2."),
    (r"^decoder\.up_blocks\.(\d+)\.upsampler\.", r"decoder.upsamples.\1.upsamples.3."),
)

# The first whose sign is found wins. LoRA names contain those of the model they are for, so they go first.
LAYOUTS = (
    Layout(
        "lora",
        LORA,
        re.compile(r"[._]lora(?:_linear_layer)?[._](?:A|B|a|b|up|down)\b|\.lokr_|\.hada_|\.diff(?:_[bm])?$"),
    ),
    Layout("released", TRANSFORMER, re.compile(r"^blocks\.\d+\.(?:self|cross)_attn\.[qkvo]\.")),
    Layout(
        "diffusers",
        TRANSFORMER,
        re.compile(r"^blocks\.\d+\.attn[12]\.to_[qkv]\."),
        (_TRANSFORMER_DIFFUSERS,),
    ),
    Layout("released", UMT5, re.compile(r"^blocks\.\d+\.attn\.[qkvo]\.")),
    Layout(
        "huggingface",
        UMT5,
        re.compile(r"^encoder\.block\.\d+\.layer\.0\.SelfAttention\."),
        (_UMT5_HUGGINGFACE,),
    ),
    Layout("gguf", UMT5, re.compile(r"^enc\.blk\.\d+\.attn_"), (_UMT5_GGUF,)),
    Layout(
        "released", VAE_2_2, re.compile(r"^(?:encoder\.down|decoder\.up)samples\.\d+\.(?:down|up)samples\.")
    ),
    Layout(
        "released",
        VAE_2_1,
        re.compile(r"^(?:encoder\.down|decoder\.up)samples\.\d+\.(?:residual|resample)\."),
    ),
    Layout(
        "diffusers",
        VAE_2_2,
        re.compile(
            r"^encoder\.down_blocks\.\d+\.resnets\.\d+\.norm1\.gamma$|^decoder\.up_blocks\.\d+\.upsampler\."
        ),
        (_VAE_PARTS + _VAE_2_2_STAGES, _VAE_LAYERS),
    ),
    Layout(
        "diffusers",
        VAE_2_1,
        re.compile(
            r"^encoder\.down_blocks\.\d+\.norm1\.gamma$|^decoder\.up_blocks\.\d+\.upsamplers\.0\.time_conv\."
        ),
        (_VAE_PARTS + _VAE_2_1_STAGES, _VAE_LAYERS),
    ),
)
