"""The promises of the transformer: released keys, early refusal, exact savings, training, any layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wan_core.attention import attention
from wan_core.errors import WanError
from wan_core.models import spans
from wan_core.models.rope import rope_table
from wan_core.models.transformer import TransformerConfig, WanTransformer, repeat_bias

TINY = TransformerConfig(dim=96, ffn_dim=160, num_heads=2, num_layers=2, text_dim=24, text_len=20)


def tiny_network(**kwargs):
    torch.manual_seed(0)
    network = WanTransformer(TINY, **kwargs)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.15)
    return network


def inputs(batch=2, rows=7):
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(batch, 16, 3, 4, 6, generator=generator)  # 18 tokens
    context = torch.randn(batch, rows, TINY.text_dim, generator=generator)
    return latent, torch.tensor([999.0, 37.0])[:batch], context


# --- state dict ---------------------------------------------------------------------------------------------


def released_shapes(cin, cout, dim, ffn, layers_count, text_dim=4096, freq_dim=256):
    """Every key of a released checkpoint and its shape."""

    def linear(name, rows, columns):
        return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}

    shapes = {
        "patch_embedding.weight": (dim, cin, 1, 2, 2),
        "patch_embedding.bias": (dim,),
        **linear("text_embedding.0", dim, text_dim),
        **linear("text_embedding.2", dim, dim),
        **linear("time_embedding.0", dim, freq_dim),
        **linear("time_embedding.2", dim, dim),
        **linear("time_projection.1", 6 * dim, dim),
        **linear("head.head", 4 * cout, dim),
        "head.modulation": (1, 2, dim),
    }
    for n in range(layers_count):
        block = f"blocks.{n}"
        shapes |= {f"{block}.modulation": (1, 6, dim), f"{block}.norm3.weight": (dim,)}
        shapes |= {f"{block}.norm3.bias": (dim,)}
        shapes |= linear(f"{block}.ffn.0", ffn, dim) | linear(f"{block}.ffn.2", dim, ffn)
        for part in ("self_attn", "cross_attn"):
            for name in "qkvo":
                shapes |= linear(f"{block}.{part}.{name}", dim, dim)
            shapes |= {f"{block}.{part}.norm_q.weight": (dim,), f"{block}.{part}.norm_k.weight": (dim,)}
    return shapes


RELEASED = {  # channels in, out, dim, ffn, heads, layers; keys and parameters of the released checkpoint
    "t2v-A14B": ((16, 16, 5120, 13824, 40, 40), 1095, 14_288_491_584),
    "i2v-A14B": ((36, 16, 5120, 13824, 40, 40), 1095, 14_288_901_184),
    "ti2v-5B": ((48, 48, 3072, 14336, 24, 30), 825, 4_999_787_712),
}


@pytest.mark.parametrize("name", RELEASED)
def test_keys_and_shapes_are_the_released_ones(name):
    (cin, cout, dim, ffn, heads, depth), keys, parameters = RELEASED[name]
    config = TransformerConfig(cin, cout, dim, ffn, heads, depth)
    if name == "t2v-A14B":
        assert config == TransformerConfig()
    state = WanTransformer(config, device="meta", dtype=torch.bfloat16).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == released_shapes(
        cin, cout, dim, ffn, depth
    )
    assert len(state) == keys
    assert sum(value.numel() for value in state.values()) == parameters


def test_a_fresh_network_is_finite():
    assert WanTransformer(TINY)(*inputs()).isfinite().all()


# --- refused early ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latent": torch.zeros(2, 16, 3, 5, 6)}, ("even", "height 5", "width 6")),
        ({"latent": torch.zeros(2, 16, 3, 4, 7)}, ("even", "height 4", "width 7")),
        ({"latent": torch.zeros(2, 36, 3, 4, 6)}, ("16 channels", "36")),
        ({"timestep": torch.zeros(2, 5)}, ("(2, 18)", "(2, 5)")),
        ({"timestep": torch.zeros(1)}, ("(2,)", "(1,)")),
        ({"context": torch.zeros(2, 7, 25)}, ("24", "25")),
        ({"context": torch.zeros(1, 7, 24)}, ("2 samples", "1")),
        ({"context": torch.zeros(2, 21, 24)}, ("20", "21")),
        ({"context_lengths": torch.tensor([3, 8])}, ("7", "[3, 8]")),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(change, words):
    network = WanTransformer(TINY, device="meta")  # would fail on any real work
    given = dict(zip(("latent", "timestep", "context"), inputs(), strict=True)) | change
    if "context_lengths" in change:
        network = tiny_network()
    with pytest.raises(WanError) as error:
        network(**given)
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


# --- against the arithmetic written out ---------------------------------------------------------------------


def plain_forward(state, config, latent, timestep, context, length):
    """One sample in float64 the long way: modulation per token, all text_len rows, rotation by 2x2 products.

    latent (C, F, H, W), timestep (tokens,), context (L, text_dim) -> (C, F, H, W).
    """
    w = {key: value.double() for key, value in state.items()}
    width = config.dim // config.num_heads

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + config.eps).sqrt()

    def rms(name, x):
        return x / (x.square().mean(-1, keepdim=True) + config.eps).sqrt() * w[f"{name}.weight"]

    def heads(x):
        return x.reshape(x.shape[0], config.num_heads, width).transpose(0, 1)

    def attend(name, q, k, v):
        out = ((q @ k.transpose(1, 2)) / math.sqrt(width)).softmax(-1) @ v
        return linear(f"{name}.o", out.transpose(0, 1).flatten(1))

    gelu, silu = nn.GELU(approximate="tanh"), nn.SiLU()
    channels, frames, height, columns = latent.shape
    grid = frames, height // 2, columns // 2
    patches = latent.double().reshape(channels, frames, grid[1], 2, grid[2], 2).permute(1, 2, 4, 0, 3, 5)
    x = (
        patches.reshape(math.prod(grid), -1) @ w["patch_embedding.weight"].flatten(1).T
        + w["patch_embedding.bias"]
    )

    positions = torch.cartesian_prod(*(torch.arange(n) for n in grid)).double()
    side = 2 * (width // 6)
    shares = (width - 2 * side, side, side)
    angles = [
        positions[:, axis, None] * 10000.0 ** (-torch.arange(0, share, 2).double() / share)
        for axis, share in enumerate(shares)
    ]
    cos, sin = torch.cat(angles, 1).cos(), torch.cat(angles, 1).sin()

    def rotate(x):
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

    arguments = timestep.double()[:, None] * 10000.0 ** (-torch.arange(128).double() / 128)
    e = torch.cat([arguments.cos(), arguments.sin()], 1).float().double()
    e = linear("time_embedding.2", silu(linear("time_embedding.0", e)))
    e0 = linear("time_projection.1", silu(e)).reshape(-1, 6, config.dim)
    rows = torch.zeros(config.text_len, config.text_dim, dtype=torch.float64)
    rows[:length] = context[:length]
    text = linear("text_embedding.2", gelu(linear("text_embedding.0", rows)))
    for n in range(config.num_layers):
        block = f"blocks.{n}"
        m = (e0 + w[f"{block}.modulation"]).unbind(1)
        a, name = norm(x) * (1 + m[1]) + m[0], f"{block}.self_attn"
        q, k = (rotate(heads(rms(f"{name}.norm_{i}", linear(f"{name}.{i}", a)))) for i in "qk")
        x = x + attend(name, q, k, heads(linear(f"{name}.v", a))) * m[2]
        a, name = norm(x) * w[f"{block}.norm3.weight"] + w[f"{block}.norm3.bias"], f"{block}.cross_attn"
        q = heads(rms(f"{name}.norm_q", linear(f"{name}.q", a)))
        k = heads(rms(f"{name}.norm_k", linear(f"{name}.k", text)))
        x = x + attend(name, q, k, heads(linear(f"{name}.v", text)))
        a = norm(x) * (1 + m[4]) + m[3]
        x = x + linear(f"{block}.ffn.2", gelu(linear(f"{block}.ffn.0", a))) * m[5]
    m = (e[:, None] + w["head.modulation"]).unbind(1)
    x = linear("head.head", norm(x) * (1 + m[1]) + m[0]).reshape(*grid, 2, 2, -1)
    return x.permute(5, 0, 1, 3, 2, 4).reshape(-1, frames, height, columns)


@pytest.mark.parametrize("lengths", [None, [4, 7], [0, 1]])
@pytest.mark.parametrize("per_token", [False, True])
def test_savings_are_exact(lengths, per_token):
    network = tiny_network()
    latent, timestep, context = inputs()
    expanded = timestep[:, None].repeat(1, 18)
    if per_token:
        expanded[:, :6] = 0.0  # the first frame is clean, as in image-to-video with TI2V-5B
        expanded[1, 10] = 500.0
        timestep = expanded
    with torch.no_grad():
        ours = network(latent, timestep, context, None if lengths is None else torch.tensor(lengths))
    for sample in range(2):
        length = 7 if lengths is None else lengths[sample]
        want = plain_forward(
            network.state_dict(), TINY, latent[sample], expanded[sample], context[sample], length
        )
        error = (ours[sample].double() - want).abs().max() / want.abs().max()
        assert error < 3e-6, f"sample {sample}: {error:.2e}"


def test_a_full_text_needs_no_padding_row():
    network = tiny_network()
    latent, timestep, context = inputs(rows=TINY.text_len)
    with torch.no_grad():
        full = network(latent, timestep, context)
        first = network(latent, timestep, context, torch.tensor([20, 11]))
    want = plain_forward(network.state_dict(), TINY, latent[0], timestep[:1].repeat(18), context[0], 20)
    assert (full[0].double() - want).abs().max() / want.abs().max() < 3e-6
    torch.testing.assert_close(first[0], full[0], rtol=0, atol=1e-5 * full.abs().max().item())
    assert not torch.allclose(first[1], full[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 311, 501, 512])
def test_padding_biases_add_up_to_the_number_of_rows(count, dtype):
    biases = repeat_bias(count, dtype)
    assert biases == [float(torch.tensor(bias).to(dtype)) for bias in biases]
    assert sum(math.exp(bias) for bias in biases) == pytest.approx(count, rel=2e-5)


NARROW = (10, 5)  # of 18 tokens: spans of 9 through attention, of 5, 5, 5 and 3 elsewhere


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("residual", [torch.float32, torch.bfloat16])
def test_spans_change_nothing(monkeypatch, batch, residual):
    network = tiny_network()
    network.residual_dtype = residual
    latent, timestep, context = inputs(batch)
    times = timestep[:, None].repeat(1, 18)
    times[:, :6] = 0.0
    for given in (timestep, times):
        with torch.no_grad():
            whole = network(latent, given, context)
            monkeypatch.setattr(spans, "CPU_SPANS", tuple(batch * n for n in NARROW))
            parted = network(latent, given, context)
        monkeypatch.undo()
        # Another order of additions may round another way, which in 16 bits is much.
        tolerance = 2e-6 if residual == torch.float32 else 2e-2
        torch.testing.assert_close(parted, whole, rtol=0, atol=tolerance * whole.abs().max().item())


@pytest.mark.parametrize(
    ("tokens", "limit", "size"),
    [(75600, 4096, 4096), (3200, 1280, 1152), (2160, 1280, 1152), (18, 1280, 128), (18, 5, 5), (18, 10, 10)],
)
def test_spans_are_even_in_whole_tiles_and_bounded(tokens, limit, size):
    assert spans.even_size(tokens, limit) == size


def test_spans_of_a_batch_are_narrower():
    assert spans.limits(1, "cuda") == (4096, 4096)
    assert spans.limits(2, "cuda") == (2048, 2048)
    assert spans.limits(5000, "cpu") == (1, 1)


def test_spans_end_where_the_time_changes():
    index = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [2, 2, 2, 2, 2, 2, 2]])
    made = spans.make_spans(7, 3, index, torch.device("cpu"))
    assert [(span.tokens.start, span.tokens.stop) for span in made] == [(0, 3), (3, 4), (4, 7)]
    assert [span.rows.tolist() for span in made] == [[[0], [2]], [[0], [2]], [[1], [2]]]
    time = torch.arange(3.0)[:, None]
    assert made[2].take(time)[..., 0].tolist() == [[1.0], [2.0]]
    (whole,) = spans.make_spans(7, 9, None, torch.device("cpu"))
    assert whole.take(time).shape == (3, 1, 1)


def test_spans_are_not_cut_to_bits():
    index = torch.tensor([[0, 1] * 9])
    made = spans.make_spans(18, 10, index, torch.device("cpu"))
    assert [(span.tokens.start, span.tokens.stop) for span in made] == [(0, 10), (10, 18)]
    assert torch.equal(made[1].rows, index[:, 10:])


def test_a_time_for_every_token_is_exact(monkeypatch):
    network = tiny_network()
    latent, _, context = inputs(batch=1)
    times = torch.tensor([[999.0, 37.0, 500.0] * 6])
    monkeypatch.setattr(spans, "CPU_SPANS", NARROW)
    with torch.no_grad():
        ours = network(latent, times, context)
    want = plain_forward(network.state_dict(), TINY, latent[0], times[0], context[0], 7)
    assert (ours[0].double() - want).abs().max() / want.abs().max() < 3e-6


# --- texts kept over the steps ------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 7])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_text_read_once_serves_all_steps(lengths, dtype):
    network = tiny_network(dtype=dtype)
    latent, timestep, context = inputs()
    with torch.inference_mode():
        text = network.read_text(context, lengths)
        assert not text.kept
        for _ in range(2):
            assert torch.equal(network(latent, timestep, text), network(latent, timestep, context, lengths))
    assert len(text.kept) == TINY.num_layers


def test_a_kept_text_spares_its_products():
    network, calls = tiny_network(), []
    network.blocks[1].cross_attn.v.register_forward_hook(lambda *_: calls.append(1))
    latent, timestep, context = inputs()
    with torch.no_grad():
        text = network.read_text(context)
        for _ in range(3):
            network(latent, timestep, text)
        assert len(calls) == 1
        network(latent, timestep, context)
        network(latent, timestep, context)
    assert len(calls) == 3


def test_a_text_must_have_the_latent_s_samples():
    network = tiny_network()
    latent, timestep, context = inputs()
    with torch.no_grad(), pytest.raises(WanError, match="expected 2 samples as in the latent, got 1"):
        network(latent, timestep, network.read_text(context[:1]))


def test_training_after_inference_finds_a_table_it_may_use():
    network = tiny_network()
    rope_table.cache_clear()
    with torch.inference_mode():
        network(*inputs())
    network(*inputs()).sum().backward()
    assert network.blocks[0].self_attn.q.weight.grad.abs().sum() > 0
    assert rope_table.cache_info().hits == 1


# --- precision ----------------------------------------------------------------------------------------------


def test_a_network_attends_by_the_kernel_it_is_given():
    network, biases = tiny_network(), []

    def kernel(q, k, v, bias=None):
        biases.append(bias)
        return attention(q, k, v, bias)

    with torch.no_grad():
        plain = network(*inputs())
        network.attention = kernel
        assert torch.equal(network(*inputs()), plain)
    assert [bias is None for bias in biases] == [True, False] * TINY.num_layers


def test_inputs_are_left_alone():
    network = tiny_network()
    given = inputs()
    copies = [x.clone() for x in given]
    with torch.inference_mode():
        first, second = network(*given), network(*given)
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))


def test_rope_shares_of_the_released_head():
    table = rope_table((2, 3, 4), 128, torch.device("cpu"))
    assert table.shape == (24, 64)
    angles = table[23].angle()  # the last token: positions 1, 2, 3
    assert angles[0].item() == pytest.approx(1.0)
    assert angles[22].item() == pytest.approx(2.0)
    assert angles[43].item() == pytest.approx(3.0)
    assert angles[1].item() == pytest.approx(10000 ** (-2 / 44))
    assert angles[44].item() == pytest.approx(3 * 10000 ** (-2 / 42))


# --- training and other layer classes -----------------------------------------------------------------------


def test_training_sees_the_same_network():
    network = tiny_network()
    given = inputs()
    with torch.no_grad():
        plain = network(*given)
    trained = network(*given)
    torch.testing.assert_close(trained, plain, rtol=0, atol=2e-6 * plain.abs().max().item())
    trained.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())

    # The slope along the gradient, measured.
    gradient = {name: p.grad.clone() for name, p in network.named_parameters()}
    norm = math.sqrt(sum(g.double().square().sum().item() for g in gradient.values()))
    losses = []
    for step in (1e-3, -1e-3):
        with torch.no_grad():
            for name, p in network.named_parameters():
                p.add_(gradient[name], alpha=step / norm)
            losses.append(network(*given).double().square().mean().item())
            for name, p in network.named_parameters():
                p.sub_(gradient[name], alpha=step / norm)
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(norm, rel=1e-2)


class LateLayers:
    """Layer classes like ComfyUI's: no weight until one is loaded, cast to the input's dtype on use."""

    class Late(nn.Module):
        def __init__(self, *shape, bias=True, device=None, dtype=None, **settings):
            super().__init__()
            self.shape, self.settings = shape, settings
            self.weight = self.bias = None

        def _load_from_state_dict(self, state, prefix, *_):
            for name in ("weight", "bias"):
                if prefix + name in state:
                    setattr(self, name, nn.Parameter(state[prefix + name], requires_grad=False))

        def cast(self, x):
            return self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)

    class Linear(Late):
        def forward(self, x):
            return nn.functional.linear(x, *self.cast(x))

    class Conv3d(Late):
        def forward(self, x):
            return nn.functional.conv3d(x, *self.cast(x), stride=self.settings["stride"])

    class LayerNorm(Late):
        def forward(self, x):
            return nn.functional.layer_norm(x, self.shape, *self.cast(x), self.settings["eps"])

    class RMSNorm(Late):
        def forward(self, x):
            return nn.functional.rms_norm(x, self.shape, self.cast(x)[0], self.settings["eps"])


def test_layers_may_get_their_weights_late():
    plain = tiny_network(dtype=torch.bfloat16)
    late = WanTransformer(TINY, ops=LateLayers, device="meta", dtype=torch.bfloat16)
    late.load_state_dict(plain.state_dict(), strict=False, assign=True)
    with torch.no_grad():
        want = plain(*inputs())
        assert torch.equal(late(*inputs()), want)
    assert not any(p.is_meta for p in late.parameters())
