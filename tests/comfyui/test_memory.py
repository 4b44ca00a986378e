"""Memory inside ComfyUI: a whole run on devices of every size, in the CPU simulation of a card.

pytest tests/comfyui/test_memory.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from wan_core.models.transformer import TransformerConfig, WanTransformer
from wan_core.models.vae import make_vae
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import VAE22Config

from . import toy_weights as toys
from .comfy_server import ROOT, comfyui_python, last_answer

pytestmark = pytest.mark.comfy

SCRIPT = Path(__file__).parent / "inside_memory.py"
BUDGETS = ("all", "three", "one", "half", "little", "nothing")


@pytest.fixture(scope="module")
def answers(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What inside_memory.py found."""
    models = tmp_path_factory.mktemp("models")
    write_models(models)
    command = [comfyui_python(comfyui), str(SCRIPT), str(comfyui), str(ROOT), str(models)]
    return last_answer(command, comfyui)


# Real sizes are counted by wan_core's own tests. With toys of few tokens it is mostly the loop's latents, for
# which there is room also where there are clean frames, and weights, which of one span are made one by one.
ESTIMATES = {
    **dict.fromkeys(("short prompt", "long prompt"), (0.95, 1.05)),
    **{f"{task} {cells}": (0.95, 1.6) for task in ("t2v", "ti2v") for cells in (16, 48)},
    **{
        f"{vae} {way} {cells}": (0.85, 1.15)
        for vae, sizes in (
            ("vae", (6, 12)),
            ("vae 2.2", (6, 12)),
            ("mid-size vae", (8,)),
            ("mid-size vae 2.2", (8,)),
        )
        for way in ("decode", "encode")
        for cells in sizes
    },
    **dict.fromkeys(("mid-size t2v 48", "mid-size ti2v 48"), (0.85, 1.15)),
}


@pytest.mark.parametrize("case", ESTIMATES)
def test_what_core_is_asked_to_keep_free_is_what_the_work_takes(answers: dict[str, Any], case: str) -> None:
    asked, taken = answers["estimates"][case]
    least, most = ESTIMATES[case]
    assert least < asked / taken < most


@pytest.mark.parametrize(("last", "words"), [("caches", ["1 tiles"]), ("tiles", ["1 tiles", "2 tiles"])])
def test_decoding_goes_on_in_less_memory_when_that_runs_out(
    answers: dict[str, Any], last: str, words: list[str]
) -> None:
    found = answers["out_of_memory"][last]
    assert found["frames"] == [1, 4, 4]
    assert found["distance"] < 1e-6
    whole, *again = found["said"]
    assert whole.startswith("loading the VAE: ")
    for line, word in zip(again, words, strict=True):
        assert line.startswith(f"loading the VAE (memory ran out; frames in {word}, ")


def test_an_error_that_nothing_leaner_helps_is_raised(answers: dict[str, Any]) -> None:
    assert answers["out_of_memory"]["always"] == "OutOfMemoryError"
    assert answers["out_of_memory"]["another"] == "ValueError"


def test_a_vae_in_bfloat16_is_near_one_in_float32(answers: dict[str, Any]) -> None:
    found = answers["in_bfloat16"]
    assert found["on a CPU"] == "torch.float32"
    assert 0 < found["encode"] < 0.02
    assert 0 < found["decode"] < 0.02


@pytest.fixture(params=BUDGETS)
def seen(request: pytest.FixtureRequest, answers: dict[str, Any]) -> dict[str, Any]:
    """Of one budget."""
    return answers["every_budget"][request.param]


def test_the_output_is_the_same_at_every_budget(seen: dict[str, Any]) -> None:
    assert len(seen["distances"]) == 4
    assert max(seen["distances"]) < 1e-6


def test_each_model_is_asked_for_when_its_turn_comes(seen: dict[str, Any]) -> None:
    run = ["other", "high_noise", "low_noise", "vae"]
    assert [load["asked"] for load in seen["loads"]] == ["text", "text", *run, *run]


def test_never_more_is_loaded_than_fits(seen: dict[str, Any]) -> None:
    for load in seen["loads"]:
        assert sum(load["loaded"].values()) <= seen["budget"]


def test_nothing_idle_stays_while_the_working_model_streams(seen: dict[str, Any]) -> None:
    for load in seen["loads"]:
        asked = load["asked"]
        if load["loaded"][asked] < 0.9 * seen["sizes"][asked]:
            assert sum(load["loaded"].values()) == load["loaded"][asked]


def test_no_copy_of_the_weights_is_made_in_memory(seen: dict[str, Any]) -> None:
    ours = [name for name in seen["sizes"] if name != "other"]
    for load in seen["loads"]:
        assert all(load["copied"][name] <= 0 for name in ours), load
    assert set(seen["left"]["copied"].values()) == {0}


def test_the_next_expert_s_file_is_read_while_the_first_works(seen: dict[str, Any]) -> None:
    """Unless it is on the device already."""
    low = toys.TRANSFORMERS[toys.T2V_A14B][1]
    for load in seen["loads"]:
        there = load["loaded"]["low_noise"] >= seen["sizes"]["low_noise"]
        expected = [low] if load["asked"] == "high_noise" and not there else []
        assert [name for name, _ in load["ahead"]] == expected
        assert all(limit > seen["sizes"]["low_noise"] for _, limit in load["ahead"])


def test_nothing_is_pinned_twice_or_left_pinned(seen: dict[str, Any]) -> None:
    """Though two loaders hold each expert's file."""
    assert seen["most_pinned"] <= sum(seen["sizes"].values())
    assert seen["left"]["pinned"] == seen["left"]["loaded"] == 0


def test_budgets_are_all_there(answers: dict[str, Any]) -> None:
    """From everything resident to nothing, so that the tests above have something to see."""
    budgets = answers["every_budget"]

    def resident(budget: str, name: str) -> float:
        last = [load for load in budgets[budget]["loads"] if load["asked"] == name][-1]
        return last["loaded"][name] / budgets[budget]["sizes"][name]

    assert resident("all", "low_noise") > 0.99
    assert resident("one", "low_noise") > 0.99
    assert 0.1 < resident("half", "low_noise") < 0.8
    assert resident("nothing", "low_noise") == resident("nothing", "vae") == 0
    assert budgets["all"]["most_pinned"] == 0 < budgets["half"]["most_pinned"]
    last = budgets["all"]["loads"][-1]["loaded"]
    assert all(last.values()), "with room for all, nobody has to go"


def test_a_new_seed_opens_reads_and_loads_nothing_anew(answers: dict[str, Any]) -> None:
    """Two samplers that share their loaders, queued twice: everything once, both prompts once each."""
    found = answers["through_the_queue"]
    assert found["counts"] == {
        "load_model": 1,
        "load_text_encoder": 1,
        "encoded": 2,
        "loaded UMT5Encoder": 1,
        "loaded WanTransformer": 2,
    }
    assert len(set(found["sums"])) == 4  # all four samplers ran


def test_what_is_loaded_is_said_before(answers: dict[str, Any]) -> None:
    said = answers["through_the_queue"]["said"]
    assert len(said) == 10  # two prompts, and two experts of four samplers
    takes = "loading the high-noise expert: 7.6 MB of weights, "
    assert said[2].startswith(takes)
    assert re.fullmatch(r"\d\.\d MB of work; cpu:0 has 1\.1 GB: all of it goes there", said[2][len(takes) :])
    assert said[-1].endswith("cpu:0 has 1.1 GB: it is there already")
    assert re.search(
        r"cpu:0 has 4\.7 MB: about 3\.\d MB stream from RAM \(17\.2 GB free\)$", answers["tight"]
    )


def write_models(folder: Path) -> None:
    """Two experts, a text encoder and a VAE, of some megabytes each; and larger ones, of constants."""
    config = TransformerConfig(dim=256, ffn_dim=512, num_heads=2, num_layers=4, text_dim=64)
    for seed, name in enumerate(toys.TRANSFORMERS[toys.T2V_A14B]):
        weights = toys.random_weights(WanTransformer(config), seed)
        toys.save(weights, folder / "diffusion_models" / name, toys.torch.bfloat16)
    encoder = toys.text_encoder(width=64, inner=8192)
    toys.save(encoder, folder / "text_encoders" / "wan_tiny_umt5.safetensors", toys.torch.float16)
    config = TransformerConfig(48, 48, dim=256, ffn_dim=896, num_heads=2, num_layers=2, text_dim=64)
    weights = toys.random_weights(WanTransformer(config), 3)
    toys.save(weights, folder / "diffusion_models" / "wan_tiny_ti2v.safetensors")
    vaes = {"wan_tiny_vae": VAEConfig(dim=16), "wan_tiny_vae_2_2": VAE22Config(dim=16, decoder_dim=24)}
    for name, sizes in vaes.items():
        weights = toys.random_weights(make_vae(sizes), 2)
        toys.save(weights, folder / "vae" / f"{name}.safetensors", toys.torch.float16)
    write_mid_size_models(folder)


def write_mid_size_models(folder: Path) -> None:
    """Of which only the shapes matter: wide enough that activations are most of what they take."""
    sizes = {"ffn_dim": 1536, "num_heads": 4, "num_layers": 2, "text_dim": 64}
    experts = [WanTransformer(TransformerConfig(dim=512, **sizes), device="meta")] * 2
    one = WanTransformer(TransformerConfig(48, 48, dim=512, **sizes), device="meta")
    vaes = {"mid_vae": VAEConfig(), "mid_vae_2_2": VAE22Config(dim=80, decoder_dim=128)}
    names = ("mid_high_noise", "mid_low_noise", "mid_ti2v")
    networks = {
        **{f"diffusion_models/{name}": each for name, each in zip(names, (*experts, one), strict=True)},
        **{f"vae/{name}": make_vae(each, device="meta") for name, each in vaes.items()},
    }
    for number, (name, network) in enumerate(networks.items()):
        values = {
            key: toys.torch.full(value.shape, float(number) if key.endswith("head.bias") else 0.0)
            for key, value in network.state_dict().items()
        }
        toys.save(values, folder / f"{name}.safetensors", toys.torch.float16)
