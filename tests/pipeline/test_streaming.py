"""A long video takes the memory of a short one: its frames are never all there.

pytest tests/pipeline/test_streaming.py
"""

from __future__ import annotations

import pytest
import torch

from bench.live import LiveBytes
from wan_core.media.mp4 import write_mp4
from wan_core.pipeline import Pipeline, decode, encode_images, load_pipeline
from wan_core.request import Request
from wan_core.tiny import weights_dir

SIDE = 32  # pixels


@pytest.fixture(scope="module", params=["t2v", "ti2v"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    """wan-tiny with either VAE."""
    return load_pipeline(weights_dir(), task=request.param)


def test_a_long_video_takes_the_memory_of_a_short_one(pipeline: Pipeline, tmp_path) -> None:
    latents = {frames: latent_of(pipeline, frames) for frames in (17, 81)}
    peaks = {}
    for frames, latent in latents.items():
        with LiveBytes() as live:
            write_mp4(decode(pipeline, latent), tmp_path / "clip.mp4", fps=16)
        peaks[frames] = live.peak
    one_frame = SIDE * SIDE * 3 * 4
    assert peaks[17] > 4 * one_frame, "nothing was counted"
    # What is computed from the latent beforehand, and no frames.
    assert abs(peaks[81] - peaks[17]) <= 2 * latents[81].nbytes < 16 * one_frame


def test_a_long_video_from_a_picture_takes_the_memory_of_a_short_one() -> None:
    pipeline = load_pipeline(weights_dir(), task="i2v")
    picture = torch.full((SIDE, SIDE, 3), 0.5)
    peaks = {}
    for frames in (17, 81):
        request = Request.for_variant(
            pipeline.variant, "a red circle", image=picture, width=SIDE, height=SIDE, frames=frames
        )
        request = request.validate(pipeline.variant)
        with LiveBytes() as live:
            made = encode_images(pipeline, request)
        peaks[frames] = live.peak
    one_frame = SIDE * SIDE * 3 * 4
    assert peaks[17] > 4 * one_frame, "nothing was counted"
    # The features of mean and variance and what becomes of them, and no frames.
    assert abs(peaks[81] - peaks[17]) <= 5 * made.channels.nbytes < 16 * one_frame


def latent_of(pipeline: Pipeline, frames: int) -> torch.Tensor:
    stride = pipeline.variant.vae_stride
    cells = ((frames - 1) // stride[0] + 1, SIDE // stride[1], SIDE // stride[2])
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, pipeline.variant.latent_channels, *cells, generator=generator)
