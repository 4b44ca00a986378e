"""Opening and loading: released names from every layout, mapped tensors, the strict audit, the right slot."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from tests.unit import checkpoint_files as files
from wan_core.checkpoints import (
    check_pair,
    check_text_encoder,
    expert_of,
    find_partner,
    load_module,
    open_checkpoint,
    require,
    same_weights,
    transformer_config,
    umt5_config,
    vae_config,
)
from wan_core.checkpoints.layouts import LAYOUTS
from wan_core.errors import WanError
from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.models.umt5 import UMT5Encoder
from wan_core.models.vae_2_1 import WanVAE
from wan_core.variants import I2V_A14B, T2V_A14B, TI2V_5B, variant_for_task


def layout(name: str, family: str):
    return next(item for item in LAYOUTS if (item.name, item.family) == (name, family))


@pytest.mark.parametrize(
    ("name", "family", "table"),
    [
        ("diffusers", "wan-transformer", files.KEYMAPS["transformer"]["diffusers"]),
        ("huggingface", "umt5", files.KEYMAPS["umt5"]["hf"]),
        ("gguf", "umt5", files.KEYMAPS["umt5"]["gguf"]),
        ("diffusers", "wan-vae-2.1", files.KEYMAPS["vae2_1"]["diffusers"]),
        ("diffusers", "wan-vae-2.2", files.KEYMAPS["vae2_2"]["diffusers"]),
    ],
)
def test_every_name_of_a_layout_becomes_the_released_one(name: str, family: str, table: dict[str, str]):
    wrong = {other: layout(name, family).rename(other) for other in table.values()}
    assert wrong == {other: released for released, other in table.items()}


@pytest.mark.parametrize(("name", "family"), [("released", "wan-transformer"), ("released", "umt5")])
def test_released_names_stay(name: str, family: str):
    assert layout(name, family).rename("blocks.0.self_attn.q.weight") == "blocks.0.self_attn.q.weight"


def toy_layouts() -> dict[str, tuple[dict, dict]]:
    """case -> (released tensors, the same as stored)"""
    t, u, v = files.transformer(), files.umt5(), files.vae()
    hf = files.renamed(u, files.KEYMAPS["umt5"]["hf"])
    return {
        "transformer released": (t, t),
        "transformer comfyui": (t, {f"model.diffusion_model.{name}": value for name, value in t.items()}),
        "transformer diffusers": (t, files.renamed(t, files.KEYMAPS["transformer"]["diffusers"])),
        "umt5 huggingface": (u, hf),
        "umt5 tied twice": (u, {**hf, "encoder.embed_tokens.weight": hf["shared.weight"].clone()}),
        "umt5 comfyui": (u, {**hf, "spiece_model": torch.arange(9, dtype=torch.uint8)}),
        "vae prefixed": (v, {f"model.{name}": value for name, value in v.items()}),
        "vae diffusers": (v, files.renamed(v, files.KEYMAPS["vae2_1"]["diffusers"])),
    }


@pytest.mark.parametrize("case", toy_layouts())
def test_every_layout_opens_under_released_names_with_the_same_numbers(case: str, tmp_path: Path):
    released, stored = toy_layouts()[case]
    checkpoint = open_checkpoint(files.save(tmp_path / "file.safetensors", stored))
    loaded = checkpoint.load()
    assert loaded.keys() == released.keys() == checkpoint.header.keys()
    assert all(torch.equal(loaded[name], released[name]) for name in released)
    assert all(checkpoint.header[name].shape == tuple(released[name].shape) for name in released)


def test_the_tokenizer_inside_a_text_encoder_comes_out_byte_for_byte(tmp_path: Path):
    released, stored = toy_layouts()["umt5 comfyui"]
    assert open_checkpoint(files.save(tmp_path / "a.safetensors", stored)).spiece_model() == bytes(range(9))
    assert open_checkpoint(files.save(tmp_path / "b.safetensors", released)).spiece_model() is None


def test_configs_come_from_the_shapes(tmp_path: Path):
    path = tmp_path / "file.safetensors"
    assert (
        transformer_config(open_checkpoint(files.save(path, files.transformer())).header) == files.TRANSFORMER
    )
    assert umt5_config(open_checkpoint(files.save(path, files.umt5())).header) == files.UMT5
    assert vae_config(open_checkpoint(files.save(path, files.vae())).header) == files.VAE


@pytest.mark.parametrize(
    "config",
    [
        TransformerConfig(),
        TransformerConfig(in_channels=36),
        TransformerConfig(
            in_channels=48, out_channels=48, dim=3072, ffn_dim=14336, num_heads=24, num_layers=30
        ),
        TransformerConfig(dim=256, ffn_dim=512, num_heads=2, num_layers=4, text_dim=128),
    ],
)
def test_released_transformer_sizes_are_read_back_from_their_shapes(config: TransformerConfig):
    assert transformer_config(WanTransformer(config, device="meta").state_dict()) == config


def test_a_width_that_is_no_multiple_of_the_head_is_refused():
    tensors = WanTransformer(
        TransformerConfig(dim=96, num_heads=1, num_layers=1, ffn_dim=8), device="meta"
    ).state_dict()
    with pytest.raises(WanError, match="96 channels, expected a multiple of 128"):
        transformer_config(tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_modules_take_the_file_as_it_is_or_in_the_dtype_asked_for(dtype: torch.dtype, tmp_path: Path):
    stored = {name: value.to(dtype) for name, value in files.transformer().items()}
    checkpoint = open_checkpoint(files.save(tmp_path / "file.safetensors", stored))
    module = load_module(WanTransformer(files.TRANSFORMER, device="meta"), checkpoint)
    assert all(torch.equal(value, stored[name]) for name, value in module.state_dict().items())
    assert not any(parameter.requires_grad for parameter in module.parameters())
    wide = load_module(WanTransformer(files.TRANSFORMER, device="meta"), checkpoint, dtype=torch.float64)
    assert all(value.dtype == torch.float64 for value in wide.state_dict().values())


def test_text_encoder_and_vae_load_too(tmp_path: Path):
    text_encoder = open_checkpoint(files.save(tmp_path / "t.safetensors", toy_layouts()["umt5 comfyui"][1]))
    load_module(UMT5Encoder(umt5_config(text_encoder.header), device="meta"), text_encoder)
    vae = open_checkpoint(files.save(tmp_path / "v.safetensors", files.vae()))
    load_module(WanVAE(vae_config(vae.header), device="meta"), vae)


def test_tensors_are_mapped_and_writing_to_one_leaves_the_file_alone(tmp_path: Path):
    path = files.save(tmp_path / "file.safetensors", files.transformer())
    before = path.read_bytes()
    tensors = open_checkpoint(path).load()
    lowest = min(value.data_ptr() for value in tensors.values())
    highest = max(value.data_ptr() + value.nbytes for value in tensors.values())
    assert highest - lowest <= len(before)  # one mapping of the file, not a copy per tensor
    tensors["head.modulation"].zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("blocks.1.ffn.2.bias"), ["blocks.1.ffn.2.bias"]),
        (lambda t: t.update(stray=torch.ones(1)), ["1 unexpected (stray)"]),
        (lambda t: t.update({"head.head.bias": torch.ones(7)}), ["head.head.bias is [7], expected [64]"]),
    ],
)
def test_the_audit_names_each_kind_of_fault(change, words: list[str], tmp_path: Path):
    tensors = files.transformer()
    change(tensors)
    path = files.save(tmp_path / "broken.safetensors", tensors)
    with pytest.raises(WanError) as caught:
        load_module(WanTransformer(files.TRANSFORMER, device="meta"), open_checkpoint(path))
    text = str(caught.value)
    assert text.startswith("broken.safetensors: ")
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_a_second_tensor_for_one_place_is_unexpected(tmp_path: Path):
    """Only the text encoder's embedding is stored twice in good files."""
    stored = files.renamed(files.transformer(), files.KEYMAPS["transformer"]["diffusers"])
    path = files.save(tmp_path / "twice.safetensors", stored | {"head.modulation": torch.ones(1, 2, 128)})
    with pytest.raises(WanError, match=r"1 unexpected \((scale_shift_table|head.modulation)\)"):
        load_module(WanTransformer(files.TRANSFORMER, device="meta"), open_checkpoint(path))


def test_many_faults_stay_one_line_with_a_count(tmp_path: Path):
    checkpoint = open_checkpoint(files.save(tmp_path / "file.safetensors", files.transformer()))
    deeper = TransformerConfig(**{**vars(files.TRANSFORMER), "num_layers": 3})
    with pytest.raises(WanError, match=r"27 missing \(blocks.2.modulation, .* and 24 more\)"):
        load_module(WanTransformer(deeper, device="meta"), checkpoint)


def test_a_buffer_left_on_meta_is_an_error(tmp_path: Path):
    class WithTable(WanTransformer):
        def __init__(self) -> None:
            super().__init__(files.TRANSFORMER, device="meta")
            self.register_buffer("table", torch.empty(3, device="meta"), persistent=False)

    path = files.save(tmp_path / "file.safetensors", files.transformer())
    with pytest.raises(WanError, match=r"1 tensors got no values \(table\)"):
        load_module(WithTable(), open_checkpoint(path))


def test_wrong_file_in_a_slot_says_what_it_is_and_what_is_needed(tmp_path: Path):
    vae = open_checkpoint(files.save(tmp_path / "wan_2.1_vae.safetensors", files.vae()))
    with pytest.raises(
        WanError, match=r"is a Wan2.1 VAE, but the high-noise slot needs a Wan transformer; choose"
    ):
        require(vae, "high_noise")
    assert require(vae, "vae", T2V_A14B) is vae
    with pytest.raises(WanError, match=r"needs a Wan2.2 VAE; choose a file such as wan2.2_vae.safetensors"):
        require(vae, "vae", TI2V_5B)
    model = open_checkpoint(files.save(tmp_path / "i2v.safetensors", files.transformer(in_channels=36)))
    with pytest.raises(
        WanError, match=r"for image to video, but .* needs the transformer of Wan2.2 T2V-A14B"
    ):
        require(model, "high_noise", T2V_A14B)


def test_the_same_expert_twice_is_caught_whatever_it_is_called_and_stored_as(tmp_path: Path):
    first = files.transformer(seed=1)
    high = open_checkpoint(files.save(tmp_path / "high.safetensors", first))
    copy = open_checkpoint(
        files.save(tmp_path / "low.safetensors", {f"model.{k}": v.half() for k, v in first.items()})
    )
    brain = open_checkpoint(
        files.save(tmp_path / "bf.safetensors", {k: v.bfloat16() for k, v in first.items()})
    )
    low = open_checkpoint(files.save(tmp_path / "low2.safetensors", files.transformer(seed=2)))
    assert same_weights(high, copy)
    assert same_weights(copy, brain)
    assert not same_weights(high, low)
    with pytest.raises(WanError, match=r"high.safetensors and low.safetensors hold the same weights; choose"):
        check_pair(high, copy)
    check_pair(high, low)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_the_same_expert_is_known_in_fp8_and_another_is_not(dtype: torch.dtype, tmp_path: Path):
    def opened(name: str, seed: int, dtype: torch.dtype):
        tensors = {name: value.to(dtype) for name, value in files.transformer(seed=seed).items()}
        return open_checkpoint(files.save(tmp_path / f"{name}.safetensors", tensors))

    whole, small = opened("whole", 1, torch.bfloat16), opened("small", 1, dtype)
    assert same_weights(whole, small)
    assert same_weights(small, opened("again", 1, dtype))
    assert not same_weights(whole, opened("other", 2, dtype))


def test_an_expert_that_was_trained_a_little_further_is_not_the_same(tmp_path: Path):
    first = files.transformer()
    further = {name: value * 1.02 for name, value in first.items()}
    one = open_checkpoint(files.save(tmp_path / "a.safetensors", first))
    assert not same_weights(one, open_checkpoint(files.save(tmp_path / "b.safetensors", further)))


def test_experts_of_two_sizes_are_no_pair(tmp_path: Path):
    high = open_checkpoint(files.save(tmp_path / "high.safetensors", files.transformer()))
    low = open_checkpoint(files.save(tmp_path / "low.safetensors", files.transformer(num_layers=1)))
    with pytest.raises(WanError, match="num_layers is 2 and 1"):
        check_pair(high, low)
    dense = open_checkpoint(
        files.save(tmp_path / "5b.safetensors", files.transformer(in_channels=48, out_channels=48))
    )
    with pytest.raises(WanError, match="one network for all steps"):
        check_pair(dense, low)


def test_a_text_encoder_of_another_width_is_refused(tmp_path: Path):
    encoder = open_checkpoint(files.save(tmp_path / "umt5.safetensors", files.umt5()))
    model = open_checkpoint(files.save(tmp_path / "model.safetensors", files.transformer(text_dim=64)))
    with pytest.raises(WanError, match=r"embeddings 32 wide, but model.safetensors reads 64"):
        check_text_encoder(encoder, model)


HIGH, LOW = "high_noise", "low_noise"


@pytest.mark.parametrize(
    ("name", "expert"),
    [
        ("wan2.2_t2v_high_noise_14B_fp16.safetensors", HIGH),
        ("Wan2_2-I2V-A14B-LOW_fp8_e4m3fn_scaled_KJ.safetensors", LOW),
        ("HighNoise/Wan2.2-I2V-A14B-HighNoise-Q4_K_M.gguf", HIGH),
        ("T2V\\low\\wan.safetensors", LOW),
        ("high_noise_model/diffusion_pytorch_model.safetensors", HIGH),
        ("wan-high noise.safetensors", HIGH),
        ("WanLowNoise.safetensors", LOW),
        ("low_quality_high_noise.safetensors", HIGH),
        ("wan_slow_flow_highlight.safetensors", None),
        ("wan_lowvram.safetensors", None),
        ("wan_low_vram.safetensors", None),
        ("wan_high_low_merged.safetensors", None),
        ("Wan2.2-T2V-A14B-Diffusers/transformer", HIGH),
        ("Wan2.2-T2V-A14B-Diffusers/transformer_2", LOW),
        ("transformer/diffusion_pytorch_model-00001-of-00012.safetensors", HIGH),
        ("transformer_2/diffusion_pytorch_model-00001-of-00012.safetensors", LOW),
        ("transformer/wan_low_noise.safetensors", LOW),
        ("wan_transformer_2.safetensors", None),
        ("wan_2.1_vae.safetensors", None),
        ("low/high/model/wan.safetensors", None),
        ("wan22RemixT2VI2V_i2vHighV30.safetensors", HIGH),
        ("wan22RemixT2VI2V_i2vLowV30.safetensors", LOW),
        ("Wan2.2HighNoiseV2.safetensors", HIGH),
        ("Wan22-I2V-styleLOW-v1.safetensors", LOW),
        ("wan22_t2v_HIGHv1.1.safetensors", HIGH),
        ("Wan22_I2V_LOW_lightx2v_rank64.safetensors", LOW),
        ("style_high_rank64_step500.safetensors", HIGH),
        ("high-rank.safetensors", None),
        ("low light.safetensors", None),
        ("HIGHLIGHT_FLOW.safetensors", None),
        ("wanHighResFlow.safetensors", None),
        ("low_angle_shot.safetensors", None),
        ("high-heels.safetensors", None),
        ("high-heels_low_noise.safetensors", LOW),
    ],
)
def test_expert_by_name(name: str, expert: str | None):
    assert expert_of(name) == expert


@pytest.mark.parametrize(
    ("path", "partner"),
    [
        ("wan2.2_t2v_high_noise_14B_fp16.safetensors", "wan2.2_t2v_low_noise_14B_fp16.safetensors"),
        ("wan2.2_t2v_low_noise_14B_fp16.safetensors", "wan2.2_t2v_high_noise_14B_fp16.safetensors"),
        ("KJ\\Wan2_2-T2V-HIGH_fp8.safetensors", "KJ/Wan2_2-T2V-LOW_fp8.safetensors"),
        ("HighNoise/wan-HighNoise-Q4.gguf", "LowNoise/wan-LowNoise-Q4.gguf"),
        ("odd/Wan HIGH noise v1.safetensors", "odd/wan-lownoise-v1.safetensors"),
        ("transformer/model-00001-of-00002.safetensors", "transformer_2/model-00001-of-00002.safetensors"),
        ("wan22Remix_i2vHighV30.safetensors", "wan22Remix_i2vLowV30.safetensors"),
        ("wan2.2_t2v_high_noise_14B_fp8.safetensors", None),
        ("other/wan2.2_t2v_high_noise_14B_fp16.safetensors", None),
        ("wan_2.1_vae.safetensors", None),
    ],
)
def test_partner_by_name(path: str, partner: str | None):
    candidates = [
        "wan2.2_t2v_high_noise_14B_fp16.safetensors",
        "wan2.2_t2v_low_noise_14B_fp16.safetensors",
        "wan2.2_i2v_low_noise_14B_fp16.safetensors",
        "KJ/Wan2_2-T2V-LOW_fp8.safetensors",
        "LowNoise/wan-LowNoise-Q4.gguf",
        "odd/wan-lownoise-v1.safetensors",
        "transformer_2/model-00001-of-00002.safetensors",
        "wan22Remix_i2vLowV30.safetensors",
    ]
    assert find_partner(path, candidates) == partner


def test_the_released_negative_prompt_is_unchanged():
    digest = hashlib.sha256(T2V_A14B.negative_prompt.encode()).hexdigest()
    assert digest == "ce96e0324e4b54ce4b6e867f669ca520952e1a34cc116543516b1897f0d3c47e"
    assert len(T2V_A14B.negative_prompt) == 137


def test_the_released_defaults():
    assert (T2V_A14B.boundary, T2V_A14B.shift, T2V_A14B.guidance_scale_low, T2V_A14B.guidance_scale_high) == (
        *(0.875, 12.0, 3.0, 4.0),
    )
    assert (I2V_A14B.boundary, I2V_A14B.shift, I2V_A14B.size_multiple) == (0.9, 5.0, 16)
    assert (TI2V_5B.boundary, TI2V_5B.fps, TI2V_5B.frames, TI2V_5B.size_multiple) == (None, 24, 121, 32)
    assert (T2V_A14B.experts, TI2V_5B.experts) == (("high_noise", "low_noise"), ("dense",))
    with pytest.raises(WanError, match="choose one of t2v, i2v, ti2v"):
        variant_for_task("v2v")
