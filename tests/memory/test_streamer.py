"""Blocks that come and go compute what resident ones do, and take no more memory than their slabs."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from bench.memory import peak_anonymous
from tests.formats import stored as forms
from tests.memory.streaming_work import HEAVY, TOY, inputs, numbers, run_streamed, write_heavy
from wan_core.checkpoints import load_module, open_checkpoint
from wan_core.lora import with_changes
from wan_core.memory import SLABS, Streamer, choose, streamed_indices, weigh
from wan_core.memory import streamer as streamer_module
from wan_core.models.transformer import WanTransformer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "toy.safetensors"
    save_file(numbers(WanTransformer(TOY, device="meta")), path)
    return path


def opened(path: Path, compute_dtype=torch.float32):
    checkpoint = open_checkpoint(path)
    network = load_module(WanTransformer(TOY, device="meta"), checkpoint)
    network.compute_dtype = compute_dtype
    return network


def answers(network, count=2):
    with torch.no_grad():
        return [network(*inputs(TOY)) for _ in range(count)]


def streaming(network, count, dtype=None):
    return Streamer(network, network.blocks, streamed_indices(len(network.blocks), count), CPU, dtype)


def same(found, expected):
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("count", range(TOY.num_layers + 1))
def test_every_number_of_streamed_blocks_gives_the_same_bits(file, count):
    expected, network = answers(opened(file), 3), opened(file)
    streamer = streaming(network, count)
    assert same(answers(network, 3), expected)
    streamer.close()


def test_a_float32_file_is_rounded_on_the_way(file):
    resident = opened(file, torch.bfloat16).to(torch.bfloat16)
    network = opened(file, torch.bfloat16)
    streamer = streaming(network, 4, torch.bfloat16)
    assert same(answers(network), answers(resident))
    streamer.close()


@pytest.mark.parametrize("kind", ["fp8 scaled, new", "fp8 per row, no marker", "int8 per tensor"])
def test_quantized_weights_travel_as_codes(kind, tmp_path):
    quantized = forms.QUANTIZATIONS[kind][0](numbers(WanTransformer(TOY, device="meta")))
    path = forms.write_safetensors(tmp_path, quantized)
    expected, network = answers(opened(path)), opened(path)
    streamer = streaming(network, TOY.num_layers)
    rooms = {slab.room.numel() for slab in streamer._slabs}
    assert same(answers(network), expected)
    assert rooms == {max(weigh(open_checkpoint(path).stored_bytes()).blocks)}
    assert max(rooms) < 0.4 * max(weigh(open_checkpoint(path).stored_bytes(torch.float32)).blocks)
    streamer.close()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K"])
def test_gguf_blocks_travel_as_stored(kind, tmp_path):
    forms.write_gguf(tmp_path / "toy.gguf", numbers(WanTransformer(TOY, device="meta")), kind)
    expected, network = answers(opened(tmp_path / "toy.gguf")), opened(tmp_path / "toy.gguf")
    streamer = streaming(network, 5)
    assert same(answers(network), expected)
    streamer.close()


def test_what_a_lora_adds_beside_a_layer_is_added_to_a_streamed_one(file, tmp_path):
    from wan_core.checkpoints.loras import load_lora
    from wan_core.variants.variant import HIGH_NOISE

    tensors = {}
    for layer, part in (("blocks.1.self_attn.q", "lora"), ("blocks.4.ffn.2", "lora")):
        rows, columns = opened(file).get_submodule(layer).weight.shape
        tensors |= {
            f"diffusion_model.{layer}.{part}_down.weight": torch.randn(2, columns),
            f"diffusion_model.{layer}.{part}_up.weight": torch.randn(rows, 2),
        }
    tensors["diffusion_model.blocks.2.diff_m"] = torch.randn(1, 6, TOY.dim)
    save_file(tensors, tmp_path / "lora_high_noise.safetensors")
    changes = load_lora(tmp_path / "lora_high_noise.safetensors", TOY, {HIGH_NOISE: 1.0}).changes[HIGH_NOISE]
    assert len(changes) == 3
    plain = answers(opened(file), 1)[0]
    expected = with_changes(opened(file), changes, CPU)
    network = opened(file)
    streamer = streaming(network, 6)
    found = with_changes(network, changes, CPU)
    with torch.no_grad():
        for _ in range(2):
            answer = found(*inputs(TOY))
            assert torch.equal(answer, expected(*inputs(TOY)))
            assert not torch.equal(answer, plain)
    streamer.close()


def test_a_run_that_was_broken_off_can_be_followed_by_another(file):
    expected, network = answers(opened(file)), opened(file)
    streamer = streaming(network, 5)
    handle = network.blocks[3].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        answers(network)
    handle.remove()
    assert same(answers(network), expected)
    streamer.close()


class Card:
    """Stands for CUDA's streams and events: everything is done at once, and noted in order."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, int]] = []
        self.made = 0

    def event(self):
        number, self.made = self.made, self.made + 1
        return SimpleNamespace(
            number=number,
            record=lambda _: self.notes.append(("record", number)),
            synchronize=lambda: self.notes.append(("host waits", number)),
        )

    def stream(self, name):
        return SimpleNamespace(
            wait_event=lambda event: self.notes.append((f"{name} waits", event.number)),
            wait_stream=lambda _: None,
            synchronize=lambda: self.notes.append((f"{name} ends", -1)),
        )


def test_on_a_card_no_slab_is_read_before_it_is_filled_nor_filled_while_it_is_read(file, monkeypatch):
    expected, network, card = answers(opened(file), 2), opened(file), Card()
    monkeypatch.setattr(streamer_module, "is_card", lambda _: True)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: card.stream("copy"))
    monkeypatch.setattr(torch.cuda, "Event", card.event)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: card.stream("work"))
    streamer = streaming(network, 5)
    assert same(answers(network, 2), expected)
    streamer.close()
    assert card.notes[-1] == ("copy ends", -1)
    for slab in streamer_slabs(card):
        # Of each slab, in turn: its staging is free, its room is free, it is filled; then a block takes it.
        filled = [note for note in card.notes if note[1] in slab]
        arrived, used = slab
        fill = [("host waits", arrived), ("copy waits", used), ("record", arrived)]
        turn = [("work waits", arrived), ("record", used)]
        turns = len(filled) // 5
        assert turns >= 4
        assert filled == [*(fill + turn) * turns, *fill][: len(filled)]


def streamer_slabs(card):
    """(arrived, used) of each slab, in the order its constructor makes them."""
    return [(number, number + 1) for number in range(0, card.made, 2)]


def test_between_its_turns_a_block_has_its_weights_in_the_file(file):
    network, mapped = opened(file), opened(file).state_dict()
    streamer = streaming(network, 6)
    answers(network)
    assert all(torch.equal(value, mapped[name]) for name, value in network.state_dict().items())
    streamer.close()
    assert not streamer._slabs
    assert not network.blocks[0]._forward_pre_hooks
    streamer.close()


def test_an_unreadable_weight_stops_the_run_and_not_the_worker_alone(file, monkeypatch):
    network = opened(file)
    monkeypatch.setattr(Streamer, "_fetch", lambda *_: 1 / 0)
    streamer = streaming(network, 3)
    with pytest.raises(ZeroDivisionError):
        answers(network)
    streamer.close()


def test_the_choice_keeps_what_fits(file):
    weights = weigh(open_checkpoint(file).stored_bytes())
    block = weights.blocks[0]
    assert set(weights.blocks) == {block}
    assert choose(weights, 1000, None).streamed == ()
    assert choose(weights, 1000, weights.total + 1000).streamed == ()
    for resident in range(TOY.num_layers - SLABS):
        budget = weights.fixed + (SLABS + resident) * block + 1000
        found = choose(weights, 1000, budget)
        assert len(found.streamed) == TOY.num_layers - resident
        assert found.device_bytes == budget - 1000
    assert choose(weights, 1000, weights.fixed + SLABS * block + 999) is None


def test_the_bytes_of_the_choice_are_those_on_the_device(file):
    network = opened(file)
    weights = weigh(open_checkpoint(file).stored_bytes())
    streamer = streaming(network, 4)
    streamed = set(streamed_indices(6, 4))
    stay = sum(
        value.nbytes
        for name, value in network.named_parameters()
        if not name.startswith("blocks.") or int(name.split(".")[1]) not in streamed
    )
    slabs = sum(slab.room.nbytes for slab in streamer._slabs)
    chosen = choose(weights, 0, weights.total - 2 * weights.blocks[0])
    assert set(chosen.streamed) == streamed
    assert 0 <= chosen.device_bytes - stay - slabs < 0.05 * stay  # tensors are aligned to 256 bytes
    streamer.close()


def test_the_host_never_holds_a_copy_of_a_streamed_network(tmp_path):
    path = write_heavy(tmp_path / "heavy.safetensors")
    block = 2 * (8 * HEAVY.dim**2 + 2 * HEAVY.dim * HEAVY.ffn_dim)
    _, streamed = peak_anonymous(run_streamed, path, HEAVY.num_layers, 2)
    _, mapped = peak_anonymous(run_streamed, path, 0, 2)
    size = path.stat().st_size
    assert mapped < 0.25 * size
    # Of each its own peak, and no difference of the two: a busy machine may miss a moment of one of them.
    assert streamed < SLABS * block + 0.2 * size
