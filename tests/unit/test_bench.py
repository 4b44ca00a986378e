"""The benchmark sees memory that is taken, and its promise about loading is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import flops
from bench.__main__ import main
from bench.contest import turned
from bench.load import LAYERS, PROMISE, measure
from bench.memory import peak_anonymous
from tests.unit.bench_work import take
from wan_core.models.transformer import TransformerConfig
from wan_core.models.vae_2_1 import VAEConfig
from wan_core.models.vae_2_2 import VAE22Config


def test_memory_that_is_written_is_counted():
    result, taken = peak_anonymous(take, 200)
    assert result == 7
    assert 200 * 2**20 <= taken < 230 * 2**20


def test_two_14b_shaped_experts_are_mapped_and_not_read(tmp_path: Path):
    size, memory, _ = measure("bf16", LAYERS["bf16"], tmp_path)
    assert size > 2 * 3e9
    assert memory < PROMISE * size


def test_a_contest_gives_both_the_same_weights_and_writes_what_it_measured(tmp_path: Path):
    pytest.importorskip("diffusers", reason="diffusers is not installed: make test installs it")
    small = ["--dim", "128", "--layers", "1", "--cells", "12", "--threads", "1", "--rounds", "2"]
    places = ["--results", str(tmp_path), "--folder", str(tmp_path)]
    chosen = ["--case", "T2V", "--only", "wan_core", "--only", "diffusers"]
    assert main(["transformer", *small, *places, *chosen]) == 0
    (case,) = json.loads((tmp_path / "transformer.json").read_text())["cases"]
    assert (case["name"], case["reference"]) == ("T2V", "diffusers")
    for measured in case["contestants"].values():
        assert [len(measured[key]) for key in ("wall", "cpu", "peak")] == [2, 2, 2]
        assert min(measured["wall"]) > 0
        assert min(measured["peak"]) > 1e5
    assert 0 < case["contestants"]["wan_core"]["error"] < 1e-5


def test_who_goes_first_changes_each_round():
    assert [turned(["a", "b", "c"], number)[0] for number in range(4)] == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    ("counted", "teraflops"),
    [
        (flops.prediction(TransformerConfig(), 21 * 30 * 52), 1678),
        (flops.prediction(TransformerConfig(), 21 * 45 * 80), 6523),
        (flops.decode(VAEConfig(), 81, 720, 1280), 633),
        (flops.decode(VAE22Config(), 121, 704, 1280), 2010),
    ],
    ids=["A14B 480p", "A14B 720p", "VAE 2.1 720p", "VAE 2.2 704p"],
)
def test_the_floors_are_those_counted_at_real_size(counted: float, teraflops: float):
    assert counted / 1e12 == pytest.approx(teraflops, rel=0.02)
