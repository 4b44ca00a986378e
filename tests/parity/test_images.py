"""Pictures against what the released code makes of them: sizes, resizing, masks.

Golden files: geometry.json has both models' (width, height) of the video for a picture and an area;
images.safetensors a picture (23, 31, 3), the same resized, and I2V masks (4, F) by number of pixel frames.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from wan_core.errors import WanError
from wan_core.variants import I2V_A14B, TI2V_5B
from wan_core.variants.images import covering, crop_to_aspect, stretched

GOLDEN = Path(__file__).parent / "golden"
GEOMETRY = json.loads((GOLDEN / "geometry.json").read_text("utf-8"))
AREA_480P = 832 * 480


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "images.safetensors")


@pytest.mark.parametrize("row", GEOMETRY, ids=lambda row: f"{row['area']} {row['image']}")
def test_size_from_a_picture_as_released(row):
    for variant in (I2V_A14B, TI2V_5B):
        size = variant.size_for_image(*row["image"], row["area"], "released")
        assert list(size) == row[variant.task]


def test_exact_rounding_differs_only_where_floats_fall_short():
    assert I2V_A14B.size_for_image(832, 480, AREA_480P, "released") == (832, 464)
    assert I2V_A14B.size_for_image(832, 480, AREA_480P, "exact") == (832, 480)
    assert TI2V_5B.size_for_image(1280, 704, 1280 * 704, "exact") == (1280, 704)
    for row in GEOMETRY:
        if (row["image"], row["area"]) != ([832, 480], AREA_480P):
            for variant in (I2V_A14B, TI2V_5B):
                assert list(variant.size_for_image(*row["image"], row["area"], "exact")) == row[variant.task]


@pytest.mark.parametrize("rounding", ["released", "exact"])
@pytest.mark.parametrize("variant", [I2V_A14B, TI2V_5B], ids=lambda variant: variant.task)
def test_every_size_fits_the_area_and_the_grid(variant, rounding):
    for width, height in ((16, 160), (33, 31), (1000, 999), (4096, 500), (7, 6)):
        for area in (192 * 192, AREA_480P, 1280 * 720):
            size = variant.size_for_image(width, height, area, rounding)
            assert all(side > 0 and side % variant.size_multiple == 0 for side in size)
            assert size[0] * size[1] <= area


@pytest.mark.parametrize("rounding", ["released", "exact"])
@pytest.mark.parametrize("variant", [I2V_A14B, TI2V_5B], ids=lambda variant: variant.task)
def test_a_picture_too_thin_for_any_size_is_refused(variant, rounding):
    with pytest.raises(WanError, match=r"image: 2 x 9000 is too long and thin .* crop it"):
        variant.size_for_image(2, 9000, AREA_480P, rounding)
    with pytest.raises(WanError, match="rounding: 'up' is not known; choose one of released, exact"):
        variant.size_for_image(832, 480, AREA_480P, "up")


def test_stretched_is_the_released_bicubic(golden):
    ours = stretched(golden["image.u8"].float() / 255.0, 48, 16)
    assert ours.shape == (1, 3, 1, 16, 48)
    torch.testing.assert_close(ours[0, :, 0], golden["image.bicubic_16x48"], rtol=0, atol=1e-6)


def test_covering_is_the_released_lanczos_and_crop(golden):
    ours = covering(golden["image.u8"].float() / 255.0, 32, 64)
    assert ours.shape == (1, 3, 1, 64, 32)
    pixels = ours[0, :, 0].permute(1, 2, 0).add(1.0).mul(127.5).round().to(torch.uint8)
    assert torch.equal(pixels, golden["image.lanczos_crop_32x64_u8"])


@pytest.mark.parametrize("frames", [1, 5, 9, 81])
def test_mask_of_a_start_image(golden, frames):
    mask = prepare_i2v(torch.rand(16, 16, 3), None, frames).channels[0, :4]
    expected = golden[f"i2v_mask.F{frames}"][..., None, None].expand_as(mask)
    assert torch.equal(mask, expected)


def prepare_i2v(start, end, frames, height=16, width=32):
    """The video that would be encoded stands behind the mask, a channel of it, to be looked at."""

    def encode(chunks):
        video = torch.cat(list(chunks), dim=2)
        assert video.shape == (1, 3, frames, height, width)
        latent = video[:, :1, ::4, ::8, ::8]
        return latent.repeat(1, 16, 1, 1, 1)

    return I2V_A14B.prepare(start, end, frames, height, width, encode)


def test_an_end_image_is_the_last_of_the_last_four_frames():
    white, videos = torch.ones(16, 32, 3), []

    def encode(chunks):
        video = torch.cat(list(chunks), dim=2)
        videos.append(video[0, 0, :, 0, 0].tolist())
        return torch.zeros(1, 16, 3, 2, 4)

    for start, end in ((None, white), (white, white)):
        mask = I2V_A14B.prepare(start, end, 9, 16, 32, encode).channels[0, :4, :, 0, 0]
        first = 0.0 if start is None else 1.0
        assert mask.tolist() == [[first, 0, 0], [first, 0, 0], [first, 0, 0], [first, 0, 1]]
        assert videos[-1] == [first, 0, 0, 0, 0, 0, 0, 0, 1]


def test_an_end_image_is_cropped_to_the_start_images_aspect():
    """Its outer thirds, cut off here, are white; what is left of it is black."""
    end = torch.ones(16, 96, 3)
    end[:, 32:64] = 0.0
    clips = []
    I2V_A14B.prepare(
        torch.rand(32, 64, 3),
        end,
        5,
        16,
        32,
        lambda chunks: clips.extend(chunks) or torch.zeros(1, 16, 2, 2, 4),
    )
    assert (clips[-1][:, :, -1] == -1.0).all()


@pytest.mark.parametrize(
    ("size", "wanted", "cropped"),
    [((48, 64), (1, 1), (48, 48)), ((64, 48), (2, 1), (24, 48)), ((48, 64), (4, 3), (48, 64))],
)
def test_crop_to_aspect_keeps_the_centre(size, wanted, cropped):
    image = torch.arange(size[0] * size[1] * 3.0).view(*size, 3)
    part = crop_to_aspect(image, *wanted)
    assert part.shape[:2] == cropped
    top, left = (size[0] - cropped[0]) // 2, (size[1] - cropped[1]) // 2
    assert part[0, 0, 0] == image[top, left, 0]


def test_pictures_a_model_has_no_use_for():
    picture = torch.rand(16, 16, 3)
    for prepare, arguments, words in (
        (I2V_A14B.prepare, (None, None, 5), "I2V-A14B needs a start image, an end image or both"),
        (I2V_A14B.prepare, (picture, picture, 1), "end image: a video of 1 frame"),
        (TI2V_5B.prepare, (picture, picture, 5), "end image: Wan2.2 TI2V-5B knows no end image"),
    ):
        with pytest.raises(WanError, match=words) as error:
            prepare(*arguments, 16, 16, pytest.fail)
        assert "\n" not in str(error.value)


def test_ti2v_without_a_picture_is_told_nothing():
    given = TI2V_5B.prepare(None, None, 9, 32, 32, pytest.fail)
    assert (given.channels, given.clean_latent, given.denoise_mask) == (None, None, None)
