"""Held-out evaluation of wan-tiny: colour, shape and motion together that training never saw.

    python -m wan_core.tiny.evaluate
    python -m wan_core.tiny.evaluate --task i2v --prompts 100 --json i2v.json --sheet i2v.png
    python -m wan_core.tiny.evaluate --lora purple --prompts 24

Every video is made by the same pipeline as any other, and judged from its pixels by `measure`. A model that
takes pictures is given the first frame, the last, or both, of held-out clips; how near the video's own first
and last frame come to them is said in dB. With two experts the same is then done with the low-noise expert
alone, the high-noise expert alone, and the two swapped: a model whose experts both matter scores clearly
lower each time. Last, the VAE's reconstruction of held-out clips. Of the LoRA it is said how far, at several
strengths, it moves the paint from the colour that was asked for to its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..checkpoints import load_module, vae_config
from ..models.vae import make_vae
from ..models.video_vae import to_frames
from ..pipeline import (
    OnStep,
    Pipeline,
    decode,
    encode_images,
    encode_prompts,
    load_pipeline,
    sample,
    with_lora,
)
from ..request import Request
from ..sampling.experts import HIGH_NOISE, LOW_NOISE
from ..variants import TASKS
from . import DEFAULTS, weights_dir
from .captions import action_caption, caption
from .measure import Measured, measure, psnr
from .scenes import COLOURS, MOTIONS, Scene, draw_clip, draw_frame, held_out, place_anywhere, random_scene

log = logging.getLogger("wancore.tiny")
Settings = Mapping[str, float | str]  # fields of a Request
ASKED = ("colour", "shape", "motion")
# Which weights sit in the high-noise and the low-noise place.
LINE_UPS = {
    "both experts": (HIGH_NOISE, LOW_NOISE),
    "only the high-noise expert": (HIGH_NOISE, HIGH_NOISE),
    "only the low-noise expert": (LOW_NOISE, LOW_NOISE),
    "the two swapped": (LOW_NOISE, HIGH_NOISE),
}
# Of the LoRA, on the high-noise and on the low-noise expert.
STRENGTHS = ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0))


@dataclass(frozen=True)
class Case:
    """A scene to be made, the sentence that asks for it, and the pictures of it that are given."""

    scene: Scene
    text: str
    start: np.ndarray | None = None  # (96, 96, 3) in 0..1
    end: np.ndarray | None = None


def held_out_prompts(count: int, seed: int) -> list[tuple[Scene, str]]:
    """`count` scenes that training never saw, each with one sentence about it."""
    rng = np.random.default_rng((seed, 99))
    pairs = []
    while len(pairs) < count:
        scene = random_scene(rng)
        if held_out(scene):
            pairs.append((scene, caption(scene, rng, complete=True)))
    return pairs


def text_cases(count: int, seed: int) -> list[Case]:
    """Held-out scenes asked for by words alone."""
    return [Case(scene, text) for scene, text in held_out_prompts(count, seed)]


def picture_cases(count: int, seed: int, start: bool = True, end: bool = False) -> list[Case]:
    """Held-out scenes of which pictures are given, begun where the motion cannot be guessed from them."""
    rng = np.random.default_rng((seed, 98))
    cases = []
    for scene, text in held_out_prompts(count, seed):
        scene = place_anywhere(scene, rng)
        first, last = (
            draw_frame(scene, time) if given else None for time, given in ((0.0, start), (1.0, end))
        )
        cases.append(Case(scene, text, first, last))
    return cases


def direction_cases(count: int, seed: int) -> list[Case]:
    """`count` pictures of a still shape in the middle, each asked to go left, right, up and down, and no more
    said than that."""
    rng = np.random.default_rng((seed, 97))
    cases = []
    for _ in range(count):
        still = dataclasses.replace(random_scene(rng), motion="left", travel=0.0)
        picture = draw_frame(still, 0.0)
        for motion in MOTIONS[:4]:
            scene = dataclasses.replace(still, motion=motion)
            cases.append(Case(scene, action_caption(scene, rng), picture))
    return cases


def cases_of(task: str, count: int, seed: int) -> dict[str, list[Case]]:
    """What a model is asked: by kind of asking, the main one first."""
    if task == "t2v":
        return {"text": text_cases(count, seed)}
    pictured = {
        "start image": picture_cases(count, seed),
        "one picture, four directions": direction_cases(max(1, count // 4), seed),
    }
    if task == "ti2v":
        return {"text": text_cases(count, seed), **pictured}
    return {
        **pictured,
        "start and end image": picture_cases(count, seed + 1, end=True),
        "end image": picture_cases(count, seed + 2, start=False, end=True),
    }


def make(
    pipeline: Pipeline, cases: list[Case], settings: Settings, on_step: OnStep | None = None
) -> list[np.ndarray]:
    """The clip (17, 96, 96, 3) uint8 of each case."""
    variant = pipeline.variant
    contexts = encode_prompts(pipeline, [case.text for case in cases] + [variant.negative_prompt])
    clips = []
    for number, case in enumerate(tqdm(cases, file=sys.stderr)):
        pictures = {
            name: torch.from_numpy(picture)
            for name, picture in (("image", case.start), ("end_image", case.end))
            if picture is not None
        }
        changes = DEFAULTS | dict(settings) | pictures | {"seed": 1000 + number}
        request = Request.for_variant(variant, case.text, **changes).validate(variant)
        told = encode_images(pipeline, request)
        latent = sample(pipeline, request, contexts[number], contexts[-1], on_step, told)
        clips.append(torch.cat(list(decode(pipeline, latent))).mul(255).round().byte().numpy())
    return clips


def score(
    pipeline: Pipeline, cases: list[Case], settings: Settings, on_step: OnStep | None = None
) -> tuple[dict, list]:
    """The share of cases whose colour, shape, motion, and all three came out right, and how near the given
    pictures came out, mean and least, in dB; and the clips."""
    clips = make(pipeline, cases, settings, on_step)
    right = dict.fromkeys((*ASKED, "all three"), 0)
    near: dict[str, list[float]] = {"first frame": [], "last frame": []}
    for case, clip in zip(cases, clips, strict=True):
        seen = measure(clip)
        hits = [getattr(seen, name) == getattr(case.scene, name) for name in ASKED]
        for name, hit in zip(right, [*hits, all(hits)], strict=True):
            right[name] += hit
        if not all(hits):
            log.info("missed %r: %s", case.text, _words(seen))
        for name, picture, frame in (
            ("first frame", case.start, clip[0]),
            ("last frame", case.end, clip[-1]),
        ):
            if picture is not None:
                near[name].append(psnr(frame / 255.0, picture))
    figures = {name: hits / len(cases) for name, hits in right.items()}
    for name, values in near.items():
        if values:
            figures |= {f"{name} psnr": float(np.mean(values)), f"{name} psnr, least": min(values)}
    return figures, clips


def repainted(pipeline: Pipeline, cases: list[Case], colour: str) -> float:
    """How far the paint is from what was asked for (0) on the way to `colour` (1), mean over the cases."""
    aim, shares = np.asarray(COLOURS[colour]), []
    for case, clip in zip(cases, make(pipeline, cases, {}), strict=True):
        asked, paint = np.asarray(COLOURS[case.scene.colour]), measure(clip).paint
        if paint is not None:
            shares.append((paint - asked) @ (aim - asked) / np.square(aim - asked).sum())
    return float(np.mean(shares))


def evaluate_lora(folder: Path, colour: str, count: int, seed: int) -> dict[str, object]:
    """How far the LoRA repaints at each pair of strengths (high-noise, low-noise)."""
    pipeline = load_pipeline(folder, task="t2v")
    cases = [case for case in text_cases(2 * count, seed) if case.scene.colour != colour][:count]
    figures: dict[str, object] = {"prompts": count, "seed": seed}
    for high, low in STRENGTHS:
        dressed = with_lora(
            pipeline, folder / "loras" / f"wan_tiny_{colour}_high_noise.safetensors", high, low
        )
        figures[f"{high:g} / {low:g}"] = share = repainted(dressed, cases, colour)
        log.info(
            "strength %g on the high-noise expert, %g on the low-noise one: %.1f%%", high, low, 100 * share
        )
    return figures


def reconstruction(pipeline: Pipeline, scenes: list[Scene]) -> float:
    """Mean PSNR in dB of held-out clips encoded and decoded by the VAE."""
    header = pipeline.vae.header
    vae = load_module(make_vae(vae_config(header), device="meta"), pipeline.vae, torch.float32)
    figures = []
    for scene in scenes:
        clip = draw_clip(scene)
        video = torch.from_numpy(clip).permute(3, 0, 1, 2)[None] * 2 - 1
        with torch.no_grad():
            rebuilt = to_frames(vae.decode(vae.encode(video)))
        figures.append(psnr(clip, rebuilt.numpy()))
    return float(np.mean(figures))


def evaluate(
    pipeline: Pipeline, count: int, seed: int, line_ups: list[str], settings: Settings
) -> tuple[dict[str, object], list[np.ndarray]]:
    """All figures, by name, and the clips of the first kind of asking."""
    asked = cases_of(pipeline.variant.task, count, seed)
    figures: dict[str, object] = {"prompts": count, "seed": seed}
    kept: list[np.ndarray] = []

    def judge(name: str, judged: Pipeline, cases: list[Case]) -> None:
        figures[name], clips = score(judged, cases, settings)
        log.info("%s (%d): %s", name, len(cases), {k: round(v, 3) for k, v in figures[name].items()})
        kept.extend(clips if not kept else [])

    main_cases = next(iter(asked.values()))
    if len(pipeline.experts) == 2:
        for name in line_ups:
            high, low = (pipeline.experts[part] for part in LINE_UPS[name])
            experts = {HIGH_NOISE: high, LOW_NOISE: low}
            judge(name, dataclasses.replace(pipeline, experts=experts), main_cases)
        asked.pop(next(iter(asked)))  # judged above, as "both experts"
    for name, cases in asked.items():
        judge(name, pipeline, cases)
    figures["vae psnr"] = reconstruction(pipeline, [case.scene for case in main_cases[:24]])
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
    parser.add_argument("--task", choices=TASKS, default="t2v")
    parser.add_argument("--lora", help="judge wan-tiny's LoRA of this colour instead")
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
    if args.lora:
        figures, clips = evaluate_lora(args.weights, args.lora, args.prompts, args.seed), []
    else:
        pipeline = load_pipeline(args.weights, task=args.task)
        figures, clips = evaluate(pipeline, args.prompts, args.seed, args.only or list(LINE_UPS), settings)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if args.sheet and clips:
        contact_sheet(clips).save(args.sheet)


if __name__ == "__main__":
    main()
