"""Tiles of a frame decode as the whole frame does, in the memory that was planned.

pytest tests/unit/test_vae_tiles.py
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from bench.live import LiveBytes
from wan_core.errors import WanError
from wan_core.models import vae_tiles
from wan_core.models.vae import make_vae
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import VAE22Config
from wan_core.models.vae_layers import Memory
from wan_core.models.vae_tiles import Tile, decode_tiled, even_tiles, plan_tiles, tiled_bytes

TOYS = {"2.1": VAEConfig(dim=4), "2.2": VAE22Config(dim=4, decoder_dim=4)}
RELEASED = {"2.1": (VAEConfig(), 90, 160), "2.2": (VAE22Config(), 44, 80)}  # cells of 720 and 704 rows
UNEVEN = [Tile(0, 7, 0, 18), Tile(7, 18, 0, 5), Tile(7, 18, 5, 18)]


@pytest.fixture(scope="module", params=TOYS)
def vae_and_latent(request):
    torch.manual_seed(0)
    config = TOYS[request.param]
    return make_vae(config), torch.randn(1, config.latent_channels, 3, 18, 18)


@pytest.mark.parametrize("tiles", [even_tiles(18, 18, 2, 2), even_tiles(18, 18, 1, 3), UNEVEN])
def test_tiles_decode_as_the_whole_frame(vae_and_latent, tiles):
    vae, latent = vae_and_latent
    with torch.no_grad():
        whole = list(vae.decode_chunks(latent))
        tiled = list(decode_tiled(vae, latent, tiles, cache_device="cpu"))
    assert [chunk.shape for chunk in tiled] == [chunk.shape for chunk in whole]
    # No seam: what rounding leaves, at the borders as anywhere.
    assert max((a - b).abs().max() for a, b in zip(tiled, whole, strict=True)) < 1e-5


def test_without_its_margin_a_tile_has_seams(vae_and_latent, monkeypatch):
    """What the agreement above is worth: margins a point short show at the borders, and nowhere else."""
    vae, latent = vae_and_latent
    reaches = vae_tiles._reaches
    monkeypatch.setattr(vae_tiles, "HEAD_REACH", 0)
    monkeypatch.setattr(vae_tiles, "_reaches", lambda *what: [n - 1 for n in reaches(*what)])
    with torch.no_grad():
        whole = next(vae.decode_chunks(latent))
        tiled = next(decode_tiled(vae, latent, even_tiles(18, 18, 1, 2)))
    off = (tiled - whole).abs().amax(dim=(0, 1, 2, 3))
    middle = off.shape[0] // 2
    assert off[middle - 16 : middle + 16].max() > 1e-4
    assert off[: middle // 2].max() < 1e-5


def test_a_latent_of_another_vae_is_refused(vae_and_latent):
    vae, latent = vae_and_latent
    with pytest.raises(WanError, match="use the VAE that belongs to the model"):
        next(decode_tiled(vae, latent[:, 1:], even_tiles(18, 18, 2, 2)))


@pytest.mark.parametrize("name", RELEASED)
def test_planned_bytes_are_the_counted_ones(name, monkeypatch):
    """Released sizes, on the meta device; the caches lie elsewhere."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, *_: torch.empty_like(q))
    monkeypatch.setattr(Memory, "_stored", lambda _, frames: [x.new_empty(1).expand(x.shape) for x in frames])
    config, height, width = RELEASED[name]
    vae = make_vae(config, device="meta", dtype=torch.bfloat16)
    latent = torch.empty(1, config.latent_channels, 2, height, width, device="meta", dtype=torch.bfloat16)
    tiles = even_tiles(height, width, 2, 2)
    with torch.no_grad(), LiveBytes() as live:
        for _ in decode_tiled(vae, latent, tiles[-1:], cache_device="meta"):
            pass
    planned = tiled_bytes(config, height, width, tiles, torch.bfloat16, on_card=False)
    assert 0.87 * live.peak < planned < 1.15 * live.peak
    assert live.peak < 0.6e9  # 0.1 of it a GPU's bands of rows


@pytest.mark.parametrize("name", RELEASED)
def test_a_smaller_budget_has_more_tiles(name):
    config, height, width = RELEASED[name]
    counts = []
    for budget in (4e9, 1e9, 0.5e9, 0.3e9):
        tiles = plan_tiles(config, height, width, int(budget), torch.bfloat16)
        assert tiled_bytes(config, height, width, tiles, torch.bfloat16) <= budget
        assert sum(tile.cells for tile in tiles) == height * width
        counts.append(len(tiles))
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[-1] > 2
    with pytest.raises(WanError, match=r"VAE: .* GB even in small tiles, and 0\.05 GB are left") as caught:
        plan_tiles(config, height, width, int(0.05e9), torch.bfloat16)
    assert "\n" not in str(caught.value)
