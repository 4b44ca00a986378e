"""LoRA: every spelling gives the same exact change, and what is not applied is accounted for."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wan_core.checkpoints.layouts import LAYOUTS, TRANSFORMER
from wan_core.checkpoints.loras import load_lora, lora_partner
from wan_core.errors import WanError
from wan_core.lora import Scaling, attached, change_bytes, parse_key, with_changes
from wan_core.lora.keys import DIFFUSERS_IN_BLOCK, DIFFUSERS_OUTSIDE
from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.variants.variant import DENSE, HIGH_NOISE, LOW_NOISE

from .lora_files import (
    CONFIG,
    LAYERS,
    RANK,
    SCHEMES,
    SHAPES,
    combined,
    deltas,
    factors,
    loha,
    lokr,
    mixed,
    randn,
    tucker_parts,
)

BOTH = {HIGH_NOISE: 1.0, LOW_NOISE: 1.0}
Q, FFN, PATCH = "blocks.1.self_attn.v", "blocks.0.ffn.2", "patch_embedding"


def saved(path, tensors, metadata=None):
    path.parent.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)
    return path


def load(path, tensors, strengths=BOTH, config=CONFIG, **more):
    return load_lora(saved(path, tensors), config, strengths, **more)


@pytest.fixture(scope="module")
def network():
    module = WanTransformer(CONFIG)
    for index, parameter in enumerate(module.parameters()):
        parameter.data.copy_(0.15 * randn(*parameter.shape, seed=index))
    return module.requires_grad_(False).eval()


def run(network, latent_seed=1):
    latent, context = randn(1, 16, 2, 4, 6, seed=latent_seed), randn(1, 5, CONFIG.text_dim, seed=2)
    return network(latent, torch.tensor([700.0]), context)


def merged(network, changes: dict[str, Tensor], strength=1.0):
    """The same network with the changes added to its weights."""
    twin = WanTransformer(CONFIG, device="meta")
    state = {
        name: value + strength * changes[name].view(value.shape) if name in changes else value
        for name, value in network.state_dict().items()
    }
    assert changes.keys() <= state.keys()
    twin.load_state_dict(state, assign=True)
    return twin


def error(first, second):
    return ((first - second).abs().max() / second.abs().max()).item()


def assert_exact(network, lora, changes, expert=HIGH_NOISE):
    """Same deltas as the dense ones, and the same output as the network with these in its weights."""
    assert {change.parameter for change in lora.changes[expert]} == set(changes)
    wanted = run(merged(network, changes))
    assert error(run(network), wanted) > 1e-3, "the change must be seen for the test to mean anything"
    with attached(network, lora.changes[expert]):
        assert error(run(network), wanted) < 1e-5


# --- spellings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [*SCHEMES, "mixed"])
def test_every_scheme_gives_the_same_delta(scheme, network, tmp_path):
    made = factors()
    tensors = {**SCHEMES, "mixed": mixed}[scheme](made)
    lora = load(tmp_path / "style.safetensors", tensors)
    wanted = deltas(made)
    for expert in BOTH:
        found = {change.parameter: change.delta.dense(torch.float32) for change in lora.changes[expert]}
        assert found.keys() == wanted.keys()
        assert all(error(found[name], wanted[name].flatten(1)) < 1e-6 for name in wanted)
    assert_exact(network, lora, wanted)
    for row in lora.coverage.rows:
        assert sorted(row.applied) == sorted(tensors)
        assert row.skipped == {}
        assert row.unmatched == ()


def test_diffusers_converters_and_ours_agree(tmp_path):
    """diffusers turns Kijai's and musubi's names into its own; read back, they are the same changes."""
    from diffusers.loaders import lora_conversion_utils as theirs

    layers = [layer for layer in LAYERS if layer.startswith("blocks.")]
    wanted = deltas(factors(layers=layers))
    for scheme, convert in (
        ("kijai", theirs._convert_non_diffusers_wan_lora_to_diffusers),
        ("diffusion-pipe", theirs._convert_non_diffusers_wan_lora_to_diffusers),
        ("musubi", theirs._convert_musubi_wan_lora_to_diffusers),
    ):
        converted = convert(SCHEMES[scheme](factors(layers=layers)))  # it writes into what it is given
        assert all(name.startswith("transformer.blocks.") for name in converted)
        lora = load(tmp_path / "style.safetensors", converted)
        found = {change.parameter: change.delta.dense(torch.float32) for change in lora.changes[LOW_NOISE]}
        assert found.keys() == wanted.keys()
        assert all(error(found[name], wanted[name]) < 1e-6 for name in wanted), scheme


def test_the_two_tables_of_diffusers_names_agree():
    layout = next(one for one in LAYOUTS if one.family == TRANSFORMER and one.name == "diffusers")
    for ours, theirs in DIFFUSERS_IN_BLOCK:
        assert layout.rename(f"blocks.7.{theirs}.x").removesuffix(".x") in (
            f"blocks.7.{ours}",
            f"blocks.7.{theirs}",  # the modulation ends its name
        )
    assert layout.rename("blocks.7.scale_shift_table") == "blocks.7.modulation"
    for ours, theirs in DIFFUSERS_OUTSIDE:
        found = {layout.rename(theirs), layout.rename(f"{theirs}.x").removesuffix(".x")}
        assert ours in found


def test_no_two_layers_are_spelled_alike():
    """Dots and underscores are one to the parser, which must not make one layer of two."""
    names = [name.removesuffix(".weight").removesuffix(".bias") for name in SHAPES]
    assert len({name.replace(".", "_") for name in names}) == len(set(names))


@pytest.mark.parametrize(
    ("name", "stem", "part", "adapter"),
    [
        ("lora_unet_blocks_0_self_attn_q.lora_down.weight", "lora_unet_blocks_0_self_attn_q", "down", ""),
        ("blocks.0.self_attn.q.lora_B.default.weight", "blocks.0.self_attn.q", "up", "default"),
        ("blocks.0.self_attn.q.lora_B.bias", "blocks.0.self_attn.q", "up_bias", ""),
        ("blocks.0.attn1.to_q_lora.up.weight", "blocks.0.attn1.to_q", "up", ""),
        ("blocks.0.modulation.diff_m", "blocks.0.modulation", "diff", ""),
        ("blocks.0.ffn.0.lokr_w1_a", "blocks.0.ffn.0", "lokr_w1_a", ""),
        ("blocks.0.ffn.0.lora_magnitude_vector.default.weight", "blocks.0.ffn.0", "dora", "default"),
    ],
)
def test_key_endings(name, stem, part, adapter):
    key = parse_key(name)
    assert (key.stem, key.part, key.adapter) == (stem, part, adapter)


@pytest.mark.parametrize("name", ["blocks.0.self_attn.q.weight", "blocks.0.self_attn.q_loras.down.weight"])
def test_no_adapter_s_key(name):
    assert parse_key(name) is None


# --- kinds of adapters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["diffusion_model.{}", "lycoris_{}", "lora_unet_{}", "{}"])
@pytest.mark.parametrize(
    "make",
    [
        loha,
        lambda layer: lokr(layer, False, False),
        lambda layer: lokr(layer, False, True),
        lambda layer: lokr(layer, True, False),
        lambda layer: lokr(layer, True, True),
    ],
    ids=["loha", "lokr", "lokr-inner-split", "lokr-outer-split", "lokr-both-split"],
)
def test_products_of_factors(make, prefix, network, tmp_path):
    tensors, wanted = {}, {}
    for layer in (Q, FFN, PATCH, "head.head"):
        parts, dense = make(layer)
        stem = prefix.format(layer.replace(".", "_") if "_{" in prefix else layer)
        tensors |= {f"{stem}.{part}": value for part, value in parts.items()}
        wanted[f"{layer}.weight"] = dense
    lora = load(tmp_path / "style.safetensors", tensors)
    assert sorted(lora.coverage.rows[0].applied) == sorted(tensors)
    assert_exact(network, lora, wanted)


def test_a_whole_lokr_has_no_use_for_its_alpha(network, tmp_path):
    parts, dense = lokr(Q, False, False)
    parts["alpha"] = torch.tensor(1e10).half()  # ai-toolkit's, rounded to infinity
    tensors = {f"diffusion_model.{Q}.{part}": value for part, value in parts.items()}
    lora = load(tmp_path / "style.safetensors", tensors)
    assert_exact(network, lora, {f"{Q}.weight": dense})
    assert sorted(lora.coverage.rows[0].applied) == sorted(tensors)


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
def test_cores_of_convolutions(kind, network, tmp_path):
    parts, dense = tucker_parts(kind)
    tensors = {f"lycoris_patch_embedding.{part}": value for part, value in parts.items()}
    assert_exact(network, load(tmp_path / "style.safetensors", tensors), {"patch_embedding.weight": dense})


@pytest.mark.parametrize(("part", "parameter"), [("diff", "weight"), ("diff_b", "bias"), ("diff_m", "")])
@pytest.mark.parametrize("prefix", ["diffusion_model.", "", "transformer."])
def test_plain_differences(part, parameter, prefix, network, tmp_path):
    """Of linear layers, the convolution, both kinds of norm and the modulations."""
    layers = [Q, PATCH, "head.head", "blocks.0.norm3", "time_projection.1", "text_embedding.2"]
    layers += ["blocks.1.self_attn.norm_q", "blocks.0.cross_attn.norm_k"] if part == "diff" else []
    if part == "diff_m":
        wanted = {name: 0.2 * randn(*SHAPES[name]) for name in ("blocks.1.modulation", "head.modulation")}
        tensors = {f"{prefix}{name}.diff_m": value for name, value in wanted.items()}
    else:
        wanted = {f"{layer}.{parameter}": randn(*SHAPES[f"{layer}.{parameter}"]) for layer in layers}
        tensors = {f"{prefix}{layer}.{part}": wanted[f"{layer}.{parameter}"] for layer in layers}
    assert_exact(network, load(tmp_path / "style.safetensors", tensors), wanted)


def test_a_modulation_s_difference_under_its_other_names(network, tmp_path):
    change = 0.2 * randn(*SHAPES["blocks.0.modulation"])
    for name in (
        "blocks.0.modulation.diff",
        "lora_unet_blocks_0_modulation.diff",
        "transformer.blocks.0.scale_shift_table.diff",
        "diffusion_model.blocks.0.diff_m",
    ):
        lora = load(tmp_path / "style.safetensors", {name: change})
        assert_exact(network, lora, {"blocks.0.modulation": change})


def test_norms_of_lycoris_and_biases_of_peft(network, tmp_path):
    up, down = factors()[Q]
    weight, bias, up_bias = randn(96, seed=1), randn(96, seed=2), randn(96, seed=3)
    tensors = {
        "lycoris_blocks_0_norm3.w_norm": weight,
        "lycoris_blocks_0_norm3.b_norm": bias,
        f"base_model.model.{Q}.lora_A.weight": down,
        f"base_model.model.{Q}.lora_B.weight": up,
        f"base_model.model.{Q}.lora_B.bias": up_bias,
        f"base_model.model.{Q}.alpha": torch.tensor(3.0),
    }
    wanted = {
        "blocks.0.norm3.weight": weight,
        "blocks.0.norm3.bias": bias,
        f"{Q}.weight": 3 / RANK * up @ down,
        f"{Q}.bias": 3 / RANK * up_bias,
    }
    assert_exact(network, load(tmp_path / "style.safetensors", tensors), wanted)


def test_two_adapters_of_one_layer_add_up(network, tmp_path):
    (up, down), (up2, down2) = factors()[Q], factors(1)[Q]
    tensors = {
        f"{Q}.lora_A.default.weight": down,
        f"{Q}.lora_B.default.weight": up,
        f"{Q}.lora_A.detail.weight": down2,
        f"{Q}.lora_B.detail.weight": up2,
        f"{Q}.diff_b": torch.ones(96),
    }
    wanted = {f"{Q}.weight": up @ down + up2 @ down2, f"{Q}.bias": torch.ones(96)}
    assert_exact(network, load(tmp_path / "style.safetensors", tensors), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float64])
def test_stored_dtypes(dtype, network, tmp_path):
    made = {layer: (up.to(dtype), down.to(dtype)) for layer, (up, down) in factors().items()}
    tensors = {}
    for layer, (up, down) in made.items():
        tensors |= {f"diffusion_model.{layer}.lora_down.weight": down}
        tensors |= {f"diffusion_model.{layer}.lora_up.weight": up}
        tensors |= {f"diffusion_model.{layer}.alpha": torch.tensor(2, dtype=torch.int64)}
    wanted = deltas({layer: (up.float(), down.float()) for layer, (up, down) in made.items()})
    assert_exact(network, load(tmp_path / "style.safetensors", tensors), wanted)


def test_a_pytorch_archive(network, tmp_path):
    made = factors()
    torch.save(SCHEMES["lightning-default"](made), tmp_path / "style.pt")
    assert_exact(network, load_lora(tmp_path / "style.pt", CONFIG, BOTH), deltas(made))


def test_a_missing_alpha_means_one_and_rslora_is_said_by_peft(network, tmp_path):
    up, down = factors()[Q]
    tensors = {f"base_model.model.{Q}.lora_A.weight": down, f"base_model.model.{Q}.lora_B.weight": up}

    def factor(path, metadata=None):
        lora = load_lora(saved(path, tensors, metadata), CONFIG, BOTH)
        return lora.changes[HIGH_NOISE][0].delta.scale

    config = {"lora_alpha": 6, "r": RANK, "use_rslora": True}
    assert factor(tmp_path / "plain.safetensors") == 1
    assert factor(tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(config)}) == 3
    flat = {f"transformer.{name}": value for name, value in config.items()}
    assert factor(tmp_path / "b.safetensors", {"lora_adapter_metadata": json.dumps(flat)}) == 3
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": False}))
    assert factor(tmp_path / "adapter_model.safetensors") == 1.5
    # a config is peft's file's own, not every file's in its folder
    assert factor(tmp_path / "plain.safetensors") == 1
    by_layer = config | {"use_rslora": False, "alpha_pattern": {"self_attn.v": 2}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(by_layer))
    assert factor(tmp_path / "adapter_model.safetensors") == 0.5
    (tmp_path / "adapter_config.json").write_text("<html>")
    with pytest.raises(WanError, match=r"adapter_config\.json is no table of settings"):
        factor(tmp_path / "adapter_model.safetensors")


def test_an_alpha_of_its_own_goes_before_peft_s():
    assert Scaling(alpha=8.0).factor("blocks.0.ffn.0", 4) == 2


# --- wearing ------------------------------------------------------------------------------------------------


def test_strength_scales_the_change_and_several_add_up(network, tmp_path):
    first, second = factors(0, [Q, FFN]), factors(1, [Q, PATCH])
    half = load(tmp_path / "a.safetensors", SCHEMES["musubi"](first), {HIGH_NOISE: 0.5, LOW_NOISE: -2.0})
    other = load(tmp_path / "b.safetensors", SCHEMES["diffusers"](second))
    for expert, strength in ((HIGH_NOISE, 0.5), (LOW_NOISE, -2.0)):
        wanted = deltas(second)
        for name, delta in deltas(first).items():
            wanted[name] = wanted.get(name, 0) + strength * delta
        with attached(network, half.changes[expert] + other.changes[expert]):
            assert error(run(network), run(merged(network, wanted))) < 1e-5


def test_nothing_stays_behind(network, tmp_path):
    before = run(network)
    tensors = SCHEMES["kijai"](factors()) | {"blocks.0.modulation.diff_m": torch.ones(1, 6, 96)}
    lora = load(tmp_path / "style.safetensors", tensors)
    state = {name: value.data_ptr() for name, value in network.state_dict().items()}
    worn = with_changes(network, lora.changes[HIGH_NOISE], torch.device("cpu"))
    assert error(run(worn), before) > 1e-3
    with pytest.raises(WanError):  # also when the network refuses
        worn(torch.zeros(1, 3, 1, 2, 2), torch.tensor([1.0]), torch.zeros(1, 1, CONFIG.text_dim))
    assert torch.equal(run(network), before)
    assert {name: value.data_ptr() for name, value in network.state_dict().items()} == state
    assert with_changes(network, (), torch.device("cpu")) is network


def test_factors_are_kept_as_stored(tmp_path):
    tensors = SCHEMES["kijai"](factors())
    lora = load(tmp_path / "style.safetensors", tensors)
    stored = sum(value.nbytes for name, value in tensors.items() if not name.endswith("alpha"))
    assert change_bytes(lora.changes[HIGH_NOISE]) == stored


def test_in_bfloat16(tmp_path):
    network = WanTransformer(CONFIG, dtype=torch.bfloat16).requires_grad_(False)
    for index, parameter in enumerate(network.parameters()):
        parameter.data.copy_(0.15 * randn(*parameter.shape, seed=index))
    made = factors()
    lora = load(tmp_path / "style.safetensors", SCHEMES["kijai"](made))
    exact = merged(network.float(), deltas(made))
    network.compute_dtype = torch.bfloat16
    with attached(network.to(torch.bfloat16), lora.changes[HIGH_NOISE]):
        assert error(run(network), run(exact)) < 0.03


# --- experts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefixes",
    [
        ("diffusion_model.transformer_1.", "diffusion_model.transformer_2."),
        ("transformer.", "transformer_2."),
        ("high_noise_model.", "low_noise_model."),
        ("diffusion_model.high_noise.", "diffusion_model.low_noise."),
        ("pipe.dit.", "pipe.dit2."),
        ("base_model.model.transformer_1.", "base_model.model.transformer_2."),
        ("transformer.transformer_1.", "transformer.transformer_2."),
        ("dit.high_noise.", "dit.low_noise."),
    ],
    ids=lambda prefixes: prefixes[0],
)
def test_one_file_for_two_experts(prefixes, network, tmp_path):
    high, low = factors(0), factors(1)
    lora = load(tmp_path / "both.safetensors", combined(high, low, prefixes))
    assert_exact(network, lora, deltas(high), HIGH_NOISE)
    assert_exact(network, lora, deltas(low), LOW_NOISE)
    for row, prefix in zip(lora.coverage.rows, prefixes, strict=True):
        assert len(row.applied) == 2 * len(LAYERS)
        assert all(name.startswith(prefix) for name in row.applied)


def test_one_expert_of_a_combined_file(tmp_path):
    tensors = combined(factors(), {}, ("diffusion_model.transformer_1.", "diffusion_model.transformer_2."))
    with pytest.raises(WanError, match="none of its"):
        load(tmp_path / "both.safetensors", tensors, {DENSE: 1.0})
    lora = load(tmp_path / "both.safetensors", tensors)
    assert lora.changes[HIGH_NOISE]
    assert lora.changes[LOW_NOISE] == ()


def test_a_pair_is_found_by_name_and_each_feeds_its_own(tmp_path):
    high, low = factors(0, [Q]), factors(1, [Q])
    first = saved(tmp_path / "x" / "style_high_noise.safetensors", SCHEMES["kijai"](high))
    second = saved(tmp_path / "x" / "style_low_noise.safetensors", SCHEMES["kijai"](low))
    assert lora_partner(first) == second
    assert lora_partner(second) == first
    for one, other in ((first, second), (second, first)):
        lora = load_lora(one, CONFIG, {HIGH_NOISE: 1.0, LOW_NOISE: 0.5}, other)
        for expert, made, strength in ((HIGH_NOISE, high, 1.0), (LOW_NOISE, low, 0.5)):
            (change,) = lora.changes[expert]
            assert change.strength == strength
            assert torch.equal(change.delta.up, made[Q][0])
        assert [row.file for row in lora.coverage.rows] == [first.name, second.name]


def test_partners_in_folders(tmp_path):
    tensors = SCHEMES["kijai"](factors(0, [Q]))
    high = saved(tmp_path / "high_noise_model" / "style.safetensors", tensors)
    low = saved(tmp_path / "low_noise_model" / "style.safetensors", tensors)
    saved(tmp_path / "other" / "style.safetensors", tensors)
    assert lora_partner(high) == low
    assert lora_partner(tmp_path / "other" / "style.safetensors") is None


def test_a_name_that_says_an_expert_feeds_that_one(tmp_path):
    path = tmp_path / "style_low_noise.safetensors"
    lora = load(path, SCHEMES["kijai"](factors(0, [Q])))
    assert lora.changes[HIGH_NOISE] == ()
    assert len(lora.changes[LOW_NOISE]) == 1
    assert "high-noise expert gets nothing" in lora.coverage.text()
    both = load_lora(path, CONFIG, BOTH, path)
    assert [len(both.changes[expert]) for expert in BOTH] == [1, 1]


def test_strength_zero_leaves_an_expert_alone(tmp_path):
    tensors = SCHEMES["kijai"](factors(0, [Q]))
    lora = load(tmp_path / "style.safetensors", tensors, {HIGH_NOISE: 0.0, LOW_NOISE: 1.0})
    assert lora.changes[HIGH_NOISE] == ()
    assert len(lora.changes[LOW_NOISE]) == 1
    assert lora.coverage.rows[0].skipped == {"strength 0": tuple(tensors)}


def test_a_dense_model_takes_the_file_whole(network, tmp_path):
    made = factors(0, [Q])
    partner = saved(tmp_path / "style_low_noise.safetensors", SCHEMES["kijai"](made))
    path = tmp_path / "style_high_noise.safetensors"
    lora = load(path, SCHEMES["kijai"](made), {DENSE: 1.0}, partner=partner)
    assert_exact(network, lora, deltas(made), DENSE)
    assert "style_low_noise.safetensors is left out: the model is one network" in lora.coverage.text()


# --- what is not applied ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (
            [
                "diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight",
                "lora_unet_blocks_0_cross_attn_v_img.lora_down.weight",
                "lora_unet_blocks_0_cross_attn_v_img.alpha",
                "transformer.blocks.0.attn2.add_k_proj.lora_A.weight",
                "diffusion_model.blocks.0.cross_attn.norm_k_img.diff",
                "diffusion_model.img_emb.proj.1.lora_A.weight",
            ],
            "image branch of Wan2.1 (k_img, v_img, img_emb), which no Wan2.2 model has",
        ),
        (["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"], "text encoder"),
        (["text_encoder.blocks.0.attn.q.lora_A.weight"], "text encoder"),
        (["blocks.0.self_attn.q_loras.down.weight"], "Stand-In"),
        (["dwpose_embedding.0.weight", "randomref_embedding_pose.0.weight"], "UniAnimate"),
        (["vace_blocks.0.self_attn.q.lora_A.weight"], "VACE"),
        (["diffusion_model.control_adapter.conv.lora_A.weight"], "branch of another Wan variant"),
        (["diffusion_model.blocks.2.self_attn.q.lora_A.weight"], "block beyond the 2 of this model"),
        ([f"{Q}.oft_blocks", f"{Q}.a1.weight"], "kind of adapter that is not supported"),
        ([f"{FFN}.lora_up.weight"], "half of an adapter (down missing)"),
        ([f"{Q}.hada_w1_a"], "half of an adapter (hada_w1_b missing)"),
    ],
)
def test_what_has_no_place_is_told_in_one_line(names, reason, tmp_path):
    good = SCHEMES["kijai"](factors(0, ["blocks.0.ffn.0"]))
    lora = load(tmp_path / "style.safetensors", good | {name: torch.ones(4, 4) for name in names})
    for row in lora.coverage.rows:
        assert sorted(row.applied) == sorted(good)
        (found,) = row.skipped
        assert found.startswith(reason)
        assert sorted(row.skipped[found]) == sorted(names)
        assert row.unmatched == ()
    assert lora.coverage.text().count(reason) == 1


def test_dora_is_left_out(tmp_path):
    up, down = factors()[Q]
    parts = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(1.0)}
    tensors = {f"{Q}.{part}": value for part, value in parts.items()} | {f"{Q}.dora_scale": torch.ones(96, 1)}
    good = SCHEMES["kijai"](factors(0, ["blocks.0.ffn.0"]))
    lora = load(tmp_path / "style.safetensors", tensors | good)
    assert lora.coverage.rows[0].skipped.keys() == {"DoRA, which needs the weights themselves"}
    assert sorted(*lora.coverage.rows[0].skipped.values()) == sorted(tensors)


def test_a_control_lora_s_wide_patch_embedding_is_left_out(tmp_path):
    good = SCHEMES["kijai"](factors(0, [Q]))
    wide = {
        "patch_embedding.lora_A.weight": torch.ones(RANK, 32, 1, 2, 2),
        "patch_embedding.lora_B.weight": torch.ones(96, RANK, 1, 1, 1),
    }
    lora = load(tmp_path / "style.safetensors", good | wide)
    assert lora.coverage.rows[0].skipped == {
        "layer of another shape (96 x 128, this model has 96 x 64)": tuple(wide)
    }


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"lora_A.weight": (4,), "lora_B.weight": (96, 4)}, "adapter with a factor that is no matrix"),
        ({"lora_A.weight": (0, 96), "lora_B.weight": (96, 0)}, "adapter with a factor that is no matrix"),
        ({"lora_A.weight": (4, 96), "lora_B.weight": (96, 8)}, "adapter whose factors do not fit"),
        ({"hada_w1_a": (), "hada_w1_b": (4, 96), "hada_w2_a": (96, 4), "hada_w2_b": (4, 96)}, "adapter with"),
        (
            {"hada_w1_a": (96, 4), "hada_w1_b": (4, 96), "hada_w2_a": (96, 4), "hada_w2_b": (4, 90)},
            "adapter whose factors do not fit",
        ),
        (
            {"lokr_w1": (8, 5), "lokr_w2": (12, 24)},
            "layer of another shape (96 x 120, this model has 96 x 96)",
        ),
        ({"lokr_w1": (8, 4), "lokr_t2": (4,), "lokr_w2_a": (4, 12), "lokr_w2_b": (4, 24)}, "adapter whose"),
        ({"diff_b": (96, 1)}, "layer of another shape (96 x 1, this model has 96)"),
        ({"diff": (96,)}, "layer of another shape (96, this model has 96 x 96)"),
    ],
)
def test_damaged_adapters_are_left_out(parts, reason, tmp_path):
    good = SCHEMES["kijai"](factors(0, ["blocks.0.ffn.0"]))
    bad = {f"{Q}.{part}": torch.ones(shape) for part, shape in parts.items()}
    bad |= {f"{Q}.alpha": torch.tensor(1.0)}
    lora = load(tmp_path / "style.safetensors", good | bad)
    (found,) = lora.coverage.rows[0].skipped
    assert found.startswith(reason)
    assert sorted(lora.coverage.rows[0].skipped[found]) == sorted(bad)


def test_adapters_of_norms_are_left_out(tmp_path):
    good = SCHEMES["kijai"](factors(0, [Q]))
    bad = {
        f"blocks.0.norm3.lora_{part}.weight": torch.ones(shape)
        for part, shape in (("A", (4, 1)), ("B", (96, 4)))
    }
    bad |= {"blocks.0.self_attn.norm_q.diff_b": torch.ones(96)}
    lora = load(tmp_path / "style.safetensors", good | bad)
    assert sorted(lora.coverage.rows[0].skipped) == [
        "change of a bias that its layer does not have",
        "layer of another shape (96 x 1, this model has 96)",
    ]


def test_a_layer_spelled_twice_is_changed_once(network, tmp_path):
    made = factors(0, [Q, FFN])
    tensors = {}
    for scheme in ("kijai", "diffusers", "musubi"):
        tensors |= SCHEMES[scheme]({layer: (up.clone(), down.clone()) for layer, (up, down) in made.items()})
    lora = load(tmp_path / "style.safetensors", tensors)
    assert_exact(network, lora, deltas(made))
    row = lora.coverage.rows[0]
    assert row.skipped.keys() == {"second spelling of a tensor that is there already"}
    assert len(row.applied) + sum(map(len, row.skipped.values())) == len(tensors)


def test_strangers_are_unmatched(tmp_path):
    good = SCHEMES["kijai"](factors(0, [Q]))
    odd = {"blocks.0.self_attn.qq.lora_A.weight": torch.ones(4, 4), "blocks.0.norm3.weight": torch.ones(96)}
    odd |= {f"{FFN}.alpha": torch.tensor(1.0)}
    lora = load(tmp_path / "style.safetensors", good | odd)
    assert sorted(lora.coverage.rows[0].unmatched) == sorted(odd)
    assert sum(map(len, (lora.coverage.rows[0].applied, odd))) == len(good | odd)


def test_coverage_as_data_and_as_a_table(tmp_path):
    good = SCHEMES["kijai"](factors(0, [Q]))
    lora = load(
        tmp_path / "style.safetensors", good | {"odd\nname": torch.ones(1)}, {HIGH_NOISE: 1, LOW_NOISE: 0.5}
    )
    data = json.loads(json.dumps(lora.coverage.to_dict()))
    assert [row["expert"] for row in data["experts"]] == [HIGH_NOISE, LOW_NOISE]
    assert data["experts"][1] == {
        "expert": LOW_NOISE,
        "file": "style.safetensors",
        "strength": 0.5,
        "applied": sorted(good),
        "skipped": {},
        "unmatched": ["odd\nname"],
    } | {"applied": data["experts"][1]["applied"]}
    head, high, low, *rest = lora.coverage.text().splitlines()
    assert head.split() == ["expert", "strength", "applied", "skipped", "unmatched", "file"]
    assert high.split() == ["high-noise", "1.00", "3", "0", "1", "style.safetensors"]
    assert low.split() == ["low-noise", "0.50", "3", "0", "1", "style.safetensors"]
    assert rest == ["unmatched 1 of style.safetensors: odd?name"]


# --- refusals -----------------------------------------------------------------------------------------------


def refused(path, tensors, match, **more):
    with pytest.raises(WanError, match=match) as caught:
        load(path, tensors, **more)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(path.name)


def test_a_lora_of_another_width_names_both(tmp_path):
    wide = TransformerConfig(**{**vars(CONFIG), "dim": 192, "num_layers": 1})
    refused(
        tmp_path / "style.safetensors",
        SCHEMES["kijai"](factors()),
        r"none of its .* fits this model .*96 x 96, this model has 192 x 192",
        config=wide,
    )


def test_a_model_is_no_lora(tmp_path, network):
    refused(tmp_path / "model.safetensors", network.state_dict(), "is a Wan transformer, not a LoRA")


def test_nothing_applied(tmp_path):
    tensors = {"blocks.0.self_attn.qq.lora_A.weight": torch.ones(4, 4)}
    refused(tmp_path / "style.safetensors", tensors, "none of its 1 tensors fits this model .*does not have")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan(tmp_path, value):
    tensors = SCHEMES["kijai"](factors(0, [Q]))
    tensors[f"diffusion_model.{Q}.lora_up.weight"] = torch.full((96, RANK), value)
    refused(tmp_path / "style.safetensors", tensors, r"self_attn\.v\.lora_up\.weight holds NaN")


def test_integers(tmp_path):
    tensors = SCHEMES["kijai"](factors(0, [Q]))
    tensors[f"diffusion_model.{Q}.lora_up.weight"] = torch.ones(96, RANK, dtype=torch.int8)
    refused(tmp_path / "style.safetensors", tensors, "stored as int8, expected plain floats")


def test_a_bad_alpha(tmp_path):
    tensors = SCHEMES["kijai"](factors(0, [Q])) | {f"diffusion_model.{Q}.alpha": torch.ones(2)}
    refused(tmp_path / "style.safetensors", tensors, "is no single finite number")


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 101.0])
def test_a_bad_strength(tmp_path, strength):
    with pytest.raises(WanError, match="strength of the low_noise expert"):
        load(
            tmp_path / "style.safetensors",
            SCHEMES["kijai"](factors(0, [Q])),
            {HIGH_NOISE: 1.0, LOW_NOISE: strength},
        )
