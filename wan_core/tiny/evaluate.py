"""Held-out evaluation of wan-tiny: prompts of colour, shape and motion together that training never saw.

    python -m wan_core.tiny.evaluate
    python -m wan_core.tiny.evaluate --prompts 100 --json evaluation.json --sheet evaluation.png

Every video is made by the same pipeline as any other, and judged from its pixels by `measure`. The same is
then done with the low-noise expert alone, the high-noise expert alone, and the two swapped: a model whose
experts both matter scores clearly lower each time. Last, the VAE's reconstruction of held-out clips.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..checkpoints import load_module, vae_config
from ..models.vae import make_vae
from ..models.video_vae import to_frames
from ..pipeline import Pipeline, decode, encode_prompts, load_pipeline, sample
from ..request import Request
from ..sampling.experts import HIGH_NOISE, LOW_NOISE
from . import DEFAULTS, weights_dir
from .captions import caption
from .measure import Measured, measure, psnr
from .scenes import Scene, draw_clip, held_out, random_scene

log = logging.getLogger("wancore.tiny")
ASKED = ("colour", "shape", "motion")
# Which weights sit in the high-noise and the low-noise place.
LINE_UPS = {
    "both experts": (HIGH_NOISE, LOW_NOISE),
    "only the high-noise expert": (HIGH_NOISE, HIGH_NOISE),
    "only the low-noise expert": (LOW_NOISE, LOW_NOISE),
    "the two swapped": (LOW_NOISE, HIGH_NOISE),
}


def held_out_prompts(count: int, seed: int) -> list[tuple[Scene, str]]:
    """`count` scenes that training never saw, each with one sentence about it."""
    rng = np.random.default_rng((seed, 99))
    pairs = []
    while len(pairs) < count:
        scene = random_scene(rng)
        if held_out(scene):
            pairs.append((scene, caption(scene, rng, complete=True)))
    return pairs


def score(
    pipeline: Pipeline, prompts: list[tuple[Scene, str]], settings: dict[str, float]
) -> tuple[dict, list]:
    """The share of prompts whose colour, shape, motion, and all three came out right; and the clips."""
    variant = pipeline.variant
    contexts = encode_prompts(pipeline, [text for _, text in prompts] + [variant.negative_prompt])
    right = dict.fromkeys((*ASKED, "all three"), 0)
    clips = []
    for number, (scene, text) in enumerate(tqdm(prompts, file=sys.stderr)):
        request = Request.for_variant(variant, text, **(DEFAULTS | settings), seed=1000 + number)
        latent = sample(pipeline, request, contexts[number], contexts[-1])
        clip = torch.cat(list(decode(pipeline, latent))).mul(255).round().byte().numpy()
        seen = measure(clip)
        hits = [getattr(seen, name) == getattr(scene, name) for name in ASKED]
        for name, hit in zip(right, [*hits, all(hits)], strict=True):
            right[name] += hit
        if not all(hits):
            log.info("missed %r: %s", text, _words(seen))
        clips.append(clip)
    return {name: hits / len(prompts) for name, hits in right.items()}, clips


def reconstruction(pipeline: Pipeline, prompts: list[tuple[Scene, str]]) -> float:
    """Mean PSNR in dB of held-out clips encoded and decoded by the VAE."""
    header = pipeline.vae.header
    vae = load_module(make_vae(vae_config(header), device="meta"), pipeline.vae, torch.float32)
    figures = []
    for scene, _ in prompts:
        clip = draw_clip(scene)
        video = torch.from_numpy(clip).permute(3, 0, 1, 2)[None] * 2 - 1
        with torch.no_grad():
            rebuilt = to_frames(vae.decode(vae.encode(video)))
        figures.append(psnr(clip, rebuilt.numpy()))
    return float(np.mean(figures))


def evaluate(
    folder: Path, count: int, seed: int, line_ups: list[str], settings: dict[str, float]
) -> tuple[dict[str, object], list[np.ndarray]]:
    """All figures, by name, and the clips of the first line-up."""
    prompts = held_out_prompts(count, seed)
    pipeline = load_pipeline(folder)
    figures: dict[str, object] = {"prompts": count, "seed": seed}
    kept: list[np.ndarray] = []
    for name in line_ups:
        high, low = (pipeline.experts[part] for part in LINE_UPS[name])
        changed = dataclasses.replace(pipeline, experts={HIGH_NOISE: high, LOW_NOISE: low})
        figures[name], clips = score(changed, prompts, settings)
        kept = kept or clips
        log.info("%s: %s", name, {k: f"{v:.1%}" for k, v in figures[name].items()})
    figures["vae psnr"] = reconstruction(pipeline, prompts[:24])
    log.info("VAE reconstruction of held-out clips: %.2f dB", figures["vae psnr"])
    return figures, kept


def contact_sheet(clips: list[np.ndarray], columns: int = 4) -> Image.Image:
    """First, middle and last frame of each clip, side by side."""
    strips = [np.concatenate([c[0], c[len(c) // 2], c[-1]], axis=1) for c in clips]
    strips = strips[: len(strips) // columns * columns]
    rows = [np.concatenate(strips[n : n + columns], axis=1) for n in range(0, len(strips), columns)]
    return Image.fromarray(np.concatenate(rows, axis=0))


def _words(seen: Measured) -> str:
    return f"{seen.colour} {seen.shape} {seen.motion}"


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--prompts", type=int, default=100, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--weights", type=Path, default=weights_dir(), help="a models folder (default: built-in)"
    )
    parser.add_argument("--only", choices=list(LINE_UPS), action="append", help="some line-ups, not all four")
    parser.add_argument("--steps", type=int, default=DEFAULTS["steps"])
    parser.add_argument("--shift", type=float)
    parser.add_argument("--cfg-high", type=float)
    parser.add_argument("--cfg-low", type=float)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the clips here")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    asked = {
        "steps": args.steps,
        "shift": args.shift,
        "guidance_scale_high": args.cfg_high,
        "guidance_scale_low": args.cfg_low,
    }
    settings = {name: value for name, value in asked.items() if value is not None}
    chosen = args.only or list(LINE_UPS)
    figures, clips = evaluate(args.weights, args.prompts, args.seed, chosen, settings)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if args.sheet:
        contact_sheet(clips).save(args.sheet)


if __name__ == "__main__":
    main()
