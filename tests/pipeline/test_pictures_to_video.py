"""From pictures to a video: I2V and TI2V at toy size, folders of every layout, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import av
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.unit.checkpoint_files import KEYMAPS
from wan_core import __main__ as cli
from wan_core import pipeline as pipeline_module
from wan_core import placement
from wan_core.errors import WanError
from wan_core.models import vae_layers
from wan_core.models.latent_scale import normalize_latent
from wan_core.pipeline import decode, encode_images, encode_prompts, generate, load_pipeline, sample
from wan_core.request import Request

from .conftest import toy_tokenizer

PROMPT = "a red circle moves to the right"
SMALL = {"prompt": PROMPT, "frames": 5, "steps": 2, "max_area": 64 * 32}


@pytest.fixture(scope="module")
def i2v(every_model):
    return load_pipeline(every_model, device="cpu", task="i2v")


@pytest.fixture(scope="module")
def ti2v(every_model):
    return load_pipeline(every_model, device="cpu", task="ti2v")


def picture(seed=0, height=24, width=48):
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def request_for(pipeline, **changes):
    settings = {**SMALL, "max_area": None if "width" in changes else SMALL["max_area"], **changes}
    return Request.for_variant(pipeline.variant, **settings).validate(pipeline.variant)


def latent_of(pipeline, **changes):
    request = request_for(pipeline, **changes)
    context, negative = encode_prompts(pipeline, [request.prompt, request.negative_prompt])
    given = encode_images(pipeline, request)
    return sample(pipeline, request, context, negative, conditioning=given)


def test_a_picture_becomes_a_video_of_its_aspect(i2v, tmp_path):
    Image.new("RGB", (48, 24), "red").save(tmp_path / "cat.png")
    request = Request.for_variant(i2v.variant, image=tmp_path / "cat.png", **SMALL)
    followed = generate(i2v, request, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (64, 32)
        assert sum(1 for _ in container.decode(video=0)) == 5
        made_by = json.loads(container.metadata["wancore"])
    assert (made_by["image"], made_by["end_image"]) == ("cat.png", None)
    assert (made_by["width"], made_by["height"], made_by["model"]) == (64, 32, "i2v-a14b")
    assert [step["expert"] for step in followed["steps"]] == ["high_noise", "low_noise"]


@pytest.mark.parametrize("task", ["i2v", "ti2v"])
def test_a_picture_that_does_not_fit_whole_is_encoded_with_caches_on_the_host(every_model, task, monkeypatch):
    pipeline = load_pipeline(every_model, device="cpu", task=task)
    request = request_for(pipeline, image=picture())
    given = encode_images(pipeline, request)
    weights = placement.encode_need(pipeline.vae, 32, 64).weights.total
    monkeypatch.setattr(placement, "encode_bytes", lambda *what: 10**8 if what[-1] else 10**9)
    seen, stored = [], vae_layers.Memory._stored
    monkeypatch.setattr(
        vae_layers.Memory, "_stored", lambda self, frames: seen.append(self._device) or stored(self, frames)
    )
    for vram, device in ((weights + 10**9, None), (weights + 10**9 - 1, "cpu"), (weights + 10**8, "cpu")):
        seen.clear()
        tight = dataclasses.replace(pipeline, vram=vram)
        found = encode_images(tight, request)
        assert set(seen) == ({device} if device else set())
        for name in ("channels", "clean_latent"):
            one, other = getattr(found, name), getattr(given, name)
            assert one is other is None or torch.equal(one, other)
        told = ": too much, so whole frames with caches on the host; VAE decode "
        assert (told in pipeline_module.memory_line(tight, request)) is (device is not None)
    monkeypatch.setattr(pipeline_module, "_load_vae", lambda *_: pytest.fail("the VAE was loaded"))
    tight = dataclasses.replace(pipeline, vram=weights + 10**8 - 10**6)
    for refused in (encode_images, pipeline_module.memory_line):
        with pytest.raises(WanError, match=r"^vram: 100 MB are too few: the VAE encode needs 10[12] MB at "):
            refused(tight, request)


def test_start_and_end_image_reach_the_networks(i2v):
    start, end = picture(1), picture(2)
    latents = [
        latent_of(i2v, **given)
        for given in (
            {"image": start},
            {"end_image": start},
            {"image": start, "end_image": end},
            {"image": end, "end_image": start},
        )
    ]
    assert latents[0].shape == (1, 16, 2, 4, 8)
    for index, one in enumerate(latents):
        for other in latents[index + 1 :]:
            assert not torch.equal(one, other)
    assert torch.equal(latents[0], latent_of(i2v, image=start))


def test_the_channels_are_the_mask_and_the_encoded_picture(i2v):
    given = encode_images(i2v, request_for(i2v, image=picture(), end_image=picture(1)))
    assert given.channels.shape == (1, 20, 2, 4, 8)
    assert given.channels[0, :4, :, 0, 0].tolist() == [[1, 0], [1, 0], [1, 0], [1, 1]]
    vae = pipeline_module._load_vae(i2v)
    with torch.no_grad():
        first = normalize_latent(vae.encode(torch.zeros(1, 3, 5, 32, 64)))
    assert not torch.equal(given.channels[:, 4:], first)


def test_a_given_size_crops_and_does_not_squash(i2v):
    """The outer thirds of the picture are white: seen at its own aspect, and gone in a narrower one."""
    striped = torch.ones(32, 96, 3)
    striped[:, 32:64] = 0.0
    whole, _ = request_for(i2v, image=striped).images(i2v.variant)
    cropped, _ = request_for(i2v, image=striped, width=32, height=32).images(i2v.variant)
    assert whole.shape == (32, 96, 3)
    assert cropped.shape == (32, 32, 3)
    assert cropped.max() == 0.0


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (64, 32)),
        ({"max_area": 832 * 480}, (880, 432)),
        ({"max_area": None}, (880, 432)),
        ({"width": 96, "height": 64}, (96, 64)),
        ({"image": None, "end_image": picture(0, 48, 24)}, (32, 64)),
        ({"image": picture(0, 48, 24), "end_image": picture(0, 24, 48)}, (32, 64)),
        ({"image": picture(0, 480, 832), "max_area": 832 * 480}, (832, 464)),
        ({"image": picture(0, 480, 832), "max_area": 832 * 480, "rounding": "exact"}, (832, 480)),
    ],
)
def test_the_size_follows_from_the_picture_unless_given(i2v, changes, size):
    assert request_for(i2v, **{"image": picture(), **changes}).size(i2v.variant) == size


def test_ti2v_keeps_the_encoded_picture_as_its_first_latent_frame(ti2v):
    request = request_for(ti2v, image=picture(), width=64, height=32)
    given = encode_images(ti2v, request)
    assert given.clean_latent.shape == (1, 48, 1, 2, 4)
    latent = normalize_latent(latent_of(ti2v, image=picture(), width=64, height=32))
    torch.testing.assert_close(latent[:, :, :1], given.clean_latent, rtol=0, atol=1e-5)
    assert not torch.equal(latent[:, :, :1], latent[:, :, 1:])


def test_ti2v_from_text_alone(ti2v, tmp_path):
    followed = generate(ti2v, request_for(ti2v, width=64, height=32), tmp_path / "out.mp4")
    assert [step["expert"] for step in followed["steps"]] == ["dense", "dense"]
    assert followed["switch"] is None
    chunks = list(decode(ti2v, torch.randn(1, 48, 2, 2, 4)))
    assert [tuple(chunk.shape) for chunk in chunks] == [(1, 32, 64, 3), (4, 32, 64, 3)]


@pytest.mark.parametrize(
    ("task", "changes", "words"),
    [
        ("t2v", {"image": picture(), "max_area": None}, ["start image", "T2V-A14B", "text only", "I2V-A14B"]),
        ("i2v", {}, ["image", "I2V-A14B needs a start image, an end image or both"]),
        ("ti2v", {"image": picture(), "end_image": picture()}, ["end image", "TI2V-5B", "I2V-A14B"]),
        ("i2v", {"image": "nowhere.png"}, ["start image", "nowhere.png", "no file"]),
        ("i2v", {"image": picture(), "end_image": "nowhere.png"}, ["end image", "nowhere.png"]),
        ("i2v", {"end_image": picture(), "frames": 1}, ["end image", "5 frames"]),
        ("i2v", {"image": picture(), "width": 64}, ["height", "missing", "width"]),
        ("i2v", {"image": picture(), "height": 64}, ["width", "missing", "height"]),
        ("i2v", {"image": picture(), "max_area": 10}, ["max area", "10"]),
        ("i2v", {"image": picture(), "width": 64, "height": 32}, ["max area", "leave it out"]),
        ("t2v", {}, ["max area", "leave it out"]),
        ("i2v", {"image": picture(), "max_area": 1e6}, ["max area", "1000000.0", "whole"]),
        ("i2v", {"image": picture(), "rounding": "up"}, ["rounding", "up", "released, exact"]),
        ("i2v", {"image": picture(0, 16, 160), "max_area": 1000}, ["image", "160 x 16", "too long and thin"]),
        ("ti2v", {"width": 48, "height": 64, "max_area": None}, ["width", "48", "32", "64"]),
    ],
    ids=lambda value: str(value)[:40].replace("\n", " "),
)
def test_bad_requests_are_one_line_before_anything_is_loaded(
    every_model, tmp_path, monkeypatch, task, changes, words
):
    monkeypatch.setattr(pipeline_module, "load_module", lambda *_: pytest.fail("a network was loaded"))
    pipeline = load_pipeline(every_model, device="cpu", task=task)
    request = Request.for_variant(pipeline.variant, **{**SMALL, **changes})
    with pytest.raises(WanError) as caught:
        generate(pipeline, request, tmp_path / "out.mp4")
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


# --- the folder -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "with_image", "task"),
    [
        (("t2v", "i2v", "ti2v"), False, "t2v"),
        (("t2v", "i2v", "ti2v"), True, "i2v"),
        (("t2v", "ti2v"), True, "ti2v"),
        (("i2v", "ti2v"), False, "ti2v"),
        (("i2v",), False, "i2v"),
        (("ti2v",), False, "ti2v"),
        (("i2v_high", "ti2v"), True, "ti2v"),
    ],
)
def test_the_task_that_is_meant(every_model, tmp_path, left, with_image, task):
    folder = shutil.copytree(every_model, tmp_path / "models", symlinks=True)
    for file in (folder / "diffusion_models").iterdir():
        if not file.name.removeprefix("toy_").startswith(left):
            file.unlink()
    pipeline = load_pipeline(folder, with_image=with_image)
    assert pipeline.variant.task == task
    assert pipeline.vae.inspection.family == pipeline.variant.vae_family
    with pytest.raises(WanError, match="task: 's2v' is not known"):
        load_pipeline(folder, task="s2v")


def test_models_in_folders_of_comfyuis_folders(every_model, tmp_path):
    folder = shutil.copytree(every_model, tmp_path / "models", symlinks=True)
    for expert in ("high", "low"):
        inner = folder / "diffusion_models/wan/i2v" / expert
        inner.mkdir(parents=True)
        (folder / f"diffusion_models/toy_i2v_{expert}_noise.safetensors").rename(inner / "model.safetensors")
    assert load_pipeline(folder, task="i2v").experts["low_noise"].path.parent.name == "low"


def test_a_folder_without_the_task_asked_for(model_folder):
    with pytest.raises(WanError, match=r"no high-noise expert of Wan2\.2 I2V-A14B .*toy_t2v_high_noise"):
        load_pipeline(model_folder, task="i2v")
    with pytest.raises(WanError, match=r"no transformer of Wan2\.2 TI2V-5B"):
        load_pipeline(model_folder, task="ti2v")


def in_shards(tensors, folder, stem, count=3):
    """The tensors spread over `count` files with an index, as Hugging Face writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    places = {name: names[index % count] for index, name in enumerate(tensors)}
    for file in names:
        save_file({name: tensors[name] for name, place in places.items() if place == file}, folder / file)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}))


def tensors_of(every_model, name):
    file = next(every_model.rglob(f"{name}.safetensors"))
    return {key: value for key, value in load_file(file).items() if key != "spiece_model"}


def tokenizer_in(folder):
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(toy_tokenizer())


def released_i2v(every_model, folder):
    """As Wan-AI/Wan2.2-I2V-A14B lies on the hub."""
    for expert in ("high_noise", "low_noise"):
        tensors = tensors_of(every_model, f"toy_i2v_{expert}")
        in_shards(tensors, folder / f"{expert}_model", "diffusion_pytorch_model")
        (folder / f"{expert}_model/config.json").write_text('{"_class_name": "WanModel"}')
    torch.save(tensors_of(every_model, "toy_umt5"), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    torch.save(tensors_of(every_model, "toy_vae"), folder / "Wan2.1_VAE.pth")
    tokenizer_in(folder / "google/umt5-xxl")


def released_ti2v(every_model, folder):
    """As Wan-AI/Wan2.2-TI2V-5B: its shards lie beside the other parts."""
    in_shards(tensors_of(every_model, "toy_ti2v"), folder, "diffusion_pytorch_model")
    torch.save(tensors_of(every_model, "toy_umt5"), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    torch.save(tensors_of(every_model, "toy_vae_2_2"), folder / "Wan2.2_VAE.pth")
    tokenizer_in(folder / "google/umt5-xxl")


def diffusers_i2v(every_model, folder):
    """As Wan-AI/Wan2.2-I2V-A14B-Diffusers, names and all."""

    def save(name, table, place, stem):
        tensors = tensors_of(every_model, name)
        in_shards({table[key]: value for key, value in tensors.items()}, folder / place, stem, 2)

    transformer = KEYMAPS["transformer"]["diffusers"]
    save("toy_i2v_high_noise", transformer, "transformer", "diffusion_pytorch_model")
    save("toy_i2v_low_noise", transformer, "transformer_2", "diffusion_pytorch_model")
    save("toy_umt5", KEYMAPS["umt5"]["hf"], "text_encoder", "model")
    save("toy_vae", KEYMAPS["vae2_1"]["diffusers"], "vae", "diffusion_pytorch_model")
    tokenizer_in(folder / "tokenizer")


@pytest.mark.parametrize(
    ("write", "task"),
    [(released_i2v, "i2v"), (released_ti2v, "ti2v"), (diffusers_i2v, "i2v")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_layout_of_a_folder_gives_the_same_video(every_model, tmp_path, write, task):
    write(every_model, tmp_path)
    plain = load_pipeline(every_model, device="cpu", task=task)
    found = load_pipeline(tmp_path, device="cpu")
    assert found.variant.task == task
    for name, expert in plain.experts.items():
        assert torch.equal(expert.tensor("head.modulation"), found.experts[name].tensor("head.modulation"))
    assert torch.equal(plain.vae.tensor("conv2.weight"), found.vae.tensor("conv2.weight"))
    assert plain.tokenizer.encode(PROMPT) == found.tokenizer.encode(PROMPT)
    # Not to the last bit: mapped weights lie at other addresses, and sums over them are grouped by those.
    ours, theirs = latent_of(plain, image=picture()), latent_of(found, image=picture())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_shard_that_is_missing_is_named(every_model, tmp_path):
    released_i2v(every_model, tmp_path)
    (tmp_path / "low_noise_model/diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WanError, match=r"no low-noise expert .*diffusion_pytorch_model-00002-of-00003"):
        load_pipeline(tmp_path)


# --- the command line -------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys):
    def run_one(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run_one


def made(out):
    with av.open(str(out)) as container:
        return json.loads(container.metadata["wancore"])


def test_generate_from_pictures(run, every_model, tmp_path):
    for name in ("first", "last"):
        Image.new("RGB", (48, 24), "red").save(tmp_path / f"{name}.png")
    base = ["generate", PROMPT, "--out", tmp_path / "out.mp4", "--model", every_model, "--frames", 5]
    base += ["--steps", 2, "--max-area", 64 * 32]
    pictures = ["--image", tmp_path / "first.png", "--end-image", tmp_path / "last.png"]
    status, said, _ = run(*base, *pictures)
    assert status == 0
    assert "5 frames, 64 x 32, 16 fps" in said
    made_by = made(tmp_path / "out.mp4")
    assert (made_by["model"], made_by["image"], made_by["end_image"]) == ("i2v-a14b", "first.png", "last.png")
    assert run(*base, *pictures[:2], "--task", "ti2v", "--rounding", "exact")[0] == 0
    made_by = made(tmp_path / "out.mp4")
    assert (made_by["model"], made_by["rounding"], made_by["fps"]) == ("ti2v-5b", "exact", 24)
    status, _, error = run(*base, *pictures[:2], "--task", "t2v")
    assert (status, error.count("\n")) == (2, 1)
    assert "start image: Wan2.2 T2V-A14B knows no start image" in error
