"""Products of fp8 weights in fp8: the activations are rounded to fp8 too, and nothing is turned into numbers.

Faster on cards with fp8 tensor cores, and not exact: e4m3 has 4 significant bits. Each row of activations is
scaled by its own largest number, so a loud token costs the quiet ones nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
LARGEST = torch.finfo(E4M3).max  # 448
# Ada; Hopper is 9.0. The kernels give bfloat16 and take widths of whole 16s.
LEAST_CAPABILITY = (8, 9)
COMPUTE_DTYPE = torch.bfloat16
TILE = 16


def fp8_fits(codes: Tensor) -> bool:
    """Whether a stored weight (out, in) can be multiplied as it is."""
    return codes.dtype == E4M3 and codes.ndim == 2 and not any(side % TILE for side in codes.shape)


def fp8_linear(x: Tensor, codes: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """x (..., in) bfloat16 times a weight (out, in) of e4m3 codes, to (..., out) bfloat16.

    scale: (out, 1) or (1, 1) float32 of the weight, or None; bias: (out,) bfloat16.
    """
    rows = x.reshape(-1, x.shape[-1])
    # Rounded to bfloat16 before it divides: what is multiplied back is then what was divided by.
    step = (rows.abs().amax(1, keepdim=True) / LARGEST).clamp(min=torch.finfo(x.dtype).tiny)
    weight_scale = torch.ones(1, device=x.device) if scale is None else scale.flatten()
    out = torch._scaled_mm(
        (rows / step).to(E4M3),
        codes.t(),
        scale_a=step.float(),
        scale_b=weight_scale.expand(codes.shape[0]).contiguous().unsqueeze(0),
        bias=bias,
        out_dtype=x.dtype,
        use_fast_accum=True,
    )
    return out.view(*x.shape[:-1], -1)


def fp8_fault(device: torch.device) -> str | None:
    """Why a device cannot multiply in fp8; None when it can, which one small product has shown."""
    if device.type != "cuda" or torch.version.cuda is None:
        return f"{device} has no fp8 products"
    capability = torch.cuda.get_device_capability(device)
    if capability < LEAST_CAPABILITY:
        return "compute capability {}.{} has no fp8 products, 8.9 is the first".format(*capability)
    return fp8_probe(device)


def fp8_probe(device: torch.device) -> str | None:
    """What is wrong with one small product there; None when it is right."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 64, generator=generator).to(device, COMPUTE_DTYPE)
    codes = torch.randn(32, 64, generator=generator).to(E4M3).to(device)
    scale = torch.rand(32, 1, generator=generator).to(device)
    expected = x.float() @ (codes.float() * scale).T
    try:
        off = float((fp8_linear(x, codes, scale, None).float() - expected).norm() / expected.norm())
    except (RuntimeError, ValueError) as error:
        return f"this torch cannot: {str(error).splitlines()[0][:200]}"
    return None if off < 0.1 else f"a product there is {off:.0%} off"
