"""Sizes as people write them, and what a run says before it loads anything."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from wan_core.__main__ import USAGE, main
from wan_core.errors import WanError
from wan_core.memory import budget, host_memory, parse_size, shown_size, streamed_indices, weigh


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * 10**9), ("8 gb", 8 * 10**9), ("7.5 GiB", 15 * 2**29), ("800MB", 800 * 10**6),
        ("512 MiB", 2**29), ("300KB", 300_000), ("1B", 1),
    ],
)  # fmt: skip
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "8", "GB", "-8GB", "8 GBs", "0GB", "8,5GB", "1e3MB", "nan GB", "8 G B", "9" * 400 + "GB"],
)
def test_what_is_no_size_is_told(text):
    with pytest.raises(WanError, match=r"vram: .* is no size; give a number with its unit, as 8GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "down", "up"),
    [
        (28_577_000_000, "28.6 GB", "28.6 GB"), (28_510_000_000, "28.5 GB", "28.6 GB"),
        (8 * 10**9, "8.0 GB", "8.0 GB"), (800 * 10**6, "800 MB", "800 MB"), (1_000_001, "1 MB", "2 MB"),
        (999_999, "1000 KB", "1000 KB"), (1, "0 KB", "1 KB"),
    ],
)  # fmt: skip
def test_sizes_are_shown(size, down, up):
    assert (shown_size(size), shown_size(size, up=True)) == (down, up)
    assert parse_size(up) >= size


def test_the_host_s_memory_is_linux_s_own_count(tmp_path, monkeypatch):
    file = tmp_path / "meminfo"
    monkeypatch.setattr(budget, "MEMINFO", file)
    assert host_memory() is None
    file.write_text("MemTotal:  100 kB\nMemFree:  10 kB\nMemAvailable:   60 kB\n")
    assert (host_memory().total, host_memory().available) == (102_400, 61_440)
    file.write_text("MemTotal:\n")
    assert host_memory() is None


@pytest.mark.parametrize("blocks", [1, 3, 30, 40])
def test_streamed_blocks_are_spread_evenly(blocks):
    for count in range(blocks + 1):
        streamed = streamed_indices(blocks, count)
        assert len(set(streamed)) == count
        gaps = {after - before for before, after in pairwise(streamed)}
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_bytes_are_shared_out_by_name():
    found = weigh({"head.weight": 300, "blocks.0.a": 256, "blocks.1.a": 1, "blocks.0.b.c": 257, "blocksy": 1})
    assert found == (type(found))(fixed=512 + 256, blocks=(256 + 512, 256))
    assert found.total == 768 + 768 + 256


def test_free_memory_is_not_counted_on_a_cpu():
    assert budget.free_bytes(torch.device("cpu")) is None


def test_the_command_line_takes_a_size(capsys):
    assert main(["generate", "a circle", "--out", "circle.mp4", "--vram", "eight"]) == USAGE
    assert "vram: 'eight' is no size" in capsys.readouterr().err
    assert main(["generate", "a circle", "--out", "circle.mp4", "--vram", "1KB"]) == USAGE
    assert "vram: 1 KB are too few: the VAE decode needs" in capsys.readouterr().err
