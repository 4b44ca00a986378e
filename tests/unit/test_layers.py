"""The layers that the models are built of: fast where they can be, and the same numbers everywhere."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from wan_core.models import layers
from wan_core.models.layers import CastingLayers, gelu_tanh, held, linear, linear_gelu, rms_norm


@pytest.fixture
def fast_calls(monkeypatch):
    """How often oneDNN was asked; small products go there too."""
    if not layers.ONEDNN:
        pytest.skip("this torch has no oneDNN")
    operation, calls = torch.ops.mkldnn._linear_pointwise, []

    def counted(*arguments):
        calls.append(arguments)
        return operation(*arguments)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counted)
    monkeypatch.setattr(layers, "ONEDNN_PRODUCTS", 1)
    return calls


def given(*shape, width=48, rows=80, bias=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, width, generator=generator)
    weight = torch.randn(rows, width, generator=generator) * 0.2
    return [t.to(dtype) for t in (x, weight)] + [torch.randn(rows).to(dtype) if bias else None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (33,), (2, 5), (2, 3, 4)])
def test_the_fast_linear_is_the_plain_one(fast_calls, shape, bias):
    x, weight, b = given(*shape, bias=bias)
    spread = torch.stack([x, x], -1)[..., 0]  # the same numbers, not side by side in memory
    with torch.no_grad():
        want = F.linear(x, weight, b)
        torch.testing.assert_close(linear(x, weight, b), want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(linear(spread, weight, b), want, rtol=1e-5, atol=1e-5)
    assert len(fast_calls) == 2


def test_what_the_fast_linear_leaves_to_torch(fast_calls):
    x, weight, bias = given(6)
    assert linear(x.clone().requires_grad_(), weight, bias).requires_grad
    with torch.no_grad():
        assert linear(x.to("meta"), weight.to("meta"), bias.to("meta")).shape == (6, 80)
        assert linear(x[:0], weight, bias).shape == (0, 80)
        turned = weight.t().contiguous().t()
        assert torch.equal(linear(x, turned, bias), F.linear(x, turned, bias))
        halves = given(6, dtype=torch.bfloat16)
        assert torch.equal(linear(*halves), F.linear(*halves))
    assert not fast_calls


def test_small_products_stay_where_they_start_faster(fast_calls, monkeypatch):
    monkeypatch.setattr(layers, "ONEDNN_PRODUCTS", 6 * 48 * 80 + 1)
    with torch.no_grad():
        linear(*given(6))
        assert not fast_calls
        linear(*given(7))
    assert len(fast_calls) == 1


def test_the_layer_casts_its_weights_and_its_hooks_still_run(fast_calls):
    layer = CastingLayers.Linear(48, 80, dtype=torch.bfloat16)
    x = given(2, 5)[0]
    with torch.no_grad():
        want = F.linear(x, layer.weight.float(), layer.bias.float())
        torch.testing.assert_close(layer(x), want, rtol=1e-5, atol=1e-5)
        layer.register_forward_hook(lambda _layer, _inputs, out: out + 1.0)
        torch.testing.assert_close(layer(x), want + 1.0, rtol=1e-5, atol=1e-5)
    assert len(fast_calls) == 2


def test_a_compiled_layer_is_one_graph(fast_calls):
    layer = CastingLayers.Linear(48, 80)
    with torch.no_grad():
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(given(6)[0]), layer(given(6)[0]), rtol=1e-5, atol=1e-5)
    assert len(fast_calls) == 1


def test_gelu_in_the_same_pass_is_gelu_afterwards(fast_calls):
    layer = CastingLayers.Linear(48, 80)
    x = given(2, 5)[0]
    with torch.no_grad():
        want = F.gelu(F.linear(x, layer.weight, layer.bias), approximate="tanh")
        torch.testing.assert_close(linear_gelu(layer, x), want, rtol=1e-5, atol=1e-5)
        assert fast_calls[-1][3] == "gelu"
        layer.register_forward_hook(lambda _layer, _inputs, out: out.add_(0.5))
        shifted = F.gelu(F.linear(x, layer.weight, layer.bias) + 0.5, approximate="tanh")
        torch.testing.assert_close(linear_gelu(layer, x), shifted, rtol=1e-5, atol=1e-5)
        assert fast_calls[-1][3] == "none"


def test_gelu_keeps_what_training_needs():
    x = given(6)[0].requires_grad_()
    before = x.detach().clone()
    gelu_tanh(x).sum().backward()
    assert torch.equal(x, before)
    with torch.no_grad():
        y = x.clone()
        assert gelu_tanh(y).data_ptr() == y.data_ptr()


@pytest.mark.parametrize("shape", [(7, 48), (2, 5, 48)])
def test_rms_norm_is_torch_s(shape):
    x, weight = torch.randn(shape) * 3.0, torch.randn(48)
    x.view(-1, 48)[0] = 0.0  # the floor of the norm
    with torch.no_grad():
        torch.testing.assert_close(
            rms_norm(x, weight, 1e-6), F.rms_norm(x, (48,), weight, 1e-6), rtol=1e-6, atol=1e-6
        )


def test_held_layers_cast_once_and_their_hooks_run():
    narrow, same = CastingLayers.Linear(48, 8, dtype=torch.bfloat16), CastingLayers.Linear(48, 8)
    x, seen = given(6)[0], []
    narrow.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        want = narrow(x)
        with held((narrow, same), x):
            weight = narrow.forward.keywords["weight"]
            assert weight.dtype == torch.float32
            assert torch.equal(narrow(x), want)
            assert "forward" not in vars(same)
        assert "forward" not in vars(narrow)
    assert len(seen) == 2


def test_held_layers_are_let_go_after_an_error():
    layer = CastingLayers.Linear(48, 8, dtype=torch.bfloat16)
    with pytest.raises(ZeroDivisionError), held((layer,), given(1)[0]):
        raise ZeroDivisionError
    assert "forward" not in vars(layer)
