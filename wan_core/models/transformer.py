"""The Wan2.2 diffusion transformer: noisy latent, timestep and text in, velocity out.

One class serves the text-to-video (16 channels in), image-to-video (36 in, joined by the caller) and
text-and-image (48 in and out, a timestep per token) networks. State-dict keys are the released ones
(wan/modules/model.py).

Precision, as released: linears and attention run in `compute_dtype`; the time embedding, the modulation, the
norms, the residual stream and the head are float32; the time sinusoid and the rotary angles are float64. The
patch embedding is float32 too: it is a thousandth of the work and the start of the residual stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import attention
from ..errors import WanError
from .layers import casting_ops, over_chunks, token_spans
from .rope import apply_rope, rope_table


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


@dataclass(frozen=True)
class Conditions:
    """What every block is told besides the tokens.

    A time row belongs to a distinct timestep, never to a token: at 720p the per-token form would be 9.3 GB.
    """

    time: Tensor  # (R, 6, D) float32; one row per sample, or per distinct timestep
    time_index: Tensor | None  # (B, tokens) row of each token; None: sample b has row b
    rope: Tensor  # (tokens, head_dim/2) complex64
    text: Tensor  # (B, rows, D) compute dtype, embedded
    text_bias: Tensor | None  # (B, 1, 1, rows) added to the scores of the text


class WanTransformer(nn.Module):
    """The released Wan2.2 DiT.

    Args:
        config: the network's shape
        ops: namespace of layer classes that cast their weights to their input's dtype (torch.nn is adapted)
        device, dtype: of the weights; `compute_dtype` starts as `dtype` and may be set afterwards
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
        self, latent: Tensor, timestep: Tensor, context: Tensor, context_lengths: Tensor | None = None
    ) -> Tensor:
        """Predict the velocity of a noisy latent.

        Args:
            latent: (B, Cin, F, H, W), H and W even
            timestep: (B,), or (B, tokens) with tokens in the order f, h, w; 0..1000
            context: (B, L, text_dim) text states, L <= text_len
            context_lengths: (B,) real rows of each sample, default L; further rows up to text_len count as
                the zero rows that the released model pads with and attends to

            Timesteps and lengths are best kept on the CPU: on a GPU each is waited for.

        Returns: (B, Cout, F, H, W) float32. Raises WanError on shapes that do not fit.
        """
        grid = self._check(latent, timestep, context)
        x = self.patch_embedding(latent.float()).flatten(2).transpose(1, 2).contiguous()  # (B, tokens, D)
        time, time_index = self._embed_time(timestep.cpu(), x.device)
        text, text_bias = self._embed_text(context, context_lengths)
        conditions = Conditions(
            time=self.time_projection(time).unflatten(1, (6, -1)),
            time_index=time_index,
            rope=rope_table(grid, self.config.dim // self.config.num_heads, x.device),
            text=text,
            text_bias=text_bias,
        )
        for block in self.blocks:
            x = block(x, conditions)
        return self._unpatchify(self.head(x, time.unsqueeze(1), time_index), grid)

    def _check(self, latent: Tensor, timestep: Tensor, context: Tensor) -> tuple[int, int, int]:
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
        if context.ndim != 3 or context.shape[0] != batch or context.shape[2] != config.text_dim:
            raise WanError(
                f"context: expected shape ({batch}, rows, {config.text_dim}), got {tuple(context.shape)}; "
                "use the text encoder that belongs to this model"
            )
        if context.shape[1] > config.text_len:
            raise WanError(
                f"context: at most {config.text_len} rows, got {context.shape[1]}; truncate the prompt"
            )
        return frames, height, width

    def _embed_time(self, timestep: Tensor, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Embed each distinct timestep once: (R, D) float32, and the row of each token as in Conditions."""
        index = None
        if timestep.ndim == 2:
            timestep, index = torch.unique(timestep, return_inverse=True)  # (R,), (B, tokens)
            index = index.to(device)
        return self.time_embedding(time_sinusoid(timestep, self.config.freq_dim).to(device)), index

    def _embed_text(self, context: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Embed the real rows and stand-ins for the padding: (B, rows, D) and a score bias (B, 1, 1, rows).

        All padding rows are equal, so n of them attend like one whose score is raised by log(n).
        """
        batch, rows, _ = context.shape
        counts = [rows] * batch if lengths is None else [int(n) for n in lengths.tolist()]
        if len(counts) != batch or not all(0 <= n <= rows for n in counts):
            raise WanError(
                f"context_lengths: expected {batch} lengths of 0 to {rows}, got {counts}; "
                "give the real rows of each sample"
            )
        context = context.to(self.compute_dtype)
        if min(counts) == self.config.text_len:
            return self.text_embedding(context), None
        pads = [repeat_bias(self.config.text_len - n, self.compute_dtype) for n in counts]
        bias = torch.zeros(batch, 1, 1, rows + len(pads[0]))
        for sample, (count, pad) in enumerate(zip(counts, pads, strict=True)):
            bias[sample, ..., count:rows] = -math.inf
            bias[sample, ..., rows:] = torch.tensor(pad)
        context = F.pad(context, (0, 0, 0, len(pads[0])))
        return self.text_embedding(context), bias.to(context)

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
        self.self_attn = SelfAttention(config, ops, place)
        self.norm3 = ops.LayerNorm(config.dim, eps=config.eps, **place)
        self.cross_attn = CrossAttention(config, ops, place)
        self.ffn = nn.Sequential(
            ops.Linear(config.dim, config.ffn_dim, **place),
            nn.GELU(approximate="tanh"),
            ops.Linear(config.ffn_dim, config.dim, **place),
        )
        self.modulation = nn.Parameter(torch.zeros(1, 6, config.dim, **place))

    def forward(self, x: Tensor, given: Conditions) -> Tensor:
        """Tokens (B, tokens, D) float32 to the same; x is overwritten when no gradient is recorded."""
        index, dtype = given.time_index, given.text.dtype
        rows = (given.time + self.modulation.to(given.time)).unbind(1)  # six of (R, D)
        shift_attn, scale_attn, gate_attn, shift_ffn, scale_ffn, gate_ffn = rows

        y = self.self_attn(modulated_norm(x, shift_attn, scale_attn, index, self.eps, dtype), given.rope)
        x = gated_add(x, y, gate_attn, index)
        y = over_chunks(lambda span: self.norm3(x[:, span]).to(dtype), x.shape[1])
        y = self.cross_attn(y, given.text, given.text_bias)
        x = x + y if torch.is_grad_enabled() else x.add_(y)
        y = self.ffn(modulated_norm(x, shift_ffn, scale_ffn, index, self.eps, dtype))
        return gated_add(x, y, gate_ffn, index)


class SelfAttention(nn.Module):
    """Attention among the tokens, with rotary positions; q and k are normalised over the whole width."""

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

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """(B, tokens, D) to the same, in the dtype of x."""
        q = self._norm_rope(self.q(x), self.norm_q, rope)
        k = self._norm_rope(self.k(x), self.norm_k, rope)
        out = attention(self._heads(q), self._heads(k), self._heads(self.v(x)))
        return self.o(out.transpose(1, 2).flatten(2))

    def _norm_rope(self, x: Tensor, norm: nn.Module, rope: Tensor) -> Tensor:
        def step(span: slice) -> Tensor:
            heads = norm(x[:, span].float()).unflatten(2, (self.num_heads, -1))  # (B, n, heads, d)
            return apply_rope(heads, rope[span]).flatten(2).to(x.dtype)

        return over_chunks(step, x.shape[1], out=x)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, tokens, d)


class CrossAttention(SelfAttention):
    """Attention of the tokens to the text: same layers, no positions."""

    def forward(self, x: Tensor, text: Tensor, bias: Tensor | None) -> Tensor:
        """Tokens (B, tokens, D) and text (B, rows, D) to (B, tokens, D)."""
        q = self.q(x)
        q = over_chunks(lambda span: self.norm_q(q[:, span].float()).to(x.dtype), q.shape[1], out=q)
        k = self.norm_k(self.k(text).float()).to(x.dtype)
        out = attention(self._heads(q), self._heads(k), self._heads(self.v(text)), bias)
        return self.o(out.transpose(1, 2).flatten(2))


class Head(nn.Module):
    """Modulated norm and the projection to patches, float32 throughout."""

    def __init__(self, config: TransformerConfig, ops: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = ops.Linear(config.dim, math.prod(config.patch_size) * config.out_channels, **place)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim, **place))

    def forward(self, x: Tensor, time: Tensor, index: Tensor | None) -> Tensor:
        """Tokens (B, tokens, D) and time rows (R, 1, D) to (B, tokens, patch volume * Cout)."""
        shift, scale = (time + self.modulation.to(time)).unbind(1)  # two of (R, D)

        def step(span: slice) -> Tensor:
            return self.head(
                _modulate(x[:, span], _rows(shift, index, span), _rows(scale, index, span), self.eps)
            )

        return over_chunks(step, x.shape[1])


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


def modulated_norm(
    x: Tensor, shift: Tensor, scale: Tensor, index: Tensor | None, eps: float, dtype: torch.dtype
) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift, computed in float32, returned in `dtype`; rows as in Conditions."""

    def step(span: slice) -> Tensor:
        return _modulate(x[:, span], _rows(shift, index, span), _rows(scale, index, span), eps).to(dtype)

    return over_chunks(step, x.shape[1])


def gated_add(x: Tensor, y: Tensor, gate: Tensor, index: Tensor | None) -> Tensor:
    """x + y * gate in float32, in place when no gradient is recorded."""
    if torch.is_grad_enabled():
        return torch.addcmul(x, y.float(), _rows(gate, index, slice(0, x.shape[1])))
    for span in token_spans(x.shape[1]):
        x[:, span].addcmul_(y[:, span].float(), _rows(gate, index, span))
    return x


def _modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """x (B, n, D); shift and scale (B, 1 or n, D)."""
    width = x.shape[-1:]
    if shift.numel() == width[0]:  # one row for all tokens: the norm's own weight and bias, one pass
        return F.layer_norm(x, width, 1 + scale.flatten(), shift.flatten(), eps)
    return torch.addcmul(shift, F.layer_norm(x, width, eps=eps), 1 + scale)


def _rows(rows: Tensor, index: Tensor | None, span: slice) -> Tensor:
    """(R, D) time rows as they apply to a span of tokens: (B, 1, D), or (B, n, D) when tokens differ."""
    return rows.unsqueeze(1) if index is None else rows[index[:, span]]
