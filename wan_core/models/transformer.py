"""The Wan2.2 diffusion transformer: noisy latent, timestep and text in, velocity out.

One class serves the text-to-video (16 channels in), image-to-video (36 in, joined by the caller) and
text-and-image (48 in and out, a timestep per token) networks. State-dict keys are the released ones
(wan/modules/model.py).

Precision, as released: linears and attention run in `compute_dtype`; the time embedding, the modulation, the
norms, the residual stream and the head are float32; the time sinusoid and the rotary angles are float64. The
patch embedding is float32 too: it is a thousandth of the work and the start of the residual stream. Setting
`residual_dtype` to the compute dtype keeps that stream in 16 bits, a fifth less memory, at a larger error
(README.md, "Precision").

Memory: a block first makes the keys and values of all tokens, then takes span after span of tokens (spans.py)
through attention and through the feed-forward, and adds the results to the stream in place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attention
from ..errors import WanError
from .layers import casting_ops, held, linear_gelu
from .rope import apply_rope, rope_table
from .spans import Span, collected, limits, make_spans, updated

Attention = Callable[..., Tensor]


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the network; the defaults are the released T2V-A14B."""

    in_channels: int = 16
    out_channels: int = 16
    dim: int = 5120
    ffn_dim: int = 13824
    num_heads: int = 40
    num_layers: int = 40
    patch_size: tuple[int, int, int] = (1, 2, 2)
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    eps: float = 1e-6


@dataclass(frozen=True, eq=False)
class TextStates:
    """A prompt as the blocks read it, for one network (and the LoRAs it wears) on one device.

    `kept` are the keys and values that each block has made of the rows: a prompt does not change with the
    steps. None: they are made anew and let go.
    """

    rows: Tensor  # (B, rows, D) compute dtype, embedded
    bias: Tensor | None  # (B, 1, 1, rows) added to the scores
    kept: dict[nn.Module, tuple[Tensor, Tensor]] | None = None

    def keys_values(self, layer: AttentionLayers) -> tuple[Tensor, Tensor]:
        """(B, heads, rows, d) each, as the block's layer makes them."""
        if self.kept is None or torch.is_grad_enabled():
            return layer.keys_values(self.rows)
        if layer not in self.kept:
            self.kept[layer] = layer.keys_values(self.rows)
        return self.kept[layer]


@dataclass(frozen=True)
class Conditions:
    """What every block is told besides the tokens.

    A time row belongs to a distinct timestep, never to a token: at 720p the per-token form would be 9.3 GB.
    """

    time: Tensor  # (R, 6, D) float32; one row per sample, or per distinct timestep
    spans: tuple[Span, ...]  # through attention
    narrow_spans: tuple[Span, ...]  # through everything else
    rope: Tensor  # (tokens, head_dim/2) complex64
    text: TextStates
    attention: Attention


class WanTransformer(nn.Module):
    """The released Wan2.2 DiT.

    Args:
        config: the network's shape
        ops: namespace of layer classes that cast their weights to their input's dtype (torch.nn is adapted)
        device, dtype: of the weights

    May be set at any time:
        compute_dtype: of linears and attention; starts as `dtype`
        residual_dtype: what the residual stream is kept in; float32, or 16 bits to save memory
        attention: the kernel, a callable (q, k, v, bias=None) on (B, heads, tokens, head_dim)
    """

    def __init__(
        self,
        config: TransformerConfig,
        ops: Any = nn,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        ops, place = casting_ops(ops), {"device": device, "dtype": dtype}
        dim = config.dim
        self.config = config
        self.compute_dtype = dtype or torch.float32
        self.residual_dtype = torch.float32
        self.attention: Attention = attention
        patch = config.patch_size
        self.patch_embedding = ops.Conv3d(config.in_channels, dim, kernel_size=patch, stride=patch, **place)
        self.text_embedding = nn.Sequential(
            ops.Linear(config.text_dim, dim, **place),
            nn.GELU(approximate="tanh"),
            ops.Linear(dim, dim, **place),
        )
        self.time_embedding = nn.Sequential(
            ops.Linear(config.freq_dim, dim, **place), nn.SiLU(), ops.Linear(dim, dim, **place)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), ops.Linear(dim, 6 * dim, **place))
        self.blocks = nn.ModuleList(TransformerBlock(config, ops, place) for _ in range(config.num_layers))
        self.head = Head(config, ops, place)

    def forward(
        self,
        latent: Tensor,
        timestep: Tensor,
        context: Tensor | TextStates,
        context_lengths: Tensor | None = None,
    ) -> Tensor:
        """Predict the velocity of a noisy latent.

        Args:
            latent: (B, Cin, F, H, W), H and W even
            timestep: (B,), or (B, tokens) with tokens in the order f, h, w; 0..1000
            context: (B, L, text_dim) text states, L <= text_len, or what `read_text` made of them
            context_lengths: (B,) real rows of each sample, default L; further rows up to text_len count as
                the zero rows that the released model pads with and attends to

            Timesteps and lengths are best kept on the CPU: on a GPU each is waited for.

        Returns: (B, Cout, F, H, W) float32. Raises WanError on shapes that do not fit.
        """
        grid = self._check(latent, timestep, context)
        text = context if isinstance(context, TextStates) else self._embed_text(context, context_lengths)
        time, index = self._embed_time(timestep.cpu(), latent.device)
        spans, narrow_spans = self._spans(latent, math.prod(grid), index)
        conditions = Conditions(
            time=self.time_projection(time).unflatten(1, (6, -1)),
            spans=spans,
            narrow_spans=narrow_spans,
            rope=rope_table(grid, self.config.dim // self.config.num_heads, latent.device),
            text=text,
            attention=self.attention,
        )
        x = self._embed_patches(latent)
        for block in self.blocks:
            x = block(x, conditions)
        return self._unpatchify(self.head(x, time.unsqueeze(1), narrow_spans), grid)

    def read_text(self, context: Tensor, context_lengths: Tensor | None = None) -> TextStates:
        """A context as `forward` takes it, read once for all steps, on the device of the context.

        The value also keeps each block's keys and values of the text, from the block's first use on: rows *
        dim * 2 numbers a block, 0.1 GB for A14B and 126 rows. It serves this network while its weights, its
        LoRAs and its compute_dtype stay as they are. Raises WanError on shapes that do not fit.
        """
        return dataclasses.replace(self._embed_text(context, context_lengths), kept={})

    def _check(self, latent: Tensor, timestep: Tensor, context: Tensor | TextStates) -> tuple[int, int, int]:
        """Refuse what does not fit before any work; returns the token grid (f, h, w)."""
        config = self.config
        if latent.ndim != 5 or latent.shape[1] != config.in_channels:
            raise WanError(
                f"latent: the model takes (B, {config.in_channels}, F, H, W), {config.in_channels} channels, "
                f"got shape {tuple(latent.shape)}; choose the model that fits the task"
            )
        batch, _, *size = latent.shape
        if any(n % p or n == 0 for n, p in zip(size, config.patch_size, strict=True)):
            raise WanError(
                f"latent: height and width must be even (a multiple of the patch {config.patch_size}), "
                f"got frames {size[0]}, height {size[1]}, width {size[2]}; choose another video size"
            )
        frames, height, width = (n // p for n, p in zip(size, config.patch_size, strict=True))
        tokens = frames * height * width
        if tuple(timestep.shape) not in ((batch,), (batch, tokens)):
            raise WanError(
                f"timestep: expected shape ({batch},) or ({batch}, {tokens}), got {tuple(timestep.shape)}; "
                "give one per sample or one per token"
            )
        texts = (context.rows if isinstance(context, TextStates) else context).shape[0]
        if texts != batch:
            raise WanError(
                f"context: expected {batch} samples as in the latent, got {texts}; give each sample its text"
            )
        return frames, height, width

    def _embed_time(self, timestep: Tensor, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Embed each distinct timestep once: (R, D) float32, and the row (B, tokens) of each token.

        The rows are on the CPU; None: sample b has row b.
        """
        index = None
        if timestep.ndim == 2:
            timestep, index = torch.unique(timestep, return_inverse=True)  # (R,), (B, tokens)
        return self.time_embedding(time_sinusoid(timestep, self.config.freq_dim).to(device)), index

    def _spans(
        self, latent: Tensor, tokens: int, index: Tensor | None
    ) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """For attention, and for everything else. While gradients are recorded: all tokens at once."""
        if torch.is_grad_enabled():
            whole = (Span(slice(0, tokens), None if index is None else index.to(latent.device)),)
            return whole, whole
        wide, narrow = limits(latent.shape[0], latent.device.type)
        spans = make_spans(tokens, wide, index, latent.device)
        return spans, spans if narrow == wide else make_spans(tokens, narrow, index, latent.device)

    def _embed_patches(self, latent: Tensor) -> Tensor:
        """(B, Cin, F, H, W) to the residual stream (B, tokens, D)."""
        x = self.patch_embedding(latent.float()).flatten(2).transpose(1, 2)
        return x.to(self.residual_dtype, memory_format=torch.contiguous_format).contiguous()

    def _embed_text(self, context: Tensor, lengths: Tensor | None) -> TextStates:
        """Embed the real rows and stand-ins for the padding.

        All padding rows are equal, so n of them attend like one whose score is raised by log(n).
        """
        text_dim, text_len = self.config.text_dim, self.config.text_len
        if context.ndim != 3 or context.shape[2] != text_dim:
            raise WanError(
                f"context: expected shape (B, rows, {text_dim}), got {tuple(context.shape)}; "
                "use the text encoder that belongs to this model"
            )
        if context.shape[1] > text_len:
            raise WanError(f"context: at most {text_len} rows, got {context.shape[1]}; truncate the prompt")
        batch, rows, _ = context.shape
        counts = [rows] * batch if lengths is None else [int(n) for n in lengths.tolist()]
        if len(counts) != batch or not all(0 <= n <= rows for n in counts):
            raise WanError(
                f"context_lengths: expected {batch} lengths of 0 to {rows}, got {counts}; "
                "give the real rows of each sample"
            )
        context = context.to(self.compute_dtype)
        if min(counts) == self.config.text_len:
            return TextStates(self.text_embedding(context), None)
        pads = [repeat_bias(self.config.text_len - n, self.compute_dtype) for n in counts]
        bias = torch.zeros(batch, 1, 1, rows + len(pads[0]))
        for sample, (count, pad) in enumerate(zip(counts, pads, strict=True)):
            bias[sample, ..., count:rows] = -math.inf
            bias[sample, ..., rows:] = torch.tensor(pad)
        context = F.pad(context, (0, 0, 0, len(pads[0])))
        return TextStates(self.text_embedding(context), bias.to(context))

    def _unpatchify(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """(B, tokens, pt*ph*pw*C), channel fastest, to (B, C, F, H, W)."""
        patch = self.config.patch_size
        x = x.unflatten(2, (*patch, -1)).unflatten(1, grid)  # (B, f, h, w, pt, ph, pw, C)
        size = [n * p for n, p in zip(grid, patch, strict=True)]
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(x.shape[0], -1, *size)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; the first and last are modulated by the time."""

    def __init__(self, config: TransformerConfig, ops: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.eps = config.eps
        self.self_attn = AttentionLayers(config, ops, place)
        self.norm3 = ops.LayerNorm(config.dim, eps=config.eps, **place)
        self.cross_attn = AttentionLayers(config, ops, place)
        self.ffn = nn.Sequential(
            ops.Linear(config.dim, config.ffn_dim, **place),
            nn.GELU(approximate="tanh"),
            ops.Linear(config.ffn_dim, config.dim, **place),
        )
        self.modulation = nn.Parameter(torch.zeros(1, 6, config.dim, **place))

    def forward(self, x: Tensor, given: Conditions) -> Tensor:
        """Tokens (B, tokens, D) to the same; x is overwritten when no gradient is recorded."""
        rows = (given.time + self.modulation.to(given.time)).unbind(1)  # six of (R, D)
        x = self._attend_all(x, given, *rows[:3])
        return self._feed_all(x, given, *rows[3:])

    def _attend_all(self, x: Tensor, given: Conditions, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        """Self-attention and attention to the text; here live the keys and values of all tokens."""
        own, other, text = self.self_attn, self.cross_attn, given.text
        text_keys_values = text.keys_values(other)

        def read(span: Span) -> tuple[Tensor, Tensor]:
            rope = given.rope[span.tokens]
            return self.read(x[:, span.tokens], span.take(shift), span.take(scale), rope, text.rows.dtype)

        with self.held(given.narrow_spans, (own.k, own.v), text.rows):
            keys_values = collected(given.narrow_spans, read)

        def attend(part: Tensor, span: Span) -> Tensor:
            time = (span.take(row) for row in (shift, scale, gate))
            seen = (*keys_values, *text_keys_values, text.bias)
            return self.attend(part, *time, given.rope[span.tokens], *seen, given.attention)

        with self.held(given.spans, (own.q, own.o, other.q, other.o), text.rows):
            return updated(x, given.spans, attend)

    def _feed_all(self, x: Tensor, given: Conditions, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        def feed(part: Tensor, span: Span) -> Tensor:
            time = (span.take(row) for row in (shift, scale, gate))
            return self.feed(part, *time, given.text.rows.dtype)

        with self.held(given.narrow_spans, (self.ffn[0], self.ffn[2]), given.text.rows):
            return updated(x, given.narrow_spans, feed)

    def held(
        self, spans: tuple[Span, ...], layers: tuple[nn.Module, ...], like: Tensor
    ) -> AbstractContextManager[None]:
        """For a loop over the spans; of one span nothing is called twice."""
        return held(layers, like) if len(spans) > 1 else nullcontext()

    # The steps, of some tokens x (B, n, D) each, with time rows (B, 1 or n, D) and rotations (n, head_dim/2).
    # What they add goes into the memory of x when no gradient is recorded.

    def read(
        self, x: Tensor, shift: Tensor, scale: Tensor, rope: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """The tokens' keys and values (B, heads, n, d)."""
        return self.self_attn.keys_values(modulated_norm(x, shift, scale, self.eps, dtype), rope)

    def attend(
        self,
        x: Tensor,
        shift: Tensor,
        scale: Tensor,
        gate: Tensor,
        rope: Tensor,
        keys: Tensor,
        values: Tensor,
        text_keys: Tensor,
        text_values: Tensor,
        bias: Tensor | None,
        attention: Attention,
    ) -> Tensor:
        """Add what the tokens find among all tokens (B, heads, tokens, d), then in the text."""
        dtype, own, other = keys.dtype, self.self_attn, self.cross_attn
        # One name for all: what is used up is let go before the next is made.
        y = own.query(modulated_norm(x, shift, scale, self.eps, dtype), rope)
        y = attention(y, keys, values)
        y = own.out(y)
        x = gated_add(x, y, gate)
        del y
        y = other.query(self.norm3(x.float()).to(dtype))
        y = attention(y, text_keys, text_values, bias)
        y = other.out(y)
        return (x + y).to(x.dtype) if torch.is_grad_enabled() else x.add_(y)

    def feed(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
        """Add the feed-forward."""
        y = linear_gelu(self.ffn[0], modulated_norm(x, shift, scale, self.eps, dtype))
        return gated_add(x, self.ffn[2](y), gate)


class AttentionLayers(nn.Module):
    """The layers around attention; q and k are normalised over the whole width, and rotated where told."""

    def __init__(self, config: TransformerConfig, ops: Any, place: dict[str, Any]) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.q = ops.Linear(dim, dim, **place)
        self.k = ops.Linear(dim, dim, **place)
        self.v = ops.Linear(dim, dim, **place)
        self.o = ops.Linear(dim, dim, **place)
        self.norm_q = ops.RMSNorm(dim, eps=config.eps, **place)
        self.norm_k = ops.RMSNorm(dim, eps=config.eps, **place)

    def query(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """(B, n, D) to (B, heads, n, d), in the dtype of x."""
        return self._normed(self.q, x, self.norm_q, rope)

    def keys_values(self, x: Tensor, rope: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, n, D) to twice (B, heads, n, d), in the dtype of x."""
        return self._normed(self.k, x, self.norm_k, rope), self._heads(self.v(x))

    def out(self, x: Tensor) -> Tensor:
        """What attention gave, (B, heads, n, d), to (B, n, D)."""
        return self.o(x.transpose(1, 2).flatten(2))

    def _normed(self, layer: nn.Module, x: Tensor, norm: nn.Module, rope: Tensor | None) -> Tensor:
        # In one name each, and made here: what is not needed any more is let go, of which Python would hold
        # an argument where a frame evaluator is in place, as a failed torch.compile leaves it.
        dtype, x = x.dtype, layer(x).float()
        x = norm(x)
        if rope is not None:
            x = apply_rope(x.unflatten(2, (self.num_heads, -1)), rope).flatten(2)
        return self._heads(x).to(dtype)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class Head(nn.Module):
    """Modulated norm and the projection to patches, float32 throughout."""

    def __init__(self, config: TransformerConfig, ops: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = ops.Linear(config.dim, math.prod(config.patch_size) * config.out_channels, **place)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim, **place))

    def forward(self, x: Tensor, time: Tensor, spans: tuple[Span, ...]) -> Tensor:
        """Tokens (B, tokens, D) and time rows (R, 1, D) to (B, tokens, patch volume * Cout)."""
        shift, scale = (time + self.modulation.to(time)).unbind(1)  # two of (R, D)

        def step(span: Span) -> Tensor:
            part = x[:, span.tokens]
            return self.head(
                modulated_norm(part, span.take(shift), span.take(scale), self.eps, torch.float32)
            )

        with held((self.head,), shift) if len(spans) > 1 else nullcontext():
            return torch.cat([step(span) for span in spans], dim=1)


def time_sinusoid(timestep: Tensor, width: int) -> Tensor:
    """(R,) timesteps on the CPU to (R, width) float32, cosines first.

    Computed in float64: near t = 1000 float32 angles are off by 4e-5, more than all else in the network.
    """
    exponents = torch.arange(width // 2, dtype=torch.float64) / (width // 2)
    angles = torch.outer(timestep.double(), 10000.0**-exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


def repeat_bias(count: int, dtype: torch.dtype) -> list[float]:
    """Score biases of the rows that stand for `count` equal rows: their exponentials add up to `count`.

    Float32 needs one row, log(count). Rounded to bf16 that would be off by up to 1.5 %, so 16-bit gets three
    rows: each rounds down and leaves the rest to the next (left over: under 1e-5 of the count).
    """
    rows = 1 if dtype == torch.float32 else 3
    biases, rest = [], float(count)
    for _ in range(rows):
        if rest <= 0.0:
            biases.append(-math.inf)
            continue
        bias = torch.tensor(math.log(rest)).to(dtype)
        if rows > 1 and math.exp(float(bias)) > rest:
            bias = torch.nextafter(bias, torch.tensor(-math.inf, dtype=dtype))
        biases.append(float(bias))
        rest -= math.exp(float(bias))
    return biases


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift, of x (B, n, D) and rows (B, 1 or n, D).

    Computed in float32, returned in `dtype`.
    """
    x, width = x.float(), x.shape[-1:]
    if shift.numel() == width[0]:  # one row for all tokens: the norm's own weight and bias, one pass
        return F.layer_norm(x, width, 1 + scale.flatten(), shift.flatten(), eps).to(dtype)
    y = F.layer_norm(x, width, eps=eps)
    if torch.is_grad_enabled():
        return torch.addcmul(shift, y, 1 + scale).to(dtype)
    return y.addcmul_(y, scale).add_(shift).to(dtype)


def gated_add(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + y * gate, computed in float32, in the memory of x when no gradient is recorded."""
    return torch.addcmul(x, y, gate).to(x.dtype) if torch.is_grad_enabled() else x.addcmul_(y, gate)
