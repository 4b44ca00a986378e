"""Every name of every released model at full size, in every layout: recognised, and mapped to the released.

The lists are those of the released models: a block is written out once in the golden file and repeated here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.checkpoint_files import KEYMAPS
from wan_core.checkpoints.detect import Detection, detect
from wan_core.checkpoints.header import Header, TensorInfo
from wan_core.models.transformer import TransformerConfig, WanTransformer

T2V = TransformerConfig()
I2V = TransformerConfig(in_channels=36)
TI2V = TransformerConfig(48, 48, dim=3072, ffn_dim=14336, num_heads=24, num_layers=30)


def every_block(names: Mapping[str, object], blocks: int) -> dict[str, object]:
    """The table with block 0 repeated; the table's other blocks are left out."""
    table: dict[str, object] = {}
    for name, value in names.items():
        if not name.startswith("blocks."):
            table[name] = value
        elif name.startswith("blocks.0."):
            for block in range(blocks):
                other = value.replace(".0.", f".{block}.", 1) if isinstance(value, str) else value
                table[name.replace("blocks.0.", f"blocks.{block}.", 1)] = other
    return table


def released_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    state = WanTransformer(config, device="meta").state_dict()
    return {name: tuple(value.shape) for name, value in state.items()}


def models() -> dict[str, tuple[str, str | None, int, dict, dict[str, dict[str, str]]]]:
    """model -> family, task, parameters, shapes by released name, layouts (released name -> the other)"""
    diffusers = KEYMAPS["transformer"]["diffusers"]
    umt5 = {name: every_block(table, 24) for name, table in KEYMAPS["umt5"].items()}
    transformers = {
        name: (
            "wan-transformer",
            name,
            count,
            released_shapes(config),
            {"diffusers": every_block(diffusers, config.num_layers)},
        )
        for name, config, count in (
            ("t2v", T2V, 14_288_491_584),
            ("i2v", I2V, 14_288_901_184),
            ("ti2v", TI2V, 4_999_787_712),
        )
    }
    return {
        **transformers,
        "umt5": (
            "umt5",
            None,
            5_680_910_336,
            umt5["shapes"],
            {"huggingface": umt5["hf"], "gguf": umt5["gguf"]},
        ),
        "vae 2.1": (
            "wan-vae-2.1",
            None,
            126_892_531,
            KEYMAPS["vae2_1"]["shapes"],
            {"diffusers": KEYMAPS["vae2_1"]["diffusers"]},
        ),
        "vae 2.2": (
            "wan-vae-2.2",
            None,
            704_688_668,
            KEYMAPS["vae2_2"]["shapes"],
            {"diffusers": KEYMAPS["vae2_2"]["diffusers"]},
        ),
    }


MODELS = models()
CASES = [(model, layout) for model, row in MODELS.items() for layout in ("released", *row[4])]


def detected(
    shapes: Mapping[str, object], stored: Mapping[str, str], prefix: str = "", **more: tuple[int, ...]
) -> Detection:
    table = {prefix + stored[name]: tuple(shape) for name, shape in shapes.items()} | more
    file = Path("model.safetensors")
    return detect(
        Header("safetensors", {name: TensorInfo("BF16", shape, 0, 0, file) for name, shape in table.items()})
    )


@pytest.mark.parametrize(("model", "layout"), CASES)
@pytest.mark.parametrize(
    "prefix", ["", "model.diffusion_model.", "diffusion_model.", "model.", "module.", "module._orig_mod."]
)
def test_a_full_size_model_is_known_by_its_names(model: str, layout: str, prefix: str):
    family, task, parameters, shapes, layouts = MODELS[model]
    stored = layouts.get(layout, {name: name for name in shapes})
    found = detected(shapes, stored, prefix)
    assert (found.family, found.task, found.prefix) == (family, task, prefix)
    assert found.layout == ("comfyui" if "model." in prefix else layout)
    assert found.names == {name: prefix + stored[name] for name in shapes}
    assert sum(info.elements for info in found.tensors.values()) == parameters
    assert {name: info.shape for name, info in found.tensors.items()} == {
        name: tuple(shape) for name, shape in shapes.items()
    }


def test_the_lists_are_as_long_as_the_released_ones():
    lengths = {model: len(row[3]) for model, row in MODELS.items()}
    assert lengths == {"t2v": 1095, "i2v": 1095, "ti2v": 825, "umt5": 242, "vae 2.1": 194, "vae 2.2": 196}
    assert all(
        len(set(table.values())) == lengths[model]
        for model, row in MODELS.items()
        for table in row[4].values()
    )


def test_a_tied_embedding_and_the_tokenizer_add_no_parameters():
    family, _, parameters, shapes, layouts = MODELS["umt5"]
    more = {"encoder.embed_tokens.weight": (256384, 4096), "spiece_model": (4_548_313,)}
    found = detected(shapes, layouts["huggingface"], **more)
    assert (found.family, found.layout, found.has_tokenizer) == (family, "comfyui", True)
    assert found.tensors.keys() == shapes.keys()
    assert sum(info.elements for info in found.tensors.values()) == parameters
