"""Fit a preview's colours to a VAE: the linear function of a latent cell that comes nearest its pixels' mean.

    python -m wan_core.tiny.fit_preview t2v
    python -m wan_core.tiny.fit_preview ti2v

Prints the figures for `checkpoints/known.py`, and how far they are off on clips they were not fitted to. Each
VAE has its own: the released figures show what wan-tiny makes in wrong colours.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoints import load_module, open_checkpoint, vae_config
from ..media.preview import LatentRgb
from ..models.vae import make_vae
from ..models.video_vae import VideoVAE
from . import weights_dir
from .latents import VAE_FILES, encoded, scene_for
from .scenes import Scene, draw_clip

FITTED, JUDGED = 40, 10
# As if every cell had so much noise on it. What a network takes for a clean latent is not what the VAE
# encodes, and the 48 channels are nearly dependent: plain least squares has factors of 2 for them, which show
# the final latents of TI2V 56 levels off instead of 23.
NOISE = 0.1


def fit(latents: Tensor, colours: Tensor, noise: float = NOISE) -> LatentRgb:
    """Least squares. latents: (N, C) normalised cells; colours: (N, 3) in -1..1; noise: on the latents."""
    mean, mean_colour = latents.double().mean(dim=0), colours.double().mean(dim=0)
    centred = latents.double() - mean
    spread = centred.T @ centred + len(latents) * noise**2 * torch.eye(latents.shape[1])
    factors = torch.linalg.solve(spread, centred.T @ (colours.double() - mean_colour))
    bias = mean_colour - mean @ factors
    rows = [tuple(round(value, 4) for value in row) for row in [*factors.tolist(), bias.tolist()]]
    return LatentRgb(tuple(rows[:-1]), rows[-1])


def error(rgb: LatentRgb, latents: Tensor, colours: Tensor) -> float:
    """Root mean square of what a fit is off, in levels of 255."""
    guess = latents @ torch.tensor(rgb.factors) + torch.tensor(rgb.bias)
    return (guess.clamp(-1, 1) - colours).square().mean().sqrt().item() * 127.5


def cells(vae: VideoVAE, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """The latent cells (N, C) of some scenes' clips, and the mean colour (N, 3) of what each stands for."""
    with torch.no_grad():
        latents = encoded(vae, scenes, with_images=False)["clips"]  # (B, C, F, h, w)
    frames, rows, columns = vae.stride
    clips = torch.stack([torch.from_numpy(draw_clip(scene)) for scene in scenes]).float() * 2 - 1
    video = clips.permute(0, 4, 1, 2, 3)  # (B, 3, frames, H, W)
    video = torch.cat([video[:, :, :1].expand(-1, -1, frames - 1, -1, -1), video], dim=2)
    means = functional.avg_pool3d(
        video, (frames, rows, columns)
    )  # the first frame is a latent frame by itself
    return latents.permute(0, 2, 3, 4, 1).flatten(0, 3), means.permute(0, 2, 3, 4, 1).flatten(0, 3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=list(VAE_FILES))
    parser.add_argument("--weights", type=Path, default=weights_dir(), help="where the exported VAE is")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    checkpoint = open_checkpoint(args.weights / "vae" / f"{VAE_FILES[args.task]}.safetensors")
    vae = load_module(make_vae(vae_config(checkpoint.header), device="meta"), checkpoint, torch.float32)
    rng = np.random.default_rng((args.seed, 11))
    scenes = [scene_for(args.task, None, rng) for _ in range(FITTED + JUDGED)]
    latents, colours = cells(vae, scenes)
    split = len(latents) * FITTED // len(scenes)
    rgb = fit(latents[:split], colours[:split])
    off = error(rgb, latents[split:], colours[split:])
    print(f"{rgb}\n{off:.1f} levels of 255 off on {JUDGED} other clips")  # noqa: T201


if __name__ == "__main__":
    main()
