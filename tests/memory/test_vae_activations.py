"""What the VAEs say they hold, against live tensors counted on the meta device.

pytest tests/memory/test_vae_activations.py
"""

from __future__ import annotations

import pytest
import torch

from bench.live import LiveBytes, attention_kernel
from wan_core.models import vae_layers
from wan_core.models.vae import make_vae
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import VAE22Config
from wan_core.models.vae_activations import decode_bytes, encode_bytes

RELEASED_2_1, RELEASED_2_2 = VAEConfig(), VAE22Config()
TOY_2_1, TOY_2_2 = VAEConfig(dim=8), VAE22Config(dim=8, decoder_dim=8)
CASES = [
    (RELEASED_2_2, 704, 1280, torch.bfloat16),
    (RELEASED_2_1, 256, 256, torch.float32),
    (RELEASED_2_2, 256, 256, torch.float32),
    (TOY_2_1, 64, 96, torch.float32),
    (TOY_2_2, 64, 96, torch.float32),
]


@pytest.fixture(autouse=True)
def _no_scores(monkeypatch):
    """A GPU's attention kernels hold none."""
    monkeypatch.setattr(vae_layers.F, "scaled_dot_product_attention", attention_kernel)
    with torch.no_grad():
        yield


@pytest.mark.parametrize(("config", "height", "width", "dtype"), CASES)
def test_counted_bytes_are_within_15_percent(config, height, width, dtype):
    vae = make_vae(config, device="meta", dtype=dtype)
    rows, columns = height // vae.stride[1], width // vae.stride[2]
    counted = decoded(vae, (2, rows, columns), dtype)
    assert decode_bytes(config, rows, columns, dtype) == pytest.approx(counted, rel=0.15)
    video = torch.empty(1, 3, 5, height, width, device="meta", dtype=dtype)
    with LiveBytes() as live:
        vae.encode(video)
    assert encode_bytes(config, height, width, dtype) == pytest.approx(live.peak, rel=0.15)


@pytest.fixture
def _host(monkeypatch):
    """ "meta" plays the GPU: what is stored elsewhere is a shape until it is fetched."""

    def fetch(memory, layer, device):
        shapes = memory._frames.get(layer, [])
        return [torch.empty(shape, device=device, dtype=torch.bfloat16) for shape in shapes], None

    monkeypatch.setattr(vae_layers.Memory, "_stored", lambda _, frames: [frame.shape for frame in frames])
    monkeypatch.setattr(vae_layers.Memory, "_fetch", fetch)


@pytest.mark.usefixtures("_host")
def test_a_720p_decode_holds_5_gb_and_half_with_its_memory_on_the_host():
    config, dtype, cells = RELEASED_2_1, torch.bfloat16, (90, 160)
    vae = make_vae(config, device="meta", dtype=dtype)
    counted = decoded(vae, (2, *cells), dtype)
    assert counted < 5.0e9
    assert decode_bytes(config, *cells, dtype) == pytest.approx(counted, rel=0.15)
    on_host = decoded(vae, (2, *cells), dtype, cache_device="cpu")
    assert on_host < decode_bytes(config, *cells, dtype, caches_on_host=True) < 2.5e9


@pytest.mark.usefixtures("_host")
@pytest.mark.parametrize(("config", "side"), [(RELEASED_2_1, 480), (RELEASED_2_2, 704)])
def test_encoding_holds_a_third_less_with_its_memory_on_the_host(config, side):
    vae = make_vae(config, device="meta", dtype=torch.bfloat16)
    video = torch.empty(1, 3, 5, side, side, device="meta", dtype=torch.bfloat16)
    peaks = []
    for cache_device in (None, "cpu"):
        with LiveBytes() as live:
            vae.encode(video, cache_device)
        peaks.append(live.peak)
    whole, on_host = peaks
    assert on_host < whole * 2 / 3
    assert on_host < encode_bytes(config, side, side, torch.bfloat16, caches_on_host=True) < whole * 3 / 4


@pytest.mark.parametrize("config", [TOY_2_1, TOY_2_2])
def test_decoding_holds_the_same_for_any_length(config):  # from the third latent frame on
    vae = make_vae(config, device="meta")
    short, long = (decoded(vae, (frames, 4, 6), torch.float32) for frames in (3, 9))
    assert long == short


def decoded(vae, shape, dtype, **options):
    """The most bytes held while the frames of a latent (frames, rows, columns) come and go."""
    latent = torch.empty(1, vae.config.latent_channels, *shape, device="meta", dtype=dtype)
    with LiveBytes() as live:
        for chunk in vae.decode_chunks(latent, **options):
            del chunk
    return live.peak
