"""Train one of wan-tiny's VAEs: first on single frames, then on short clips, then on whole ones.

    python -m wan_core.tiny.train_vae --out runs/vae
    python -m wan_core.tiny.train_vae --kind 2.2 --out runs/vae22

Writes `state.pt` (resumable) and `vae.safetensors` (averaged weights, its own latent scale) into --out.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..models.layers import CastingLayers
from ..models.vae import make_vae
from ..models.vae_2_1 import VAEConfig
from ..models.vae_2_2 import VAE22Config
from ..models.video_vae import VideoVAE
from .scenes import draw_frame, pose, random_scene

log = logging.getLogger("wancore")
TINY_VAE = VAEConfig(dim=12)
TINY_VAE_2_2 = VAE22Config(dim=10, decoder_dim=16)  # 5.9 MB in float16


@dataclass(frozen=True)
class Stage:
    """Some of the training: how many steps, on how many clips of how many frames, cropped to what size."""

    steps: int
    batch: int
    frames: int
    crop: int
    learning_rate: float
    last_rate: float
    decoder_only: bool = False  # the encoder is done: latents may be written meanwhile


@dataclass(frozen=True)
class Recipe:
    """A VAE's sizes and its training; each stage goes on from the averaged weights of the one before."""

    config: VAEConfig | VAE22Config
    stages: tuple[Stage, ...]
    muon: bool = False  # for the convolutions: after 500 single-frame steps 25 dB, and 20 dB with AdamW


RECIPES = {
    "2.1": Recipe(
        TINY_VAE,
        (
            Stage(steps=1500, batch=8, frames=1, crop=64, learning_rate=1.2e-3, last_rate=6e-4),
            Stage(steps=750, batch=4, frames=5, crop=64, learning_rate=8e-4, last_rate=6e-4),
            Stage(steps=550, batch=1, frames=17, crop=96, learning_rate=8e-4, last_rate=4e-4),
            Stage(steps=800, batch=4, frames=9, crop=64, learning_rate=8e-4, last_rate=4e-5),
            Stage(
                steps=400,
                batch=1,
                frames=17,
                crop=96,
                learning_rate=2e-4,
                last_rate=1e-5,
                decoder_only=True,
            ),
        ),
    ),
    "2.2": Recipe(
        TINY_VAE_2_2,
        (
            Stage(steps=1200, batch=8, frames=1, crop=64, learning_rate=1.5e-3, last_rate=8e-4),
            Stage(steps=800, batch=4, frames=5, crop=64, learning_rate=1e-3, last_rate=6e-4),
            Stage(steps=700, batch=1, frames=17, crop=96, learning_rate=1e-3, last_rate=5e-4),
            Stage(steps=1000, batch=4, frames=9, crop=64, learning_rate=8e-4, last_rate=6e-5),
            Stage(
                steps=600,
                batch=1,
                frames=17,
                crop=96,
                learning_rate=2e-4,
                last_rate=1e-5,
                decoder_only=True,
            ),
        ),
        muon=True,
    ),
}


class ConvMuon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for convolutions, each seen as one matrix of outputs by everything else.

    The step is the momentum with all its singular values brought near 1. The Newton-Schulz iteration runs on
    the small square Gram matrix and touches the long one only twice: a third of the time on one CPU core.
    """

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:  # layers in time, while single frames are trained
                    continue
                past = self.state[weight].setdefault("past", torch.zeros_like(weight))
                past.lerp_(weight.grad, 1 - group["momentum"])
                matrix = weight.grad.lerp(past, group["momentum"]).flatten(1)
                step = _orthogonal(matrix) * max(matrix.shape) ** 0.5 * 0.4  # twice as large as AdamW's
                weight.mul_(1 - 0.01 * group["lr"]).sub_(step.view_as(weight), alpha=group["lr"])


def _orthogonal(matrix: Tensor) -> Tensor:
    tall = matrix.shape[0] > matrix.shape[1]
    wide = (matrix.T if tall else matrix) / (matrix.norm() + 1e-7)
    gram = wide @ wide.T
    product = one = torch.eye(len(wide))
    for _ in range(5):
        factor = 3.4445 * one - 4.775 * gram + 2.0315 * gram @ gram
        product, gram = factor @ product, factor @ gram @ factor
    return (product @ wide).T if tall else product @ wide


def make_optimizers(vae: VideoVAE, muon: bool) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or with `muon` for what is not a convolution's weight."""
    matrices = [p for p in vae.parameters() if muon and p.ndim >= 4 and p.shape[1] > 1]  # not the gammas
    chosen = {id(p) for p in matrices}
    others = [p for p in vae.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
    return [adam, ConvMuon(matrices, lr=1e-3)] if muon else [adam]


class TrainingOps:
    """`torch.nn`, with a 3-D convolution that skips the all-zero history of single-frame batches."""

    Conv2d = nn.Conv2d
    borrow = staticmethod(CastingLayers.borrow)
    single_frames = False

    class Conv3d(nn.Conv3d):
        def forward(self, x: Tensor) -> Tensor:
            if not TrainingOps.single_frames:
                return super().forward(x)
            now = F.conv2d(x[:, :, -1], self.weight[:, :, -1], self.bias, padding=self.padding[1:])
            return now.unsqueeze(2)


def start_weights(vae: VideoVAE, seed: int) -> None:
    """Variance-keeping layers, quiet residual branches, and no look into the past yet."""
    torch.manual_seed(seed)
    for name, layer in vae.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Conv3d):
            continue
        with torch.no_grad():
            fan_in = layer.in_channels * layer.kernel_size[-1] * layer.kernel_size[-2]
            layer.weight.normal_(std=fan_in**-0.5)
            layer.bias.zero_()
            if layer.weight.ndim == 5 and layer.kernel_size[0] == 3:
                layer.weight[:, :, :2] = 0.0
            if name.endswith("time_conv"):  # begin by copying the present frame
                copies = layer.out_channels // layer.in_channels
                layer.weight[:, :, -1, 0, 0] = torch.eye(layer.in_channels).repeat(copies, 1)
            elif name.endswith("residual.6"):
                layer.weight.mul_(0.3)
            elif "samples.2.resample.1" in name or "samples.3.resample.1" in name:  # beside a shortcut
                layer.weight.mul_(0.5)
            elif name.endswith("proj"):
                layer.weight.zero_()


def make_batch(stage: Stage, rng: np.random.Generator) -> Tensor:
    """(B, 3, T, crop, crop) in -1..1: consecutive frames of random scenes, cropped at random."""
    clips = []
    for _ in range(stage.batch):
        scene = random_scene(rng)
        first = int(rng.integers(0, 17 - stage.frames + 1))
        times = np.arange(first, first + stage.frames) / 16
        x, y, *_ = pose(scene, times.mean())  # crops stay near the shape: what is hard is its edges
        aim = np.array([y, x]) * 96 - stage.crop / 2 + rng.uniform(-14, 14, size=2)
        top, left = np.clip(np.round(aim), 0, 96 - stage.crop).astype(int)
        clip = np.stack([draw_frame(scene, t) for t in times])
        clips.append(clip[:, top : top + stage.crop, left : left + stage.crop])
    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3).contiguous() * 2 - 1


def loss_of(
    vae: VideoVAE, video: Tensor, generator: torch.Generator, decoder_only: bool = False
) -> tuple[Tensor, float]:
    """Reconstruction through a slightly noisy latent whose channels are kept near unit scale; and PSNR."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.set_grad_enabled(not decoder_only):
            latent = vae.encode_whole(video).float()
        noisy = latent + 0.1 * torch.randn(latent.shape, generator=generator)
        rebuilt = vae.decode_whole(noisy).float()
    error = rebuilt - video
    square = error.square().mean()
    mean = latent.mean(dim=(0, 2, 3, 4))
    spread = latent.var(dim=(0, 2, 3, 4))
    scale = mean.square().mean() + (spread - 1).square().mean()
    psnr = -10 * float(torch.log10(square.detach() / 4))
    return error.abs().mean() + 4 * square + 0.01 * scale, psnr


def train(recipe: Recipe, out: Path, seed: int = 0, hours: float = 2.0) -> None:
    """Run all stages, resuming from `out`/state.pt when there is one; stop after `hours` at the latest."""
    out.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)
    vae = make_vae(recipe.config, ops=TrainingOps)
    start_weights(vae, seed)
    average = {k: v.clone() for k, v in vae.state_dict().items()}
    optimizers = make_optimizers(vae, recipe.muon)
    state_file, done = out / "state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        vae.load_state_dict(state["vae"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        average, done = state["average"], state["done"]
    began = saved = time.time()
    ends = np.cumsum([s.steps for s in recipe.stages])
    while done < ends[-1] and time.time() - began < hours * 3600:
        index = int(np.searchsorted(ends, done, side="right"))
        stage = recipe.stages[index]
        part = (done - (ends[index] - stage.steps)) / stage.steps
        rate = stage.last_rate + (stage.learning_rate - stage.last_rate) * (1 + np.cos(np.pi * part)) / 2
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = float(rate) * min(1.0, (done + 1) / 40)
        TrainingOps.single_frames = stage.frames == 1
        if part == 0 and done:
            vae.load_state_dict(average)
        rng = np.random.default_rng((seed, done))
        generator = torch.Generator().manual_seed(done)
        loss, psnr = loss_of(vae, make_batch(stage, rng), generator, stage.decoder_only)
        vae.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        done += 1
        keep = min(0.995, done / (done + 20))
        for name, value in vae.state_dict().items():
            average[name].lerp_(value, 1 - keep)
        if done % 50 == 0:
            log.info("step %d loss %.4f psnr %.2f  %.0f s", done, loss.item(), psnr, time.time() - began)
        if time.time() - saved > 120 or done in ends:
            saved = time.time()
            state = {
                "vae": vae.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "average": average,
                "done": done,
            }
            torch.save(state, state_file)
            save_file(average, out / "vae.safetensors")
    save_file(average, out / "vae.safetensors")


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--kind", choices=list(RECIPES), default="2.1", help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hours", type=float, default=2.0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(RECIPES[args.kind], args.out, args.seed, args.hours)


if __name__ == "__main__":
    main()
