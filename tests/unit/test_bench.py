"""The benchmark sees memory that is taken, and its promise about loading is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import flops
from bench.__main__ import SUITES, main
from bench.contest import turned
from bench.load import LAYERS, PROMISE, measure
from bench.memory import peak_anonymous
from bench.report import page
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


def test_the_report_says_what_was_reached_and_what_was_not_measured(tmp_path: Path):
    def case(name: str, ours: float, peer: float) -> dict[str, object]:
        one = {"cpu": [1.0, 1.0, 1.0], "peak": [10_000_000, 30_000_000, 20_000_000]}
        both = {
            "wan_core": one | {"wall": [ours] * 3, "error": 2e-6},
            "diffusers": one | {"wall": [peer] * 3},
        }
        about = {"words": "a case", "command": "python -m bench text", "date": "2026-01-01", "flops": 1e9}
        return about | {"name": name, "reference": "diffusers", "contestants": both}

    head = {"suite": "text", "machine": "2 cores", "threads": 2, "versions": {"torch": "2"}, "gemm": 1e10}
    cases = [case("20_tokens", 0.05, 1.0), case("77_tokens", 0.5, 1.0)]
    (tmp_path / "text.json").write_text(json.dumps(head | {"cases": cases}))
    (tmp_path / "NOTES.md").write_text("## Notes\n\nA remark.\n")
    lines = page(tmp_path, tmp_path / "NOTES.md").splitlines()
    assert "| text: 20_tokens | time, to the best peer | 0.08 | 0.05 | reached |" in lines
    assert "| text: 77_tokens | time, to the best peer | 0.18 | 0.5 | **not reached** |" in lines
    assert "| vae21: decode | time, to the best peer | 0.65 | | not measured |" in lines
    assert "| wan_core | 0.5 s (0.5 to 0.5) | 1 s | 20.0 MB | 2 | 20% | 2.0e-06 |" in lines
    assert "Ours to the best peer: time 0.50, CPU time 1.00, peak memory 1.00." in lines
    assert any(line.startswith("Not measured: no run on a CUDA device") for line in lines)
    assert lines[-1] == "A remark."


def test_the_gpu_suite_walks_its_code_with_toys_and_refuses_without_a_gpu(capsys, monkeypatch):
    assert main(["gpu", "--dry", "--rounds", "1", "--case", "toy_stream"]) == 0
    said = capsys.readouterr().out
    assert "3 of 6 blocks streamed: time to resident" in said
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["gpu"]) == 1
    assert capsys.readouterr().out.count("\n") == 1


def test_all_runs_every_suite_and_the_page_last(monkeypatch: pytest.MonkeyPatch):
    ran = []
    for name, suite in SUITES.items():
        monkeypatch.setattr(suite, "run", lambda options, name=name: ran.append(name) or name == "switch")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["all"]) == 1  # one suite broke its promise
    assert ran == [name for name in SUITES if name != "gpu"]
    assert ran[-1] == "report"
