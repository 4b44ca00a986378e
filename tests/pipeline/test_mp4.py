"""The mp4 that comes out: size, rate, tags, colours, and nothing at all when writing fails."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from bench.live import LiveBytes
from wan_core.errors import WanError
from wan_core.media.mp4 import frame_rate, write_mp4

PATCHES = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "orange": (0.9, 0.5, 0.1),
}


def flat(colour, frames=3, height=32, width=48):
    return torch.tensor(colour).expand(frames, height, width, 3)


def decode_bt709(path):
    """The frames of a file as (F, H, W, 3) 0..255, converted from YUV by the textbook and not by swscale."""
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            planes = frame.to_ndarray().astype(np.float64)
            y = planes[: frame.height]
            u, v = planes[frame.height :].reshape(2, frame.height // 2, frame.width // 2)
            y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
            u, v = (np.kron(plane, np.ones((2, 2))) for plane in (u, v))
            rgb = (y + 1.5748 * v, y - 0.18732427 * u - 0.46812427 * v, y + 1.8556 * u)
            frames.append(np.stack(rgb, -1) * 255)
    return np.stack(frames)


@pytest.mark.parametrize("name", PATCHES)
def test_colours_come_back_by_bt709(tmp_path, name):
    write_mp4([flat(PATCHES[name])], tmp_path / "patch.mp4", fps=16)
    decoded = decode_bt709(tmp_path / "patch.mp4")
    worst = np.abs(decoded - 255 * np.array(PATCHES[name])).max()
    assert worst <= 3, f"{name}: off by {worst:.2f} of 255"


def test_a_player_that_reads_the_tags_sees_the_same_colours(tmp_path):
    write_mp4([flat(PATCHES["orange"])], tmp_path / "patch.mp4", fps=16)
    with av.open(str(tmp_path / "patch.mp4")) as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(shown - 255 * np.array(PATCHES["orange"])).max() <= 3


def test_tags_rate_and_size(tmp_path):
    write_mp4([flat(PATCHES["red"], frames=5)], tmp_path / "clip.mp4", fps=16)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.color_primaries, context.color_trc, context.colorspace) == (1, 1, 1)
        assert context.color_range == 1
        assert (stream.codec.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (48, 32, 16)
        assert sum(1 for _ in container.decode(video=0)) == 5


def test_the_same_frames_are_the_same_file(tmp_path):
    """x264 has a rate control whose choices differ from run to run."""
    noise = torch.rand(1, 3, 5, 12, 12, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(noise, size=(17, 96, 96), mode="trilinear")
    files = set()
    for _ in range(4):
        write_mp4([smooth[0].permute(1, 2, 3, 0)], tmp_path / "clip.mp4", fps=16)
        files.add((tmp_path / "clip.mp4").read_bytes())
    assert len(files) == 1


def test_chunks_are_written_as_they_come_and_in_order(tmp_path):
    greys = torch.linspace(0.1, 0.9, 9)
    chunks = (greys[start : start + 4].view(-1, 1, 1, 1).expand(-1, 16, 16, 3) for start in (0, 4, 8))
    write_mp4(chunks, tmp_path / "clip.mp4", fps=24)
    decoded = decode_bt709(tmp_path / "clip.mp4").mean(axis=(1, 2, 3))
    assert np.abs(decoded - 255 * greys.numpy()).max() <= 3


def test_uint8_floats_and_numpy_write_the_same_file(tmp_path):
    eighths = torch.randint(
        0, 256, (2, 16, 16, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    for name, frames in {"u8": eighths, "float": eighths / 255, "numpy": eighths.numpy()}.items():
        write_mp4([frames], tmp_path / f"{name}.mp4", fps=16)
    assert len({(tmp_path / f"{name}.mp4").read_bytes() for name in ("u8", "float", "numpy")}) == 1


def test_index_in_front_and_any_metadata_key(tmp_path):
    path = tmp_path / "clip.mp4"
    write_mp4([flat(PATCHES["red"])], path, fps=16, metadata={"prompt": '{"3": "a red circle"}', "seed": "7"})
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    with av.open(str(path)) as container:
        assert container.metadata["prompt"] == '{"3": "a red circle"}'
        assert container.metadata["seed"] == "7"


def test_a_stream_of_bytes_holds_the_same_video(tmp_path):
    noise = torch.rand(5, 32, 48, 3, generator=torch.Generator().manual_seed(1))
    stream = io.BytesIO()
    write_mp4([noise], tmp_path / "clip.mp4", fps=16, metadata={"prompt": "x"})
    write_mp4([noise], stream, fps=16, metadata={"prompt": "x"})
    (tmp_path / "stream.mp4").write_bytes(stream.getvalue())
    assert np.array_equal(decode_bt709(tmp_path / "stream.mp4"), decode_bt709(tmp_path / "clip.mp4"))
    with av.open(str(tmp_path / "stream.mp4")) as container:
        assert container.metadata["prompt"] == "x"


def test_a_higher_rate_factor_is_a_smaller_file(tmp_path):
    noise = torch.rand(5, 32, 48, 3, generator=torch.Generator().manual_seed(1))
    for crf in (16, 40):
        write_mp4([noise], tmp_path / f"{crf}.mp4", fps=16, crf=crf)
    assert (tmp_path / "40.mp4").stat().st_size < 0.5 * (tmp_path / "16.mp4").stat().st_size


def test_the_writer_copies_one_frame_at_a_time(tmp_path):
    frames = torch.zeros(16, 64, 96, 3)
    with LiveBytes() as live:
        write_mp4([frames], tmp_path / "clip.mp4", fps=16)
    assert 0 < live.peak < 4 * frames[0].nbytes


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_no_file_and_keeps_the_old_one(tmp_path, error):
    (tmp_path / "old.mp4").write_bytes(b"old")

    def chunks():
        yield flat(PATCHES["red"])
        raise error

    for name in ("new.mp4", "old.mp4"):
        with pytest.raises(error):
            write_mp4(chunks(), tmp_path / name, fps=16)
    assert [path.name for path in tmp_path.iterdir()] == ["old.mp4"]
    assert (tmp_path / "old.mp4").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("chunks", "fps", "words"),
    [
        ([torch.zeros(1, 33, 48, 3)], 16, ["48 x 33", "48 x 32"]),
        ([torch.zeros(1, 32, 47, 3)], 16, ["47 x 32", "46 x 32"]),
        ([torch.zeros(1, 32, 48, 3), torch.zeros(1, 32, 32, 3)], 16, ["32 x 32 after 48 x 32"]),
        ([torch.full((1, 32, 48, 3), float("nan"))], 16, ["not finite"]),
        ([torch.zeros(1, 3, 32, 48)], 16, ["(1, 3, 32, 48)"]),
        ([], 16, ["no frames"]),
        ([torch.zeros(1, 32, 48, 3)], 0, ["fps", "0"]),
        ([torch.zeros(1, 32, 48, 3)], float("nan"), ["fps", "nan"]),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(tmp_path, chunks, fps, words):
    with pytest.raises(WanError) as caught:
        write_mp4(chunks, tmp_path / "clip.mp4", fps)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_name_as_long_as_a_name_may_be(tmp_path):
    path = tmp_path / ("x" * 251 + ".mp4")
    write_mp4([flat(PATCHES["red"])], path, fps=16)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WanError, match=r"clip\.mp4: the video cannot be written"):
        write_mp4([flat(PATCHES["red"])], tmp_path / "file" / "clip.mp4", fps=16)


def test_frame_rates():
    assert frame_rate(16) == 16
    assert frame_rate(23.976) == Fraction(24000, 1001)
    assert frame_rate(29.97) == Fraction(30000, 1001)
    assert frame_rate(12.5) == Fraction(25, 2)
