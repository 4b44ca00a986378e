"""A run on a budget: the same video whatever it is, one line about it, and one error when it is too small."""

from __future__ import annotations

import dataclasses
import gc
import logging
import re
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.formats import stored as forms
from tests.memory.streaming_work import TOY, toy_folder
from wan_core import pipeline as pipeline_module
from wan_core import placement
from wan_core.checkpoints import containers, open_checkpoint
from wan_core.errors import WanError
from wan_core.memory import HostMemory, Streamer, least_bytes, parse_size
from wan_core.models.vae_tiles import even_tiles
from wan_core.pipeline import decode, encode_prompts, generate, load_pipeline, sample, with_lora
from wan_core.placement import expert_need, text_need
from wan_core.request import Request

CPU = torch.device("cpu")
PROMPT = "a red circle moves to the right"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return toy_folder(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="module")
def pipeline(folder):
    return load_pipeline(folder, device="cpu")


@pytest.fixture(scope="module")
def wide_latent(pipeline):
    return latent_of(pipeline)


def request_for(pipeline, **changes):
    small = {"width": 32, "height": 48, "frames": 5, "steps": 4, "fps": 16}
    return Request.for_variant(pipeline.variant, **{"prompt": PROMPT, **small, **changes})


def latent_of(pipeline, **changes):
    request = request_for(pipeline, **changes)
    context, negative = encode_prompts(pipeline, [request.prompt, pipeline.variant.negative_prompt])
    return sample(pipeline, request, context, negative)


def on_budget(pipeline, vram):
    return dataclasses.replace(pipeline, vram=vram)


def least(pipeline):
    """The smallest budget of the transformer, whose need is the largest here."""
    shape = request_for(pipeline).latent_shape(pipeline.variant)
    need = expert_need(pipeline.experts["high_noise"], shape, pipeline.dtype, pipeline.speed, CPU)
    return least_bytes(need.weights, need.work), need


@pytest.fixture
def streams(monkeypatch):
    """How many blocks each network streams, in the order they come."""
    counts, begin = [], Streamer.__init__

    def watched(self, network, blocks, streamed, *others):
        counts.append((type(network).__name__, len(streamed)))
        begin(self, network, blocks, streamed, *others)

    monkeypatch.setattr(Streamer, "__init__", watched)
    return counts


@pytest.mark.parametrize("resident", [0, 2, 3])
def test_both_experts_make_the_same_latent_on_any_budget(pipeline, wide_latent, resident, streams):
    smallest, need = least(pipeline)
    found = latent_of(on_budget(pipeline, smallest + resident * need.weights.blocks[0]))
    assert torch.equal(found, wide_latent)
    assert streams == [("UMT5Encoder", 0), *[("WanTransformer", TOY.num_layers - resident)] * 2]


def test_a_text_encoder_that_does_not_fit_is_streamed_too(pipeline, streams):
    need = text_need(pipeline.text_encoder, pipeline.device)
    found = encode_prompts(on_budget(pipeline, least_bytes(need.weights, need.work)), [PROMPT, "a square"])
    expected = encode_prompts(pipeline, [PROMPT, "a square"])
    assert streams == [("UMT5Encoder", 5), ("UMT5Encoder", 0)]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_quantized_experts_with_a_lora(folder, tmp_path, streams):
    for file in folder.glob("*.safetensors"):
        (tmp_path / file.name).symlink_to(file)
    tensors = {}
    for expert in ("high_noise", "low_noise"):
        path = tmp_path / f"toy_t2v_{expert}.safetensors"
        stored = forms.QUANTIZATIONS["fp8 scaled, new"][0](
            {name: value.float() for name, value in open_checkpoint(path).load().items()}
        )
        path.unlink()
        save_file(stored.tensors, path, stored.metadata)
        tensors["diffusion_model.blocks.3.self_attn.k.lora_down.weight"] = torch.randn(2, TOY.dim)
        tensors["diffusion_model.blocks.3.self_attn.k.lora_up.weight"] = torch.randn(TOY.dim, 2)
        save_file(tensors, tmp_path / f"lora_{expert}.safetensors")
    pipeline = with_lora(load_pipeline(tmp_path, device="cpu"), tmp_path / "lora_high_noise.safetensors")
    smallest, need = least(pipeline)
    found = latent_of(on_budget(pipeline, smallest + need.weights.blocks[0]))
    assert ("WanTransformer", TOY.num_layers) in streams or ("WanTransformer", TOY.num_layers - 1) in streams
    assert torch.equal(found, latent_of(pipeline))


def test_what_is_too_small_is_told_with_the_least_that_works(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline_module, "load_module", lambda *_: pytest.fail("a network was loaded"))
    with pytest.raises(WanError) as caught:
        generate(on_budget(pipeline, 1000), request_for(pipeline), tmp_path / "out.mp4")
    told = re.fullmatch(
        r"vram: 1 KB are too few: the transformer needs ([\d.]+ [KMG]B) at this size; allow more, or choose "
        "fewer frames or a smaller size",
        str(caught.value),
    )
    monkeypatch.undo()
    generate(on_budget(pipeline, parse_size(told[1])), request_for(pipeline), tmp_path / "out.mp4")


def test_a_vae_that_does_not_fit_in_tiles_is_told_before_anything_is_loaded(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "decode_bytes", lambda *_: 10**10)
    monkeypatch.setattr(placement, "least_tiled_bytes", lambda *_: 10**9)
    monkeypatch.setattr(pipeline_module, "load_module", lambda *_: pytest.fail("a network was loaded"))
    with pytest.raises(WanError) as caught:
        generate(on_budget(pipeline, 9 * 10**8), request_for(pipeline), tmp_path / "out.mp4")
    assert str(caught.value) == (
        "vram: 900 MB are too few: the VAE decode needs 1.1 GB at this size; allow more, or choose fewer "
        "frames or a smaller size"
    )


def test_one_line_tells_what_is_needed_there_and_chosen(pipeline, tmp_path, caplog):
    smallest, need = least(pipeline)
    caplog.set_level(logging.INFO, "wancore")
    vram = smallest + need.weights.blocks[0]
    generate(on_budget(pipeline, vram), request_for(pipeline, steps=1), tmp_path / "out.mp4")
    messages = [record.getMessage() for record in caplog.records]
    line = messages[0]
    assert line.startswith("memory: transformer ")
    for words in (" of work, ", " allowed on cpu: 1 of 6 blocks stay, 5 are streamed", "text encoder "):
        assert words in line
    assert "(of only 12 tokens: copying will take longer than computing)" in line
    assert sum(message.startswith("memory:") for message in messages) == 1
    assert messages[1] == "loading toy_umt5.safetensors"


def test_without_a_budget_a_cpu_maps_everything(pipeline, streams):
    line = pipeline_module.memory_line(pipeline, request_for(pipeline))
    assert "weights are mapped from their files" in line
    latent_of(pipeline, steps=1)
    assert {count for _, count in streams} == {0}


def test_the_text_encoder_is_gone_before_a_transformer_comes(pipeline, tmp_path, monkeypatch):
    alive, seen = weakref.WeakSet(), []
    encoder, transformer = pipeline_module.UMT5Encoder, pipeline_module.WanTransformer

    def encoders(*arguments, **more):
        alive.add(made := encoder(*arguments, **more))
        return made

    def transformers(*arguments, **more):
        gc.collect()
        seen.append(len(alive))
        return transformer(*arguments, **more)

    monkeypatch.setattr(pipeline_module, "UMT5Encoder", encoders)
    monkeypatch.setattr(pipeline_module, "WanTransformer", transformers)
    smallest, _ = least(pipeline)
    for vram in (None, smallest):
        generate(on_budget(pipeline, vram), request_for(pipeline), tmp_path / "out.mp4")
    assert seen == [0] * 4


def test_of_two_streamed_experts_the_first_is_gone_before_the_second_comes(pipeline, monkeypatch):
    alive, seen, original = weakref.WeakSet(), [], pipeline_module.WanTransformer

    def watched(*arguments, **more):
        seen.append(len(alive))
        alive.add(made := original(*arguments, **more))
        return made

    monkeypatch.setattr(pipeline_module, "WanTransformer", watched)
    gc.disable()  # when it comes by is chance, and on a GPU too late
    try:
        latent_of(on_budget(pipeline, least(pipeline)[0]))
        assert (seen, len(alive)) == ([0, 0], 0)
    finally:
        gc.enable()


def test_a_prompt_is_read_once_in_each_turn(pipeline, monkeypatch):
    read, original = [], pipeline_module.WanTransformer.read_text

    def watched(self, context, *others):
        read.append(context.shape[1])
        return original(self, context, *others)

    monkeypatch.setattr(pipeline_module.WanTransformer, "read_text", watched)
    request = request_for(pipeline, steps=6)
    sample(pipeline, request, *encode_prompts(pipeline, [PROMPT, "a square"]))
    tokens = [pipeline.tokenizer.count(text) for text in (PROMPT, "a square")]
    assert read == tokens * 2, "two prompts, two experts, six steps"


@pytest.mark.parametrize("tiles", [1, 4])
def test_frames_that_do_not_fit_come_out_of_tiles_the_same(pipeline, wide_latent, monkeypatch, tiles):
    whole = torch.cat(list(decode(pipeline, wide_latent)))
    seen, side = [], int(tiles**0.5)

    def planned(config, height, width, room, dtype):
        seen.append((room, dtype))
        return even_tiles(height, width, side, side)

    monkeypatch.setattr(placement, "decode_bytes", lambda *_: 10**9)
    monkeypatch.setattr(placement, "plan_tiles", planned)
    tight = on_budget(pipeline, 10**9)
    found = torch.cat(list(decode(tight, wide_latent)))
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    weights = 10**9 - seen[0][0]
    assert weights == sum(pipeline.vae.stored_bytes(torch.float32).values())
    how = "4 tiles" if tiles > 1 else "whole frames"
    line = pipeline_module.memory_line(tight, request_for(pipeline))
    assert f": too much, so {how} with caches on the host; text encoder" in line


def test_the_header_of_each_file_is_read_once(folder, monkeypatch):
    read, original = [], containers._read_file

    def watched(path):
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(containers, "_read_file", watched)
    latent_of(load_pipeline(folder, device="cpu"))
    assert sorted(read) == sorted(file.name for file in folder.iterdir())


def test_the_next_expert_is_read_three_steps_before_its_turn(pipeline, monkeypatch):
    events = []
    expect, at = pipeline_module.OneAtATime.expect, pipeline_module.OneAtATime.at
    for name, method in (("expect", expect), ("at", at)):
        monkeypatch.setattr(
            pipeline_module.OneAtATime,
            name,
            lambda self, expert, name=name, method=method: (
                events.append((name, expert)) or method(self, expert)
            ),
        )
    request = request_for(pipeline, steps=8)
    context, negative = encode_prompts(pipeline, [PROMPT, ""])
    sample(pipeline, request, context, negative, lambda info: events.append(("step", info.index)))
    switch = events.index(("at", "low_noise"))
    # It begins when a step is done, and is told so before the caller is; then come three whole steps.
    last = events[switch - 1][1]
    assert last >= 3
    assert events[switch - 5 : switch] == [
        ("expect", "low_noise"), *(("step", index) for index in range(last - 3, last + 1)),
    ]  # fmt: skip
    assert [event for event in events if event[0] != "step"] == [
        ("at", "high_noise"), ("expect", "low_noise"), ("at", "low_noise"),
    ]  # fmt: skip


def test_reading_ahead_brings_the_very_pages_and_stops_at_its_limit(folder):
    checkpoint = open_checkpoint(folder / "toy_t2v_low_noise.safetensors")
    ahead = checkpoint.read_ahead(2**40)
    ahead.wait()
    assert resident(checkpoint.path) >= 0.99 * checkpoint.size
    ahead.stop()
    del ahead
    gc.collect()
    ahead = checkpoint.read_ahead(checkpoint.size // 2)
    ahead.wait()
    assert 0.3 * checkpoint.size < ahead.read <= checkpoint.size // 2
    ahead = checkpoint.read_ahead(0)
    ahead.wait()
    assert ahead.read == 0


def resident(path: Path) -> int:
    """Bytes of a mapped file in this process's page tables."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(path.resolve()))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_no_more_is_read_ahead_than_memory_holds_beside_the_file_in_use(monkeypatch):
    monkeypatch.setattr(placement, "host_memory", lambda: HostMemory(1000, 500))
    assert [placement.read_ahead_limit(used) for used in (0, 600, 2000)] == [900, 300, 0]
    monkeypatch.setattr(placement, "host_memory", lambda: None)
    assert placement.read_ahead_limit(0) == 0
