"""Codes to numbers: GGUF's blocks bit for bit as the `gguf` package decodes them, scales, rows, chunks."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from tests.formats import stored as forms
from wan_core.quantization import QuantizedEmbedding, QuantizedLinear, quantized_weight, weight

ROWS, COLUMNS = 24, 512


@pytest.mark.parametrize("kind", forms.SCALES_AT)
def test_gguf_blocks_decode_bit_for_bit(kind: str):
    """Over every byte there is, so with scales that are infinite, subnormal or no number, too."""
    dtype = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[dtype]
    data = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS // block * size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(data, dtype)
    stored = quantized_weight(kind, (ROWS, COLUMNS), torch.from_numpy(data), None)
    made = stored.dequantize(torch.float32).numpy()
    assert np.isfinite(expected).mean() > 0.5
    assert np.array_equal(np.isnan(made), np.isnan(expected))
    same = made.view(np.uint32) == expected.view(np.uint32)
    assert (same | np.isnan(expected)).all()


def codes(kind: str) -> weight.QuantizedWeight:
    """A weight in one of the schemes, (ROWS, COLUMNS)."""
    if kind in forms.SCALES_AT:
        data = torch.from_numpy(forms.random_blocks(kind, ROWS, COLUMNS))
        return quantized_weight(kind, (ROWS, COLUMNS), data, None)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(ROWS, COLUMNS, generator=generator).to(forms.E4M3)
    scales = {
        "plain": None,
        "per tensor": torch.tensor(0.25),
        "per row": torch.rand(ROWS, generator=generator),
    }
    return quantized_weight("F8_E4M3", (ROWS, COLUMNS), data, scales[kind])


KINDS = ("plain", "per tensor", "per row", "Q8_0", "Q4_K", "Q6_K")


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_make_no_difference(kind: str, monkeypatch: pytest.MonkeyPatch):
    whole = codes(kind).dequantize(torch.float32)
    monkeypatch.setattr(weight, "CHUNK_NUMBERS", 5 * COLUMNS)
    assert torch.equal(codes(kind).dequantize(torch.float32), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_to_the_compute_dtype_is_the_only_one(kind: str):
    """Numbers are worked out in float32, scale and all; peers round the scale to bfloat16 first."""
    whole = codes(kind).dequantize(torch.float32)
    assert torch.equal(codes(kind).dequantize(torch.bfloat16), whole.bfloat16())


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_decodes_the_rows_it_is_asked_for(kind: str):
    ids = torch.tensor([[3, 0, 3], [ROWS - 1, 7, 1]])
    rows = QuantizedEmbedding(codes(kind))(ids)
    assert torch.equal(rows, codes(kind).dequantize(torch.float32)[ids])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_computes_in_the_dtype_of_its_input(kind: str, dtype: torch.dtype):
    x = torch.randn(5, COLUMNS, generator=torch.Generator().manual_seed(1)).to(dtype)
    bias = torch.linspace(-1, 1, ROWS)
    made = QuantizedLinear(codes(kind), bias)
    expected = torch.nn.functional.linear(x, codes(kind).dequantize(dtype), bias.to(dtype))
    assert made(x).dtype == dtype
    assert torch.equal(made(x), expected)
    assert (made.in_features, made.out_features) == (COLUMNS, ROWS)
