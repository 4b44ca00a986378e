"""From a folder of files to an mp4, and what is refused before anything is loaded."""

from __future__ import annotations

import json

import av
import pytest
import torch
from safetensors.torch import load_file, save_file

from wan_core import pipeline as pipeline_module
from wan_core.errors import WanError
from wan_core.pipeline import (
    OneAtATime,
    check_request,
    decode,
    encode_prompts,
    generate,
    load_pipeline,
    sample,
)
from wan_core.request import Request

PROMPT = "a red circle moves to the right"


@pytest.fixture(scope="module")
def pipeline(model_folder):
    return load_pipeline(model_folder, device="cpu")


def request_for(pipeline, **changes):
    small = {"width": 32, "height": 48, "frames": 5, "steps": 4, "fps": 16}
    return Request.for_variant(pipeline.variant, **{"prompt": PROMPT, **small, **changes})


def test_a_prompt_becomes_an_mp4_of_the_size_asked_for(pipeline, tmp_path):
    steps, frames = [], []
    request = request_for(pipeline)
    followed = generate(
        pipeline, request, tmp_path / "new" / "out.mp4", steps.append, lambda *count: frames.append(count)
    )
    with av.open(str(tmp_path / "new" / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (32, 48, 16)
        assert sum(1 for _ in container.decode(video=0)) == 5
        made_by = json.loads(container.metadata["wancore"])
    assert (made_by["prompt"], made_by["seed"]) == (PROMPT, 0)
    assert frames == [(1, 5), (5, 5)]
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert [row["expert"] for row in followed["steps"]] == [step.expert for step in steps]
    assert followed["switch"] == [step.expert for step in steps].index("low_noise")


def latent_of(pipeline, **changes):
    request = request_for(pipeline, **changes)
    context, negative = encode_prompts(pipeline, [request.prompt, pipeline.variant.negative_prompt])
    return sample(pipeline, request, context, negative)


def test_a_seed_decides_everything(pipeline):
    first, again, other = (latent_of(pipeline, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_prompt_and_both_guidances_matter(pipeline):
    plain = latent_of(pipeline)
    for change in ({"prompt": "a blue square"}, {"guidance_scale_high": 9.0}, {"guidance_scale_low": 9.0}):
        assert not torch.equal(plain, latent_of(pipeline, **change)), change


def test_contexts_are_the_real_tokens_of_each_prompt(pipeline):
    short, long = encode_prompts(pipeline, ["a circle", PROMPT])
    assert short.shape == (1, pipeline.tokenizer.count("a circle"), 32)
    assert long.shape == (1, pipeline.tokenizer.count(PROMPT), 32)


def test_one_expert_at_a_time(pipeline, monkeypatch):
    built = []
    original = pipeline_module.WanTransformer

    class Watched(original):
        alive = 0

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            Watched.alive += 1
            built.append(Watched.alive)

        def __del__(self):
            Watched.alive -= 1

    monkeypatch.setattr(pipeline_module, "WanTransformer", Watched)
    latent_of(pipeline)
    assert built == [1, 1], "the second expert was built while the first was still there"


def test_the_loop_asks_for_each_expert_once(pipeline, monkeypatch):
    asked = []
    at = OneAtATime.at
    monkeypatch.setattr(OneAtATime, "at", lambda self, name: asked.append(name) or at(self, name))
    latent_of(pipeline)
    assert asked == ["high_noise", "low_noise"]


def test_decode_gives_frames_in_range_a_chunk_at_a_time(pipeline):
    chunks = list(decode(pipeline, torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))))
    assert [tuple(chunk.shape) for chunk in chunks] == [(1, 32, 48, 3), (4, 32, 48, 3), (4, 32, 48, 3)]
    assert all(chunk.min() >= 0 and chunk.max() <= 1 for chunk in chunks)


def test_what_a_callback_raises_ends_the_run_and_leaves_nothing(pipeline, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    for callbacks in ({"on_step": stop}, {"on_frames": stop}):
        with pytest.raises(KeyboardInterrupt):
            generate(pipeline, request_for(pipeline), tmp_path / "out.mp4", **callbacks)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_is_one_line_with_the_remedy(pipeline, tmp_path, monkeypatch, error):
    monkeypatch.setattr(OneAtATime, "at", lambda *_: raise_(error))
    with pytest.raises(WanError, match="out of memory on cpu with 5 frames of 32 x 48; choose"):
        generate(pipeline, request_for(pipeline), tmp_path / "out.mp4")


def test_other_faults_are_not_taken_for_it(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(OneAtATime, "at", lambda *_: raise_(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        generate(pipeline, request_for(pipeline), tmp_path / "out.mp4")


def raise_(error):
    raise error


def test_an_empty_negative_prompt_is_the_released_one(pipeline):
    for given, used in ((" ", pipeline.variant.negative_prompt), ("blue", "blue")):
        assert check_request(pipeline, request_for(pipeline, negative_prompt=given)).negative_prompt == used


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "  \n"}, ["prompt", "empty"]),
        ({"prompt": "&nbsp;"}, ["prompt", "empty"]),
        ({"prompt": "caf\udce9"}, ["prompt", "UTF-8"]),
        ({"prompt": None}, ["prompt", "None"]),
        ({"prompt": "red " * 2000}, ["prompt", "2001", "512"]),
        ({"negative_prompt": "red " * 2000}, ["negative prompt", "2001", "512"]),
        ({"width": 100}, ["width", "100", "96", "112"]),
        ({"height": 40}, ["height", "40", "32", "48"]),
        ({"width": 8}, ["width", "8", "16"]),
        ({"width": 0}, ["width", "0"]),
        ({"height": 100_000}, ["height", "100000", "4096"]),
        ({"height": 48.0}, ["height", "48.0", "whole"]),
        ({"frames": 18}, ["frames", "18", "17", "21"]),
        ({"frames": 0}, ["frames", "0"]),
        ({"frames": -3}, ["frames", "-3"]),
        ({"frames": 99_997}, ["frames", "99997", "1025"]),
        ({"frames": True}, ["frames", "True"]),
        ({"fps": 0}, ["fps", "0"]),
        ({"fps": NAN}, ["fps", "nan"]),
        ({"fps": float("inf")}, ["fps", "inf"]),
        ({"fps": "16"}, ["fps", "16"]),
        ({"steps": 0}, ["steps", "0"]),
        ({"steps": 1.5}, ["steps", "1.5"]),
        ({"steps": 10**9}, ["steps", "1000000000", "1000"]),
        ({"shift": NAN}, ["shift", "nan"]),
        ({"shift": -1.0}, ["shift", "-1"]),
        ({"boundary": NAN}, ["boundary", "nan"]),
        ({"boundary": 875.0}, ["boundary", "875"]),
        ({"boundary": None}, ["boundary", "None"]),
        ({"guidance_scale_high": NAN}, ["high", "nan"]),
        ({"guidance_scale_low": 1e9}, ["low", "1000000000"]),
        ({"scheduler": "ddim"}, ["ddim", "unipc"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"seed": 2**64}, ["seed", str(2**64)]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_requests_are_one_line_before_anything_is_loaded(pipeline, tmp_path, monkeypatch, changes, words):
    monkeypatch.setattr(pipeline_module, "load_module", lambda *_: pytest.fail("a network was loaded"))
    with pytest.raises(WanError) as caught:
        generate(pipeline, request_for(pipeline, **changes), tmp_path / "out.mp4")
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["out.avi", "out", "folder.mp4", "file/out.mp4", "o" * 252 + ".mp4"])
def test_bad_places_for_the_video(pipeline, tmp_path, monkeypatch, name):
    monkeypatch.setattr(pipeline_module, "load_module", lambda *_: pytest.fail("a network was loaded"))
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(WanError, match=r"^out: "):
        generate(pipeline, request_for(pipeline), tmp_path / name)


# --- the folder -------------------------------------------------------------------------------------------

HIGH, LOW = (
    "diffusion_models/toy_t2v_high_noise.safetensors",
    "diffusion_models/toy_t2v_low_noise.safetensors",
)


def test_a_flat_folder_works_too(model_folder, tmp_path):
    for file in model_folder.rglob("*.safetensors"):
        (tmp_path / file.name).symlink_to(file)
    assert load_pipeline(tmp_path).experts.keys() == {"high_noise", "low_noise"}


def test_other_files_in_the_folder_are_passed_over(copy_of_model):
    folder = copy_of_model()
    (folder / "diffusion_models/download.safetensors").write_bytes(b"<!DOCTYPE html>")
    save_file({"x": torch.zeros(1)}, folder / "vae/other.safetensors")
    assert load_pipeline(folder).vae.file == "toy_vae.safetensors"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (HIGH, ["high-noise expert", "toy_t2v_low_noise"]),
        (LOW, ["low-noise expert"]),
        ("vae/toy_vae.safetensors", ["VAE"]),
        ("text_encoders/toy_umt5.safetensors", ["text encoder"]),
    ],
)
def test_a_missing_part_is_named(copy_of_model, part, words):
    folder = copy_of_model()
    (folder / part).unlink()
    with pytest.raises(WanError) as caught:
        load_pipeline(folder)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_experts_whose_names_say_nothing_are_pointed_out(copy_of_model):
    folder = copy_of_model()
    for name, part in (("one", HIGH), ("two", LOW)):
        (folder / part).rename(folder / f"diffusion_models/{name}.safetensors")
    with pytest.raises(WanError, match="told apart by high_noise or low_noise in their files' names"):
        load_pipeline(folder)


def test_a_truncated_part_is_named(copy_of_model, model_folder):
    folder = copy_of_model()
    data = (model_folder / LOW).read_bytes()
    (folder / LOW).unlink()
    (folder / LOW).write_bytes(data[: len(data) // 2])
    with pytest.raises(WanError, match=r"toy_t2v_low_noise\.safetensors"):
        load_pipeline(folder)


def test_two_files_for_one_part(copy_of_model, model_folder):
    folder = copy_of_model()
    (folder / "diffusion_models/toy_t2v_high_noise_copy.safetensors").symlink_to(model_folder / HIGH)
    with pytest.raises(WanError, match="2 files could be the high-noise expert"):
        load_pipeline(folder)


def test_the_same_weights_in_both_slots(copy_of_model, model_folder):
    folder = copy_of_model()
    (folder / LOW).unlink()
    save_file(load_file(model_folder / HIGH), folder / LOW)
    with pytest.raises(WanError, match="same weights"):
        load_pipeline(folder)


def test_no_such_folder(tmp_path):
    with pytest.raises(WanError, match="there is no folder"):
        load_pipeline(tmp_path / "nowhere")
