"""The VAE's own convolutions against torch's, and each kernel behind them against the other.

pytest tests/unit/test_convolutions.py
"""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from wan_core.models import convolutions, vae_layers
from wan_core.models.vae_2_1 import VAEConfig, WanVAE
from wan_core.models.vae_2_2 import VAE22Config, WanVAE22
from wan_core.models.winograd import Scratch

SIZES = [(16, 32), (30, 21), (5, 7)]  # whole tiles, and tiles that hang over


@pytest.fixture(autouse=True)
def _plain_arithmetic():
    with torch.no_grad():
        yield


@pytest.fixture(params=["winograd", "direct"])
def kernel(request, monkeypatch):
    """Every shape by this one kernel, in several bands and groups."""
    at_least = {"winograd": (0, 0), "direct": (2**40, 2**40)}[request.param]
    monkeypatch.setattr(convolutions, "WINOGRAD_TILES", at_least[0])
    monkeypatch.setattr(convolutions, "WINOGRAD_CHANNELS", at_least[1])
    monkeypatch.setattr(convolutions, "BAND_TILES", 20)
    monkeypatch.setattr(convolutions, "KERNEL_BYTES", 2**12)
    monkeypatch.setattr(convolutions, "BAND_BYTES", 2**14)
    return request.param


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("cin", "cout"), [(8, 8), (5, 12)])
@pytest.mark.parametrize("chunks", [(1, 4, 4), (1, 1, 2, 3), (2, 2), (5,)])
@pytest.mark.usefixtures("kernel")
def test_causal_in_chunks_is_the_padded_convolution(size, cin, cout, chunks):
    x, weight, bias = rand(2, cin, sum(chunks), *size), rand(cout, cin, 3, 3, 3), rand(cout)
    expected = F.conv3d(F.pad(x, (1, 1, 1, 1, 2, 0)), weight, bias)
    before, out, scratch = [], [], Scratch()
    for chunk in x.split(chunks, dim=2):
        seen = [*before, *vae_layers.to_list(chunk)]
        count = chunk.shape[2]
        convolutions.causal(seen, count, weight, bias, scratch)
        # a result's memory may not be that of what the next chunk needs
        out.append(vae_layers.to_tensor(seen[:count]))
        before = seen[count:]
    assert len(before) == min(2, sum(chunks))
    close(torch.cat(out, dim=2), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("kernel")
def test_upsampled_and_downsampled(size):
    frame, weight, bias = rand(2, *size, 6), rand(9, 6, 3, 3), rand(9)
    x = frame.movedim(-1, 1)
    doubled = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest-exact"), weight, bias, padding=1)
    close(convolutions.upsampled(frame, weight, bias, Scratch()), doubled.movedim(1, -1))
    halved = F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, stride=2)
    close(convolutions.downsampled(frame, weight, bias, Scratch()), halved.movedim(1, -1))


def test_equal_widths_need_no_new_frames():
    """A second chunk's results lie where frames lay that nobody needs again."""
    frames = [rand(1, 32, 64, 48) for _ in range(4)]
    weight, where = rand(48, 48, 3, 3, 3), {frame.data_ptr() for frame in frames}
    convolutions.causal(frames, 2, weight, None, Scratch())
    assert {frame.data_ptr() for frame in frames} == where


@pytest.mark.parametrize(
    ("network", "config"),
    [(WanVAE, VAEConfig(dim=8)), (WanVAE22, VAE22Config(dim=8, decoder_dim=8))],
    ids=["2.1", "2.2"],
)
@pytest.mark.usefixtures("kernel")
def test_a_vae_gives_the_same_by_either_kernel_and_in_parts(network, config, monkeypatch):
    """Against the whole clip, which torch's own layers do."""
    torch.manual_seed(0)  # how much rounding shows depends on the weights
    vae = network(config).eval()
    video = rand(1, 3, 9, 32, 48)
    monkeypatch.setattr(vae_layers, "LARGE_FRAME", 0)
    raw = vae.encode(video)
    close(raw, vae.encode_whole(video))
    close(vae.decode(raw), vae.decode_whole(raw))


@pytest.mark.parametrize("vae", [WanVAE(VAEConfig(dim=4)), WanVAE22(VAE22Config(dim=4, decoder_dim=4))])
def test_memory_kept_elsewhere_changes_nothing(vae):
    raw = rand(1, vae.config.latent_channels, 4, 2, 3)
    assert torch.equal(torch.cat(list(vae.decode_chunks(raw, cache_device="cpu")), dim=2), vae.decode(raw))


def test_memory_lies_where_it_was_asked_to():
    memory, layer = vae_layers.Memory("meta"), torch.nn.Identity()
    memory.keep(layer, [rand(1, 2, 2, 4)])
    assert memory.fork().take(layer, torch.empty(0, device="meta"))[0].shape == (1, 2, 2, 4)
    assert memory.take(layer, torch.empty(0, device="meta"))[0].is_meta
    assert memory.take(layer, torch.empty(0, device="meta")) == []


def test_on_a_card_what_is_remembered_is_there_when_it_is_used_and_leaves_before_more_does(monkeypatch):
    """The order of copies and layers, by what streams and events are told."""
    vae, notes = WanVAE(VAEConfig(dim=4)), []

    def event():
        number = sum(note[0] == "record" for note in notes)
        notes.append(("record", number))
        return SimpleNamespace(number=number, synchronize=lambda: notes.append(("host waits", number)))

    stream = SimpleNamespace(
        record_event=event,
        wait_stream=lambda _: notes.append(("copies wait", -1)),
        wait_event=lambda event: notes.append(("work waits", event.number)),
    )
    monkeypatch.setattr(vae_layers, "is_card", lambda _: True)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    raw = rand(1, vae.config.latent_channels, 4, 2, 3)
    found = torch.cat(list(vae.decode_chunks(raw, cache_device="cpu")), dim=2)
    assert torch.equal(found, vae.decode(raw))
    recorded = [number for kind, number in notes if kind == "record"]
    waited = [number for kind, number in notes if kind == "work waits"]
    left = [notes[place + 1][1] for place, (kind, _) in enumerate(notes) if kind == "copies wait"]
    assert len(left) > 50
    assert set(waited) <= set(recorded) - set(left)  # for what comes in, and for nothing that leaves
    # One layer's frames are on their way out at a time.
    assert [number for kind, number in notes if kind == "host waits"] == left[:-1]
    assert all(notes.index(("host waits", n)) > notes.index(("record", n)) for n in left[:-1])
    # All but the last layer's are fetched while another works.
    fetched = [
        number
        for number in waited
        if notes.index(("work waits", number)) - notes.index(("record", number)) > 1
    ]
    assert len(fetched) > len(waited) // 2


def test_16_bit_convolutions_ask_cudnn_by_name(monkeypatch):
    """torch passes it over in some versions; what it is asked must be the convolution."""

    def cudnn_convolution(x, weight, padding, stride, dilation, groups, benchmark, deterministic, allow_tf32):
        assert x.is_contiguous(memory_format=torch.channels_last_3d)
        assert {benchmark, deterministic, allow_tf32} <= {False, True}
        return F.conv3d(x, weight, None, stride, padding, dilation, groups)

    frames, weight, bias = [rand(1, 8, 8, 4).bfloat16() for _ in range(3)], rand(4, 4, 3, 3, 3), rand(4)
    expected = convolutions.single(frames, weight.bfloat16(), bias.bfloat16(), Scratch())
    monkeypatch.setattr(convolutions, "_asks_cudnn", lambda _: True)
    monkeypatch.setattr(torch, "cudnn_convolution", cudnn_convolution)
    found = convolutions.single(frames, weight.bfloat16(), bias.bfloat16(), Scratch())
    assert ((found - expected).norm() / expected.norm()).item() < 1e-2  # the bias is added after rounding


def test_real_width_goes_through_winograd(monkeypatch):
    """The rule that chooses, at the released width: where it says Winograd the numbers must be as good."""
    asked = []
    chosen = convolutions._by_winograd
    monkeypatch.setattr(
        convolutions, "_by_winograd", lambda *given: asked.append(chosen(*given)) or asked[-1]
    )
    frames, weight = [rand(1, 32, 32, 96) for _ in range(4)], rand(96, 96, 3, 3, 3) / 50
    x = torch.stack(frames, 1).movedim(-1, 1)
    expected = F.conv3d(x.double(), weight.double(), padding=(0, 1, 1))
    convolutions.causal(frames, 2, weight, None, Scratch())
    ours = torch.stack(frames[:2], 1).movedim(-1, 1)
    assert all(asked)
    assert ((ours - expected).norm() / expected.norm()).item() < 5e-6
    assert not chosen(frames[0].bfloat16(), weight.bfloat16())


def rand(*shape, seeds=itertools.count()):  # noqa: B008 (one count for all, so that no two are alike)
    return torch.randn(shape, generator=torch.Generator().manual_seed(next(seeds)))


def close(ours, expected):
    """To rounding, as a share of the whole."""
    assert ours.shape == expected.shape
    assert ((ours - expected).norm() / expected.norm()).item() < 5e-6
