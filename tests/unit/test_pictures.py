"""Pictures opened: what each kind of file becomes, and what is refused in one line."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from wan_core.errors import WanError
from wan_core.media.pictures import open_picture

RED, GREEN = (255, 0, 0), (0, 255, 0)


def half_red(mode="RGB", size=(32, 24)):
    """Red on the left, green on the right."""
    image = Image.new("RGB", size, GREEN)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def test_a_file_becomes_floats_with_its_own_numbers(tmp_path):
    half_red().save(tmp_path / "cat.png")
    picture = open_picture(tmp_path / "cat.png", "start image")
    assert (picture.name, picture.width, picture.height) == ("cat.png", 32, 24)
    assert picture.pixels.dtype == torch.float32
    assert picture.pixels[0, 0].tolist() == [1.0, 0.0, 0.0]
    assert picture.pixels[-1, -1].tolist() == [0.0, 1.0, 0.0]
    assert open_picture(str(tmp_path / "cat.png"), "start image").pixels.equal(picture.pixels)
    assert open_picture(picture, "start image") is picture


def test_exif_orientation_is_applied(tmp_path):
    image, exif = half_red(), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right: left becomes top
    image.save(tmp_path / "phone.png", exif=exif)
    picture = open_picture(tmp_path / "phone.png", "start image")
    assert (picture.width, picture.height) == (24, 32)
    assert picture.pixels[0, 12].tolist() == [1.0, 0.0, 0.0]
    assert picture.pixels[-1, 12].tolist() == [0.0, 1.0, 0.0]


def test_transparent_parts_become_white():
    image = half_red("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    assert (open_picture(image, "start image").pixels == 1.0).all()
    image.putalpha(Image.new("L", image.size, 51))  # a fifth of the red, the rest white
    assert open_picture(image, "start image").pixels[0, 0].tolist() == pytest.approx([1.0, 0.8, 0.8])


@pytest.mark.parametrize("mode", ["P", "L", "CMYK", "1", "LA"])
def test_other_kinds_of_pixels(mode):
    pixels = open_picture(half_red(mode), "start image").pixels
    assert pixels.shape == (24, 32, 3)
    assert not torch.equal(pixels[0, 0], pixels[0, -1]) or mode == "1"


def test_sixteen_bit_grey_keeps_its_shades():
    shades = np.linspace(0, 65535, 32).astype(np.uint16)
    for kind in (np.uint16, np.int32):  # the second is what older versions of Pillow make of such a file
        image = Image.fromarray(np.tile(shades, (16, 1)).astype(kind))
        row = open_picture(image, "start image").pixels[0, :, 0]
        torch.testing.assert_close(row, torch.linspace(0, 1, 32), rtol=0, atol=1 / 255)


def test_tensors():
    floats = torch.rand(16, 20, 3)
    picture = open_picture(floats, "start image")
    assert torch.equal(picture.pixels, floats)
    assert picture.name == "tensor 20 x 16"
    assert open_picture(torch.full((16, 16, 3), 51, dtype=torch.uint8), "start image").pixels.eq(0.2).all()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (torch.rand(1, 16, 16, 3), ["(1, 16, 16, 3)", "(H, W, 3)"]),
        (torch.rand(3, 16, 16), ["(3, 16, 16)"]),
        (torch.rand(16, 16, 3) * 255, ["0..1"]),
        (torch.rand(16, 16, 3) * 2 - 1, ["0..1"]),
        (torch.full((16, 16, 3), float("nan")), ["NaN"]),
        (torch.zeros(16, 16, 3, dtype=torch.int64), ["int64"]),
        (torch.rand(8, 8, 3), ["8 x 8", "16"]),
        (Image.new("RGB", (20000, 32)), ["20000 x 32", "16384"]),
        (Image.new("RGB", (500, 32)), ["500 x 32", "10 times", "crop"]),
        (7, ["int", "no picture"]),
    ],
    ids=lambda value: str(value)[:30].replace("\n", " "),
)
def test_no_picture(source, words):
    with pytest.raises(WanError, match=r"^start image: ") as error:
        open_picture(source, "start image")
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def png_of(width, height):
    """The beginning of a PNG that promises this size and holds nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "is no file"),
        (b"", "no picture that can be read"),
        (b"<!DOCTYPE html><p>not found", "no picture that can be read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "no picture that can be read"),
        (png_of(32, 32), "cannot be read"),
        (png_of(60000, 60000), "too many pixels"),
        (png_of(11000, 11000)[:60], "cannot be read"),
        (png_of(17000, 17000), "too many pixels"),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest.mark.filterwarnings("error")
def test_no_picture_in_a_file(tmp_path, data, words):
    path = tmp_path / "cat.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(WanError, match=rf"^start image: .*cat\.png .*{words}") as error:
        open_picture(path, "start image")
    assert "\n" not in str(error.value)


def test_a_name_that_would_break_the_line(tmp_path):
    with pytest.raises(WanError) as error:
        open_picture(tmp_path / "two\nlines.png", "start image")
    assert "\n" not in str(error.value)


def test_a_cut_picture(tmp_path):
    path = tmp_path / "cat.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(WanError, match=r"cat\.jpg cannot be read .*truncated"):
        open_picture(path, "start image")
