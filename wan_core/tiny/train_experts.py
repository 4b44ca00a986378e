"""Train wan-tiny's networks by flow matching, each on the noise levels it will work at.

    python -m wan_core.tiny.train_experts t2v high_noise --data runs/latents_t2v --out runs/t2v --steps 6300
    python -m wan_core.tiny.train_experts i2v low_noise --data runs/latents_i2v --out runs/i2v --steps 3000 \\
        --from wan_tiny_t2v_low_noise --rate 0.5
    python -m wan_core.tiny.train_experts ti2v dense --data runs/latents_ti2v --out runs/ti2v --steps 6000

--data is a folder that `latents` has written. A run writes `<expert>.pt` (resumable) and
`<expert>.safetensors` (averaged weights). --from begins with another network's weights, as far as they fit:
channels that one does not know start at zero.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoints import load_module, open_checkpoint, umt5_config
from ..models.transformer import TransformerConfig, WanTransformer
from ..models.umt5 import UMT5Encoder
from ..text.tokenizer import Tokenizer
from ..variants import T2V_A14B, TASKS, Conditioning, Variant, variant_for_task
from ..variants.i2v_a14b import i2v_channels
from ..variants.variant import DENSE, HIGH_NOISE, LOW_NOISE
from . import weights_dir
from .latents import CAPTIONS_A_CLIP, Latents, read_latents
from .train_text import padded

log = logging.getLogger("wancore")
TINY_EXPERT = TransformerConfig(dim=256, ffn_dim=384, num_heads=2, num_layers=3, text_dim=64)
UNSAID = 0.12  # how often the words are dropped, so that guidance has something to lean against
# How often an I2V clip comes with its first frame only, with its last only; else with both.
START_ONLY, END_ONLY = 0.45, 0.17
DRIFT = 0.15  # the largest part of another clip
WITH_IMAGE = 0.5  # how often a TI2V clip comes with its first frame


@dataclass(frozen=True)
class Run:
    """How one network is trained."""

    variant: Variant
    expert: str
    steps: int
    batch: int = 24
    rate: float = 1.0  # of the two below
    matrix_rate: float = 6e-3  # of Muon, for the blocks' matrices
    other_rate: float = 2e-3  # of AdamW, for all else
    image_weight: float = (
        3.0  # of I2V's error in latent frames with a given picture: it must come out as given
    )
    seed: int = 0

    @property
    def config(self) -> TransformerConfig:
        variant = self.variant
        return replace(TINY_EXPERT, in_channels=variant.in_channels, out_channels=variant.out_channels)


class Words:
    """All captions of the clips as context rows, encoded once: the last two rows say nothing."""

    def __init__(self, weights: Path, captions: list[str]) -> None:
        checkpoint = open_checkpoint(weights / "text_encoders" / "wan_tiny_umt5.safetensors")
        self.tokenizer = Tokenizer.from_spiece(checkpoint.spiece_model())
        config = umt5_config(checkpoint.header)
        self.encoder = load_module(UMT5Encoder(config, device="meta"), checkpoint, torch.float32)
        self.rows: list[Tensor] = []
        texts = [*captions, "", T2V_A14B.negative_prompt]
        for start in range(0, len(texts), 256):
            self._encode(texts[start : start + 256])
        self.longest = max(map(len, self.rows))  # one shape for all batches: the blocks are compiled

    def _encode(self, texts: list[str]) -> None:
        ids = [self.tokenizer.encode(t) for t in texts]
        with torch.no_grad():
            rows = self.encoder(*padded(ids))
        self.rows += [row[: len(i)].half() for row, i in zip(rows, ids, strict=True)]

    def batch(self, which: list[int]) -> tuple[Tensor, Tensor]:
        """Context (B, L, 64) and its lengths (B,); negative numbers count from the end."""
        rows = [self.rows[n] for n in which]
        lengths = torch.tensor([len(r) for r in rows])
        context = torch.zeros(len(rows), self.longest, rows[0].shape[1])
        for place, row in zip(context, rows, strict=True):
            place[: len(row)] = row
        return context, lengths


def start_weights(net: WanTransformer, seed: int) -> None:
    """Released way of starting: Xavier linears, a quiet time embedding, a silent head."""
    torch.manual_seed(seed)
    for name, parameter in net.named_parameters():
        if parameter.ndim == 2 and "modulation" not in name:
            nn.init.xavier_uniform_(parameter)
        elif name.endswith("modulation"):
            nn.init.normal_(parameter, std=net.config.dim**-0.5)
    nn.init.xavier_uniform_(net.patch_embedding.weight.flatten(1))
    for layer in (net.time_embedding[0], net.time_embedding[2], net.text_embedding[0], net.text_embedding[2]):
        nn.init.normal_(layer.weight, std=0.04)
    nn.init.zeros_(net.head.head.weight)
    nn.init.zeros_(net.head.head.bias)


def begin_with(net: WanTransformer, file: Path) -> None:
    """Copy another network's weights. A patch embedding of fewer channels is widened by silent ones; a head
    and a patch embedding for other latents stay as they start."""
    checkpoint, own = open_checkpoint(file), net.state_dict()
    for name in checkpoint.header:
        given, mine = checkpoint.tensor(name).float(), own[name]
        if given.shape == mine.shape:
            mine.copy_(given)
        elif name == "patch_embedding.weight" and net.config.out_channels == given.shape[1]:
            mine.zero_()[:, : given.shape[1]] = given


def sample_sigma(run: Run, rng: np.random.Generator) -> Tensor:
    """(B,) noise levels where the network works (the boundary is the high-noise expert's), spread evenly:
    no two are equal, and so the number of distinct timesteps is always the same."""
    u = (rng.permutation(run.batch) + rng.random(run.batch)) / run.batch
    if run.expert == HIGH_NOISE:
        return torch.from_numpy(run.variant.boundary + (1 - run.variant.boundary) * u).float()
    # By the shift that will be sampled with; below a boundary by less, for details are made there.
    shift, top = run.variant.shift, 1.0
    if run.expert == LOW_NOISE:
        shift = 3.0
        top = run.variant.boundary / (shift - (shift - 1.0) * run.variant.boundary)
    u = u * top
    return torch.from_numpy(shift * u / (1 + (shift - 1) * u)).float()


def conditioning(
    run: Run, data: Latents, chosen: np.ndarray, rng: np.random.Generator
) -> tuple[Conditioning, Tensor]:
    """What the network is told besides the text, at random, and how much each latent frame's error counts
    (B, 1, F, 1, 1)."""
    count, frames = len(chosen), data.clips.shape[2]
    weight = torch.ones(count, 1, frames, 1, 1)
    draw = rng.random(count)
    if run.variant.task == "i2v":
        start, end = draw >= END_ONLY, (draw < END_ONLY) | (draw >= END_ONLY + START_ONLY)
        images = data.images(chosen, start, end)
        channels = [
            i2v_channels(image[None], bool(s), bool(e))
            for image, s, e in zip(images, start, end, strict=True)
        ]
        weight[torch.from_numpy(start), :, 0] = run.image_weight
        weight[torch.from_numpy(end), :, -1] = run.image_weight
        return Conditioning(channels=torch.cat(channels)), weight
    if run.variant.task == "ti2v":
        weight[torch.from_numpy(draw < WITH_IMAGE), :, 0] = 0.0
        clean = data.clips[torch.from_numpy(chosen), :, :1].float()
        return Conditioning(clean_latent=clean, denoise_mask=weight), weight
    return Conditioning(), weight


def step_loss(net: WanTransformer, run: Run, data: Latents, words: Words, rng: np.random.Generator) -> Tensor:
    """Weighted mean square error of the velocity on one batch."""
    chosen = rng.integers(len(data.clips), size=run.batch)
    said = [int(n * CAPTIONS_A_CLIP + rng.integers(CAPTIONS_A_CLIP)) for n in chosen]
    said = [-int(rng.integers(1, 3)) if rng.random() < UNSAID else n for n in said]
    context, lengths = words.batch(said)
    sigma = sample_sigma(run, rng)
    clean = data.clips[torch.from_numpy(chosen)].float()
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    level = sigma.view(-1, 1, 1, 1, 1)
    told, weight = conditioning(run, data, chosen, rng)
    start = clean
    if told.channels is not None and run.expert == LOW_NOISE:
        start = clean + (weight > 1) * drift(clean, level, rng)
    noisy = told.keep_clean((1 - level) * start + level * noise)
    timesteps = sigma * 1000
    if told.denoise_mask is not None:
        mask = told.denoise_mask.expand(-1, 1, *clean.shape[2:])[:, 0, :, ::2, ::2]
        timesteps = (mask * timesteps.view(-1, 1, 1, 1)).flatten(1)
    velocity = net(told.model_input(noisy), timesteps, context, lengths)
    back = (1 - level) / level * (start - clean)  # also undo the drift: to the clean latent from where it is
    error = (velocity - (noise - clean + back)).square() * weight
    return error.mean() / weight.mean()


def drift(clean: Tensor, level: Tensor, rng: np.random.Generator) -> Tensor:
    """What earlier steps may have got wrong: a little of another clip.

    Without it a network that is given a frame trusts the half-done latent more than the picture, and keeps
    the errors it made above: twice those of a latent that comes straight from a clip.
    """
    part = torch.from_numpy(rng.random(len(clean))).float().view(-1, 1, 1, 1, 1)
    return DRIFT * part * (level / 0.2).clamp(max=1.0) * (clean.roll(1, dims=0) - clean)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention of a few tokens: torch's own CPU kernel takes twice as long, most of it going backward."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    scores = scores if bias is None else scores + bias
    return scores.softmax(-1) @ v


def train(run: Run, data_folder: Path, weights: Path, out: Path, begin: Path | None) -> None:
    """Train one network for `run.steps`, resuming from its state file when there is one."""
    torch.set_flush_denormal(True)
    out.mkdir(parents=True, exist_ok=True)
    data = read_latents(data_folder)
    words = Words(weights, data.captions)
    net = WanTransformer(run.config)
    start_weights(net, run.seed)
    if begin is not None:
        begin_with(net, begin)
    net.compute_dtype = torch.bfloat16
    net.attention = plain_attention
    for block in net.blocks:
        block.compile(dynamic=False)
    average = {k: v.clone() for k, v in net.state_dict().items()}
    optimizers = make_optimizers(net, run)
    state_file = out / f"{run.expert}.pt"
    done = resume(state_file, net, average, optimizers)
    began = saved = time.time()
    recent: list[float] = []
    while done < run.steps:
        set_rates(optimizers, run, done)
        loss = step_loss(net, run, data, words, np.random.default_rng((run.seed, len(run.expert), done)))
        net.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        done += 1
        keep = min(0.998, done / (done + 20))
        for name, value in net.state_dict().items():
            average[name].lerp_(value, 1 - keep)
        recent.append(loss.item())
        if done % 100 == 0:
            log.info("%s step %d loss %.4f  %.0f s", run.expert, done, np.mean(recent), time.time() - began)
            recent.clear()
        if time.time() - saved > 120 or done == run.steps:
            saved = time.time()
            state = {"net": net.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
            torch.save(state | {"average": average, "done": done}, state_file)
            save_file(average, out / f"{run.expert}.safetensors")


def resume(
    state_file: Path, net: WanTransformer, average: dict[str, Tensor], optimizers: list[torch.optim.Optimizer]
) -> int:
    """Take up what an earlier run left, where there is one; returns the steps already done."""
    if not state_file.exists():
        return 0
    state = torch.load(state_file, weights_only=True)
    net.load_state_dict(state["net"])
    average.update(state["average"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["done"]


def set_rates(optimizers: list[torch.optim.Optimizer], run: Run, done: int) -> None:
    """A hundred steps of warm-up, then down a cosine to a hundredth."""
    fall = 0.01 + 0.99 * (1 + math.cos(math.pi * done / run.steps)) / 2
    for optimizer, rate in zip(optimizers, (run.matrix_rate, run.other_rate), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = run.rate * rate * fall * min(1.0, (done + 1) / 100)


def make_optimizers(net: WanTransformer, run: Run) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices (a tenth less loss than AdamW in the same time), AdamW for the rest."""
    named = dict(net.named_parameters())
    matrices = [p for n, p in named.items() if n.startswith("blocks.") and p.ndim == 2]
    others = [p for p in named.values() if not any(p is m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=run.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=run.other_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("expert", choices=[HIGH_NOISE, LOW_NOISE, DENSE])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=weights_dir(), help="where the exported parts are")
    parser.add_argument("--from", dest="begin", help="name of a network in --weights to begin with")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=1.0, help="a factor of the learning rates")
    parser.add_argument("--image-weight", type=float, default=Run.image_weight)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    variant = variant_for_task(args.task)
    if args.expert not in variant.experts:
        parser.error(f"{variant.title} has {' and '.join(variant.experts)}")
    run = Run(
        variant,
        args.expert,
        args.steps,
        args.batch,
        args.rate,
        image_weight=args.image_weight,
        seed=args.seed,
    )
    begin = args.begin and args.weights / "diffusion_models" / f"{args.begin}.safetensors"
    train(run, args.data, args.weights, args.out, begin)


if __name__ == "__main__":
    main()
