"""The settings of Speed, what they do to a network, and products in fp8.

pytest tests/unit/test_speed.py
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wan_core import speed as speed_module
from wan_core.attention import choose
from wan_core.checkpoints.audit import put
from wan_core.errors import WanError
from wan_core.models.compiled import CompiledBlock
from wan_core.models.transformer import WanTransformer
from wan_core.quantization import QuantizedLinear, fp8_matmul, quantized_layer, quantized_weight
from wan_core.speed import Speed, apply, residual_dtype

from .test_transformer import inputs, tiny_network

CPU = torch.device("cpu")
E4M3 = torch.float8_e4m3fn


@pytest.fixture(autouse=True)
def nothing_was_said():
    speed_module._warn_once.cache_clear()


def far(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"attention": "flash"}, "attention: there is no 'flash'; choose one of auto, sdpa, "),
        ({"residual": "bf16"}, "residual: there is no 'bf16'; choose one of float32, 16-bit"),
    ],
)
def test_unknown_settings_are_refused(setting, words):
    with pytest.raises(WanError, match=words):
        Speed(**setting)


def test_what_differs_from_the_defaults_is_named():
    assert Speed().changed() == {}
    assert Speed(attention="sage", fp8_matmul=True).changed() == {"attention": "sage", "fp8_matmul": True}


def test_a_network_gets_its_attention_and_residual_and_loses_them_again():
    network = tiny_network(dtype=torch.bfloat16)
    apply(network, Speed(attention="sdpa", residual="16-bit"), CPU)
    assert network.attention is choose("sdpa", CPU, torch.bfloat16)
    assert network.residual_dtype == torch.bfloat16
    apply(network, Speed(), CPU)
    assert network.attention is choose("auto", CPU, torch.bfloat16)
    assert network.residual_dtype == torch.float32


def test_blocks_are_compiled_when_told_and_no_longer():
    network = tiny_network()
    plain = type(network.blocks[0])
    apply(network, Speed(compile=True), CPU)
    assert all(isinstance(block, CompiledBlock) for block in network.blocks)
    apply(network, Speed(), CPU)
    assert {type(block) for block in network.blocks} == {plain}


def test_a_16_bit_residual_is_the_compute_dtype():
    lean = Speed(residual="16-bit")
    assert [residual_dtype(lean, dtype) for dtype in (torch.float16, torch.float32)] == [
        torch.float16,
        torch.float32,
    ]


def test_a_network_computes_with_what_it_was_given():
    network = tiny_network(dtype=torch.bfloat16)
    with torch.no_grad():
        exact = network(*inputs())
        apply(network, Speed(residual="16-bit"), CPU)
        assert 1e-5 < far(network(*inputs()), exact) < 0.05
        apply(network, Speed(), CPU)
        assert torch.equal(network(*inputs()), exact)
        network.attention = lambda q, k, v, bias=None: torch.zeros_like(q)
        assert far(network(*inputs()), exact) > 0.05


def test_the_defaults_change_no_number():
    network = tiny_network()
    with torch.no_grad():
        before = network(*inputs())
        apply(network, Speed(), CPU)
        assert torch.equal(network(*inputs()), before)


# --- products in fp8 ----------------------------------------------------------------------------------------


def fp8_layer(
    rows: int = 48, columns: int = 64, per_row: bool = False, plain: bool = False, bias: Tensor | None = None
) -> QuantizedLinear:
    """A Linear stored in e4m3: scaled per tensor, per row, or plain."""
    generator = torch.Generator().manual_seed(rows + columns)
    weight = torch.randn(rows, columns, generator=generator) / columns**0.5
    most = weight.abs().amax(1, keepdim=True) if per_row else weight.abs().amax().reshape(1, 1)
    scale = None if plain else most / 448
    codes = (weight if scale is None else weight / scale).to(E4M3)
    stored = quantized_weight("F8_E4M3", (rows, columns), codes, scale)
    return quantized_layer(nn.Linear(columns, rows), stored, bias)


@pytest.mark.parametrize("kind", [{}, {"per_row": True}, {"plain": True}], ids=["scaled", "per row", "plain"])
def test_an_fp8_product_is_that_of_rounded_activations(kind):
    layer = fp8_layer(**kind)
    loud_and_quiet = torch.tensor([50.0, 1e-3]).view(2, 1, 1)
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)) * loud_and_quiet
    x = x.to(torch.bfloat16)
    exact = layer(x)
    layer.fp8_matmul = True
    out = layer(x)
    assert (out.shape, out.dtype) == (exact.shape, torch.bfloat16)
    # Each row by its own scale: one for all would lose the quiet ones altogether.
    assert all(0.01 < far(out[row], exact[row]) < 0.05 for row in (0, 1))
    step = (x.abs().amax(-1, keepdim=True) / 448).float()
    rounded = ((x.float() / step).to(E4M3).float() * step) @ layer.stored().dequantize(torch.float32).T
    assert far(out, exact) < 1.05 * far(rounded, exact)
    assert far(out, rounded) < 0.02  # some activations lie just between two codes


def test_silence_stays_silence():
    layer = fp8_layer(bias=torch.arange(48.0))
    layer.fp8_matmul = True
    out = layer(torch.zeros(3, 64, dtype=torch.bfloat16))
    assert torch.equal(out, torch.arange(48.0).to(torch.bfloat16).expand(3, 48))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_only_bfloat16_is_multiplied_in_fp8(dtype):
    layer, x = fp8_layer(), torch.randn(3, 64).to(dtype)
    exact = layer(x)
    layer.fp8_matmul = True
    assert torch.equal(layer(x), exact)


def test_widths_that_are_no_whole_16s_are_not_multiplied_in_fp8():
    layer, x = fp8_layer(48, 72), torch.randn(3, 72).to(torch.bfloat16)
    exact = layer(x)
    layer.fp8_matmul = True
    assert torch.equal(layer(x), exact)


def fp8_network() -> WanTransformer:
    """The toy transformer with its blocks' linears stored in fp8."""
    network = tiny_network().requires_grad_(False)
    for name, layer in list(network.blocks.named_modules()):
        if isinstance(layer, nn.Linear):
            stored = quantized_weight("F8_E4M3", layer.weight.shape, layer.weight.to(E4M3), None)
            put(network.blocks, name, quantized_layer(layer, stored, layer.bias))
    network.compute_dtype = torch.bfloat16
    return network


def test_a_network_multiplies_in_fp8_when_told_and_stops_again(monkeypatch):
    monkeypatch.setattr(speed_module, "fp8_fault", lambda _: None)
    network = fp8_network()
    with torch.no_grad():
        exact = network(*inputs())
        apply(network, Speed(fp8_matmul=True), CPU)
        off = far(network(*inputs()), exact)
        apply(network, Speed(), CPU)
        assert torch.equal(network(*inputs()), exact)
    assert 0.005 < off < 0.15


def test_what_cannot_multiply_in_fp8_says_so_once(caplog, monkeypatch):
    network = fp8_network()
    for _ in range(2):  # two experts
        apply(network, Speed(fp8_matmul=True), CPU)
    assert caplog.messages == ["fp8 matmul: cpu has no fp8 products; nothing changes"]
    assert not any(getattr(layer, "fp8_matmul", False) for layer in network.modules())

    caplog.clear()
    monkeypatch.setattr(speed_module, "fp8_fault", lambda _: None)
    apply(tiny_network(), Speed(fp8_matmul=True), CPU)
    assert caplog.messages == [
        "fp8 matmul: this model has no fp8 weights that are multiplied here; nothing changes"
    ]


@pytest.mark.parametrize(
    ("capability", "words"), [((8, 6), "compute capability 8.6 has no fp8"), ((8, 9), None)]
)
def test_which_cards_multiply_in_fp8(capability, words, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(fp8_matmul, "fp8_probe", lambda _: None)
    fault = fp8_matmul.fp8_fault(torch.device("cuda", 0))
    assert fault == words or fault.startswith(words)


def test_a_torch_without_such_products_is_found_out(monkeypatch):
    assert fp8_matmul.fp8_probe(CPU) is None

    def missing(*_, **__):
        raise RuntimeError("torch._scaled_mm is only supported on\nother devices")

    monkeypatch.setattr(torch, "_scaled_mm", missing)
    assert fp8_matmul.fp8_probe(CPU) == "this torch cannot: torch._scaled_mm is only supported on"
    monkeypatch.setattr(torch, "_scaled_mm", lambda a, b, **_: torch.ones(len(a), b.shape[1]).bfloat16())
    assert "% off" in fp8_matmul.fp8_probe(CPU)
