"""Previews: colours of latents, a WebP that moves, and a worker that its work never waits for.

pytest tests/unit/test_preview.py
"""

from __future__ import annotations

import io
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from wan_core.checkpoints import latent_rgb, load_module, open_checkpoint, vae_config
from wan_core.checkpoints.known import KNOWN
from wan_core.media.preview import RELEASED_RGB, LatentRgb, animated_webp, enlarged, preview_frames
from wan_core.media.preview_worker import PreviewWorker
from wan_core.models.vae import make_vae
from wan_core.tiny import fit_preview, weights_dir
from wan_core.tiny.scenes import Scene

SOON = 10.0  # seconds within which a thread has surely done what it does in none


@pytest.mark.parametrize("channels", [16, 48])
def test_a_latent_becomes_a_pixel_a_cell(channels: int):
    latent = torch.zeros(channels, 3, 4, 5)
    latent[2, 1, 0, 4] = 2.0
    frames = preview_frames(latent)
    assert frames.shape == (3, 4, 5, 3)
    assert frames.dtype == torch.uint8
    rgb = RELEASED_RGB[channels]
    plain = (torch.tensor(rgb.bias) + 1) * 127.5
    assert torch.equal(frames[0, 0, 0], plain.round().to(torch.uint8))
    there = plain + torch.tensor(rgb.factors[2]) * 2 * 127.5
    assert torch.equal(frames[1, 0, 4], there.clamp(0, 255).round().to(torch.uint8))
    assert (frames.flatten(0, 2) == frames[0, 0, 0]).all(dim=1).sum() == 3 * 4 * 5 - 1


def test_colours_are_clamped_whatever_the_latent_holds():
    latent = torch.randn(16, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 100
    assert set(preview_frames(latent).unique().tolist()) >= {0, 255}


@pytest.mark.parametrize(
    ("cells", "size"),
    [((60, 104), (512, 295)), ((90, 160), (512, 288)), ((12, 12), (384, 384)), ((6, 6), (192, 192))],
)
def test_pictures_are_enlarged_to_a_size_to_look_at(cells: tuple[int, int], size: tuple[int, int]):
    pictures = enlarged(torch.zeros(2, *cells, 3, dtype=torch.uint8))
    assert [picture.size for picture in pictures] == [size, size]


def test_the_webp_holds_every_frame_and_plays_again_and_again():
    levels = [10, 120, 240]
    frames = torch.tensor(levels, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 4, 6, 3)
    with Image.open(io.BytesIO(animated_webp(enlarged(frames), fps=4))) as webp:
        assert (webp.format, webp.n_frames, webp.info["loop"]) == ("WEBP", 3, 0)
        for number, level in enumerate(levels):
            webp.seek(number)
            webp.load()
            assert abs(np.asarray(webp.convert("RGB")).mean() - level) < 3
            assert webp.info["duration"] == 250


def test_one_frame_is_a_picture():
    frames = torch.full((1, 4, 4, 3), 90, dtype=torch.uint8)
    with Image.open(io.BytesIO(animated_webp(enlarged(frames), fps=4))) as webp:
        assert getattr(webp, "n_frames", 1) == 1


def test_only_a_known_model_has_colours_of_its_own():
    assert latent_rgb(None, 16) is RELEASED_RGB[16]
    assert latent_rgb("a model nobody knows", 48) is RELEASED_RGB[48]
    for one in KNOWN:
        channels = 48 if one.expert == "dense" else 16
        assert one.rgb is not None
        assert len(one.rgb.factors) == channels
        assert latent_rgb(one.model, channels) is one.rgb


def test_the_fit_finds_a_linear_function():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(200, 4, generator=generator)
    factors, bias = torch.randn(4, 3, generator=generator) / 5, torch.tensor([0.1, 0.0, -0.1])
    rgb = fit_preview.fit(latents, latents @ factors + bias, noise=0.0)
    assert torch.allclose(torch.tensor(rgb.factors), factors, atol=1e-4)
    assert torch.allclose(torch.tensor(rgb.bias), bias, atol=1e-4)


def test_the_fit_bears_what_a_network_makes_of_dependent_channels():
    """Two channels that say the same but for a hair, by which plain least squares goes."""
    generator = torch.Generator().manual_seed(0)
    one, hair = torch.randn(2, 500, generator=generator)
    latents = torch.stack([one, one + 1e-3 * hair], dim=1)
    colours = (one + 1e-2 * hair).unsqueeze(1).expand(-1, 3) / 5
    sharp, steady = (fit_preview.fit(latents, colours, noise) for noise in (0.0, fit_preview.NOISE))
    seen = latents + 0.1 * torch.randn(500, 2, generator=generator)
    assert fit_preview.error(steady, seen, colours) < 0.2 * fit_preview.error(sharp, seen, colours)


@pytest.mark.parametrize(
    ("vae", "expert", "off", "of_released"),
    [("wan_tiny_vae", "high_noise", 25, 60), ("wan_tiny_vae_2_2", "dense", 25, 60)],
)
def test_wan_tiny_is_shown_in_its_own_colours(vae: str, expert: str, off: float, of_released: float):
    """As the card says: within some 20 levels of 255, where the released figures show something else."""
    checkpoint = open_checkpoint(weights_dir() / "vae" / f"{vae}.safetensors")
    network = load_module(make_vae(vae_config(checkpoint.header), device="meta"), checkpoint, torch.float32)
    scenes = [
        Scene("blue", "star", "left", "plain light", "neutral"),
        Scene("red", "circle", "up", "graded dark", "warm"),
        Scene("green", "square", "grow", "plain dark", "cool"),
    ]
    latents, colours = fit_preview.cells(network, scenes)
    own = next(one.rgb for one in KNOWN if one.expert == expert)
    assert fit_preview.error(own, latents, colours) < off
    assert fit_preview.error(RELEASED_RGB[latents.shape[1]], latents, colours) > of_released


class Shown:
    """What a worker has shown."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, bool]] = []
        self.came = threading.Semaphore(0)

    def __call__(self, frames: torch.Tensor, is_last: bool) -> None:
        self.frames.append((int(frames), is_last))
        self.came.release()

    def wait(self) -> None:
        assert self.came.acquire(timeout=SOON), "nothing was shown"


def number(value: int):
    return lambda: torch.tensor(value)


def test_the_newest_wins_and_the_last_is_shown_at_the_end():
    shown = Shown()
    with PreviewWorker(shown, seconds=1e9) as worker:  # only the end shortens its rest
        worker.offer(number(1))
        shown.wait()
        for value in (2, 3, 4):
            worker.offer(number(value))
        time.sleep(0.05)
        assert shown.frames == [(1, False)]
    shown.wait()
    assert shown.frames == [(1, False), (4, True)]


def test_previews_keep_their_distance():
    shown = Shown()
    with PreviewWorker(shown, seconds=0.2) as worker:
        began = time.monotonic()
        for value in range(2):
            worker.offer(number(value))
            shown.wait()
        assert time.monotonic() - began >= 0.15


def test_work_that_fails_shows_nothing_more():
    shown = Shown()

    def fail() -> None:
        with PreviewWorker(shown, seconds=1e9) as worker:
            worker.offer(number(1))
            shown.wait()
            worker.offer(number(2))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not shown.came.acquire(timeout=0.1)
    assert len(shown.frames) == 1


def test_a_preview_that_fails_is_said_once_and_harms_nothing(caplog: pytest.LogCaptureFixture):
    def broken(frames: torch.Tensor, is_last: bool) -> None:
        raise RuntimeError("no picture today")

    with PreviewWorker(broken, seconds=0) as worker:
        worker.offer(number(1))
        for thread in threading.enumerate():
            if thread.name == "wancore preview":
                thread.join(SOON)
        for value in range(50):
            worker.offer(number(value))
    said = [record.message for record in caplog.records]
    assert said == ["preview: no picture today; the run goes on without"]


def test_offering_does_not_wait_for_the_worker():
    release, started = threading.Event(), threading.Event()

    def slow() -> torch.Tensor:
        started.set()
        assert release.wait(SOON)
        return torch.tensor(0)

    shown = Shown()
    with PreviewWorker(shown) as worker:
        worker.offer(slow)
        assert started.wait(SOON)
        for value in range(100):  # would hang here
            worker.offer(number(value))
    release.set()
    shown.wait()


def test_a_preview_s_figures_are_for_its_channels():
    assert {channels: len(rgb.factors) for channels, rgb in RELEASED_RGB.items()} == {16: 16, 48: 48}
    assert all(isinstance(rgb, LatentRgb) and len(rgb.bias) == 3 for rgb in RELEASED_RGB.values())
