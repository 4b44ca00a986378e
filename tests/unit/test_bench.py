"""The benchmark sees memory that is taken, and its promise about loading is kept."""

from __future__ import annotations

from pathlib import Path

from bench.load import LAYERS, PROMISE, measure
from bench.memory import peak_anonymous
from tests.unit.bench_work import take


def test_memory_that_is_written_is_counted():
    result, taken = peak_anonymous(take, 200)
    assert result == 7
    assert 200 * 2**20 <= taken < 230 * 2**20


def test_two_14b_shaped_experts_are_mapped_and_not_read(tmp_path: Path):
    size, memory, _ = measure("bf16", LAYERS["bf16"], tmp_path)
    assert size > 2 * 3e9
    assert memory < PROMISE * size
