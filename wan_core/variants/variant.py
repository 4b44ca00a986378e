"""What one released Wan model is: plain numbers, no tensors."""

from __future__ import annotations

from dataclasses import dataclass

# The experts, as state, options and JSON spell them; DENSE is the one of a single-network model.
HIGH_NOISE, LOW_NOISE, DENSE = "high_noise", "low_noise", "dense"


@dataclass(frozen=True)
class Variant:
    """One released model and its defaults (wan/configs of the Wan2.2 release).

    Sizes are (width, height) in pixels. `guidance_scale_low` and `guidance_scale_high` belong to the
    low-noise and the high-noise expert; a single network (`boundary` None) has the same number in both.
    """

    name: str
    title: str
    task: str  # "t2v", "i2v" or "ti2v"
    in_channels: int
    out_channels: int
    vae_family: str  # the checkpoint family of the VAE it was trained with
    vae_stride: tuple[int, int, int]  # frames, height, width per latent cell
    latent_channels: int
    boundary: float | None  # fraction of 1000 timesteps; from there up the high-noise expert works
    shift: float
    steps: int
    guidance_scale_low: float
    guidance_scale_high: float
    fps: int
    frames: int
    sizes: tuple[tuple[int, int], ...]
    negative_prompt: str

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts in the order they work."""
        return (DENSE,) if self.boundary is None else (HIGH_NOISE, LOW_NOISE)

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this: a VAE cell times the 2 x 2 patch."""
        return self.vae_stride[1] * 2
