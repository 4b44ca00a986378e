"""Train wan-tiny's two experts by flow matching, each on its own side of the boundary.

    python -m wan_core.tiny.train_experts latents --vae runs/vae/vae.safetensors --out runs/latents
    python -m wan_core.tiny.train_experts high_noise --data runs/latents --text runs/text --out runs/experts
    python -m wan_core.tiny.train_experts low_noise  --data runs/latents --text runs/text --out runs/experts

`latents` draws clips of the combinations training may see and encodes them once; several processes may
share the work (--part, --parts). An expert's run writes `<expert>.pt` (resumable) and `<expert>.safetensors`
(averaged weights).
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..models.transformer import TransformerConfig, WanTransformer
from ..models.umt5 import UMT5Encoder
from ..models.vae_2_1 import WanVAE
from ..text.tokenizer import Tokenizer
from ..variants.t2v_a14b import T2V_A14B
from .captions import caption
from .scenes import Scene, draw_clip, held_out, random_scene
from .train_text import padded, tiny_umt5
from .train_vae import TINY_VAE

log = logging.getLogger("wancore")
TINY_EXPERT = TransformerConfig(dim=256, ffn_dim=384, num_heads=2, num_layers=3, text_dim=64)
CLIPS_A_PART = 500
CAPTIONS_A_CLIP = 4
UNSAID = 0.12  # how often the words are dropped, so that guidance has something to lean against


@dataclass(frozen=True)
class Run:
    """How one expert is trained."""

    expert: str
    steps: int
    batch: int = 24
    matrix_rate: float = 6e-3  # of Muon, for the blocks' matrices
    other_rate: float = 2e-3  # of AdamW, for all else
    seed: int = 0


def seen_scene(rng: np.random.Generator) -> Scene:
    """A random scene that is not held out."""
    while held_out(scene := random_scene(rng)):
        pass
    return scene


def write_latents(vae_file: Path, out: Path, part: int, parts: int, clips: int, seed: int) -> None:
    """Encode `clips` scenes in files of CLIPS_A_PART; process `part` of `parts` takes every parts-th file."""
    out.mkdir(parents=True, exist_ok=True)
    vae = WanVAE(TINY_VAE)
    vae.load_state_dict(load_file(vae_file))
    for number in range(part, math.ceil(clips / CLIPS_A_PART), parts):
        target = out / f"latents_{number:03d}.safetensors"
        if target.exists():
            continue
        rng = np.random.default_rng((seed, 7, number))
        latents, texts = [], []
        for _ in range(CLIPS_A_PART):
            scene = seen_scene(rng)
            video = torch.from_numpy(draw_clip(scene)).permute(3, 0, 1, 2)[None] * 2 - 1
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                latents.append(vae.encode_whole(video)[0].half())
            texts.append([caption(scene, rng) for _ in range(CAPTIONS_A_CLIP)])
        lines = "\n".join("\t".join(t) for t in texts)
        save_file({"latents": torch.stack(latents)}, target, metadata={"captions": lines})
        log.info("wrote %s", target.name)


class Words:
    """All captions of the clips as context rows, encoded once: row 0 of the last two is "nothing said"."""

    def __init__(self, folder: Path, captions: list[str]) -> None:
        tensors = load_file(folder / "text.safetensors")
        spiece = tensors.pop("spiece_model").numpy().tobytes()
        self.tokenizer = Tokenizer.from_spiece(spiece)
        self.encoder = UMT5Encoder(tiny_umt5(len(tensors["token_embedding.weight"])))
        self.encoder.load_state_dict(tensors)
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


def read_latents(folder: Path) -> tuple[Tensor, list[str]]:
    """All latents (N, 16, 5, 12, 12) as the VAE gave them, and CAPTIONS_A_CLIP captions for each."""
    latents, captions = [], []
    for file in sorted(folder.glob("latents_*.safetensors")):
        with safe_open(file, "pt") as opened:
            latents.append(opened.get_tensor("latents"))
            captions += [t for line in opened.metadata()["captions"].split("\n") for t in line.split("\t")]
    return torch.cat(latents).float(), captions


def latent_scale(latents: Tensor) -> tuple[Tensor, Tensor]:
    """The tiny VAE's own per-channel mean and deviation, (1, 16, 1, 1, 1) each."""
    dims = (0, 2, 3, 4)
    return latents.mean(dims, keepdim=True), latents.std(dims, keepdim=True)


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


def sample_sigma(expert: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise levels on the expert's own side of the boundary (inclusive for the high-noise one)."""
    u = rng.random(count)
    boundary = T2V_A14B.boundary
    if expert == "high_noise":
        return boundary + (1 - boundary) * u
    shift, top = 3.0, boundary / (3.0 - 2.0 * boundary)  # the u whose shifted sigma is the boundary
    u = u * top
    return shift * u / (1 + (shift - 1) * u)


def train(run: Run, data: Path, text: Path, out: Path) -> None:
    """Train one expert for `run.steps`, resuming from its state file when there is one."""
    torch.set_flush_denormal(True)
    out.mkdir(parents=True, exist_ok=True)
    latents, captions = read_latents(data)
    mean, std = latent_scale(latents)
    latents = (latents - mean) / std
    words = Words(text, captions)
    net = WanTransformer(TINY_EXPERT)
    start_weights(net, run.seed)
    net.compute_dtype = torch.bfloat16
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
        loss = step_loss(net, run, latents, words, np.random.default_rng((run.seed, len(run.expert), done)))
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
            group["lr"] = rate * fall * min(1.0, (done + 1) / 100)


def make_optimizers(net: WanTransformer, run: Run) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices (a tenth less loss than AdamW in the same time), AdamW for the rest."""
    named = dict(net.named_parameters())
    matrices = [p for n, p in named.items() if n.startswith("blocks.") and p.ndim == 2]
    others = [p for p in named.values() if not any(p is m for m in matrices)]
    return [
        torch.optim.Muon(matrices, lr=run.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=run.other_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def step_loss(
    net: WanTransformer, run: Run, latents: Tensor, words: Words, rng: np.random.Generator
) -> Tensor:
    """Mean square error of the velocity on one batch."""
    chosen = rng.integers(len(latents), size=run.batch)
    said = [int(n * CAPTIONS_A_CLIP + rng.integers(CAPTIONS_A_CLIP)) for n in chosen]
    said = [-int(rng.integers(1, 3)) if rng.random() < UNSAID else n for n in said]
    context, lengths = words.batch(said)
    sigma = torch.from_numpy(sample_sigma(run.expert, run.batch, rng)).float()
    clean = latents[torch.from_numpy(chosen)]
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    level = sigma.view(-1, 1, 1, 1, 1)
    velocity = net((1 - level) * clean + level * noise, sigma * 1000, context, lengths)
    return (velocity - (noise - clean)).square().mean()


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("what", choices=["latents", "high_noise", "low_noise"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vae", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.what == "latents":
        write_latents(args.vae, args.out, args.part, args.parts, args.clips, args.seed)
    else:
        train(Run(args.what, args.steps, seed=args.seed), args.data, args.text, args.out)


if __name__ == "__main__":
    main()
