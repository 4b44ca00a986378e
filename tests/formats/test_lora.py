"""A LoRA over every kind of stored weight: as exact as over the numbers that the codes stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.formats import stored as forms
from tests.formats.test_table import (
    EXACT,
    TRANSFORMER,
    WIDE_TRANSFORMER,
    opened,
    plain,
    relative,
    released,
    velocity,
)
from wan_core.lora import Scaling, attached, fit, network_of
from wan_core.models import spans
from wan_core.models.transformer import WanTransformer
from wan_core.quantization import layers
from wan_core.quantization.weight import dequantize


def adapters(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A file with a LoRA or a difference for every parameter, and the same as numbers."""
    generator = torch.Generator().manual_seed(5)

    def randn(*shape: int) -> Tensor:
        return 0.05 * torch.randn(shape, generator=generator)

    file: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    for name, weight in weights.items():
        layer = name.removesuffix(".weight")
        if weight.ndim == 2:
            up, down = 5 * randn(weight.shape[0], 4), randn(4, weight.shape[1])
            file |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
            changes[name] = up @ down
        elif not name.endswith("bias"):
            changes[name] = randn(*weight.shape)
            file[f"{layer}.diff"] = changes[name]
        else:
            changes[name] = randn(*weight.shape)
            file[f"{name.removesuffix('.bias')}.diff_b"] = changes[name]
    return file, changes


def check(network: WanTransformer, numbers: dict[str, Tensor]) -> None:
    file, changes = adapters(numbers)
    fitted = [c for one in fit("lora", file, network_of(network.config), Scaling()) for c in one.changes]
    assert {change.parameter for change in fitted} == set(numbers)
    wanted = velocity(plain(WanTransformer, network.config, {n: numbers[n] + changes[n] for n in numbers}))
    assert relative(velocity(network), wanted) > 1e-2, "the LoRA must be seen"
    with attached(network, fitted):
        assert relative(velocity(network), wanted) < EXACT


@pytest.mark.parametrize("quantization", forms.QUANTIZATIONS)
def test_over_every_quantization(quantization: str, tmp_path: Path) -> None:
    quantize, _, _ = forms.QUANTIZATIONS[quantization]
    stored = quantize(TRANSFORMER)
    network, _ = opened(forms.write_safetensors(tmp_path, stored), WanTransformer)
    check(network, released(stored.numbers, TRANSFORMER, TRANSFORMER))


def test_spans_decode_each_weight_once_and_the_lora_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    quantize, _, _ = forms.QUANTIZATIONS["fp8 e4m3"]
    stored = quantize(TRANSFORMER)
    network, _ = opened(forms.write_safetensors(tmp_path, stored), WanTransformer)
    decoded = []
    monkeypatch.setattr(layers, "dequantize", lambda *given: decoded.append(1) or dequantize(*given))
    velocity(network)
    whole = len(decoded)
    assert whole > 0
    monkeypatch.setattr(spans, "CPU_SPANS", (2, 1))
    decoded.clear()
    velocity(network)
    assert len(decoded) == whole
    check(network, released(stored.numbers, TRANSFORMER, TRANSFORMER))


@pytest.mark.parametrize("kind", forms.GGUF_TYPES)
def test_over_gguf(kind: str, tmp_path: Path) -> None:
    numbers = forms.write_gguf(tmp_path / "model.gguf", WIDE_TRANSFORMER, kind)
    network, _ = opened(tmp_path / "model.gguf", WanTransformer)
    check(network, released(numbers, WIDE_TRANSFORMER, WIDE_TRANSFORMER))
