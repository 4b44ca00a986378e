"""What a sampling run is told besides text: image channels beside the noise, or frames already clean."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import WanError

# encode(chunks of a video, (1, 3, 1, H, W) and then (1, 3, 4, H, W) each, -1..1, not to be changed)
# -> normalised latent (1, C, number of chunks, h, w)
Encode = Callable[[Iterable[Tensor]], Tensor]
# Latent cells (frames, height, width) of a token, in every released Wan2.2 model.
PATCH_SIZE = (1, 2, 2)


@dataclass(frozen=True)
class Conditioning:
    """Empty for text alone: then every method gives back what the network was told without it.

    channels: (1 or B, 20, F, h, w) appended to the noise channels: mask 4, image latent 16 (I2V-A14B).
    clean_latent: (1 or B, C, 1 or F, h, w) normalised; what stands where denoise_mask is 0 (TI2V-5B).
    denoise_mask: (1 or B, 1, F, 1 or h, 1 or w), on the CPU; 1: the noise decides, 0: clean_latent is kept.
    """

    channels: Tensor | None = None
    clean_latent: Tensor | None = None
    denoise_mask: Tensor | None = None

    def on(self, latent: Tensor) -> Conditioning:
        """The same on the device of a latent (B, C, F, h, w). Raises WanError when made for another."""
        parts = (self.channels, "image"), (self.clean_latent, "image"), (self.denoise_mask, "denoise mask")
        for part, name in parts:
            if part is not None and any(
                n not in (1, size) for n, size in zip(part.shape[2:], latent.shape[2:], strict=True)
            ):
                raise WanError(
                    f"{name}: prepared for a latent of {_size(part)} (frames, height, width), the one to "
                    f"sample has {_size(latent)}; give both the same width, height and frames"
                )
        return replace(
            self,
            channels=None if self.channels is None else self.channels.to(latent.device, torch.float32),
            clean_latent=None
            if self.clean_latent is None
            else self.clean_latent.to(latent.device, torch.float32),
        )

    def model_input(self, latent: Tensor) -> Tensor:
        """The latent (B, C, F, h, w) with the channels the network reads besides: (B, C + 20, F, h, w)."""
        if self.channels is None:
            return latent
        return torch.cat([latent, self.channels.expand(latent.shape[0], -1, -1, -1, -1)], dim=1)

    def timesteps(
        self, timestep: float, latent: Tensor, patch_size: tuple[int, int, int] = PATCH_SIZE
    ) -> Tensor:
        """What the network is told the time is: (B,), or (B, tokens) with 0 where the latent is clean.

        As released (wan/textimage2video.py): the mask at each token's first cell times the timestep. On the
        CPU, where the network reads it: fetching it from a GPU would wait for the step before.
        """
        batch = latent.shape[0]
        if self.denoise_mask is None:
            whole = isinstance(timestep, int)
            return torch.full((batch,), timestep, dtype=torch.int64 if whole else torch.float64)
        mask = self.denoise_mask.cpu().expand(batch, 1, *latent.shape[2:])
        frames, height, width = patch_size
        return (mask[:, 0, ::frames, ::height, ::width].double() * timestep).flatten(1)

    def keep_clean(self, latent: Tensor) -> Tensor:
        """The latent with the clean frames put (back) into it; imposed on the noise and after every step."""
        if self.denoise_mask is None:
            return latent
        mask, kept = self._kept
        return torch.addcmul(kept, mask, latent)

    @cached_property
    def _kept(self) -> tuple[Tensor, Tensor]:
        """The mask, on the clean latent's device, and what it keeps of that: made once for all steps."""
        mask = self.denoise_mask.to(self.clean_latent)
        return mask, (1.0 - mask) * self.clean_latent


def _size(latent: Tensor) -> str:
    return " x ".join(str(n) for n in latent.shape[2:])
