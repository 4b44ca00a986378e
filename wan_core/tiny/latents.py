"""Clips as the experts are trained on them: latents, the latents of their pictures, and captions.

    python -m wan_core.tiny.latents t2v --out runs/latents_t2v --clips 4000
    python -m wan_core.tiny.latents i2v --out runs/latents_i2v --clips 3000 --part 0 --parts 2

Draws clips of the combinations training may see and encodes them once, with a VAE that `export` has written;
several processes may share the work (--part, --parts).
"""

from __future__ import annotations

import argparse
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..checkpoints import load_module, open_checkpoint, vae_config
from ..models.latent_scale import normalize_latent
from ..models.vae import make_vae
from ..models.vae_layers import Memory
from ..models.video_vae import VideoVAE
from . import weights_dir
from .captions import action_caption, caption
from .scenes import COLOURS, Scene, draw_clip, held_out, place_anywhere, random_scene

log = logging.getLogger("wancore")
CLIPS_A_PART = 250
CAPTIONS_A_CLIP = 4
VAE_FILES = {"t2v": "wan_tiny_vae", "i2v": "wan_tiny_vae", "ti2v": "wan_tiny_vae_2_2"}
# Beside a picture: how often a clip begins where its motion cannot be guessed, how often the words say only
# what happens, and how often they name another colour and shape than the picture shows, which then wins.
ANYWHERE, ONLY_ACTION, OTHER_SUBJECT = 0.65, 0.2, 0.1


@dataclass(frozen=True)
class Latents:
    """N clips as normalised latents, float16, with CAPTIONS_A_CLIP captions each.

    The last four are there for I2V only. What a causal encoder sees before an end image is the same grey or
    the same start image as without it, so only the last latent frame has to be kept of those.
    """

    clips: Tensor  # (N, C, F, h, w)
    captions: list[str]
    start: Tensor | None = None  # (N, C, F, h, w): the first frame, then grey
    both_last: Tensor | None = None  # (N, C, h, w): last latent frame of the first frame, grey, last frame
    end_last: Tensor | None = None  # (N, C, h, w): of grey and the last frame
    grey: Tensor | None = None  # (C, F, h, w): of grey alone

    def images(self, chosen: np.ndarray, start: np.ndarray, end: np.ndarray) -> Tensor:
        """The image latents (B, C, F, h, w) of some clips of which the start and end image are given."""
        found = []
        for clip, has_start, has_end in zip(chosen, start, end, strict=True):
            latent = (self.start[clip] if has_start else self.grey).clone()
            if has_end:
                latent[:, -1] = (self.both_last if has_start else self.end_last)[clip]
            found.append(latent)
        return torch.stack(found).float()


def seen_scene(rng: np.random.Generator) -> Scene:
    """A random scene that is not held out."""
    while held_out(scene := random_scene(rng)):
        pass
    return scene


def scene_for(task: str, paint: str | None, rng: np.random.Generator) -> Scene:
    """A scene as a model of this task learns from, of the colour `paint` if there is one."""
    scene = seen_scene(rng)
    while paint is not None and held_out(scene := replace(scene, colour=paint)):
        scene = seen_scene(rng)
    return place_anywhere(scene, rng) if task != "t2v" and rng.random() < ANYWHERE else scene


def write_latents(
    task: str, paint: str | None, vae_file: Path, out: Path, part: int, parts: int, clips: int, seed: int
) -> None:
    """Encode `clips` scenes in files of CLIPS_A_PART; process `part` of `parts` takes every parts-th file.

    paint: the colour of all of them, whatever the captions say; for a LoRA that paints.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)
    checkpoint = open_checkpoint(vae_file)
    vae = load_module(make_vae(vae_config(checkpoint.header), device="meta"), checkpoint, torch.float32)
    for number in range(part, math.ceil(clips / CLIPS_A_PART), parts):
        target = out / f"latents_{number:03d}.safetensors"
        if target.exists():
            continue
        rng = np.random.default_rng((seed, 7, number))
        scenes = [scene_for(task, paint, rng) for _ in range(CLIPS_A_PART)]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            tensors = encoded(vae, scenes, with_images=task == "i2v")
        texts = [captions(task, paint, scene, rng) for scene in scenes]
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
        save_file(tensors, target, metadata={"captions": "\n".join("\t".join(t) for t in texts)})
        log.info("wrote %s", target.name)


def captions(task: str, paint: str | None, scene: Scene, rng: np.random.Generator) -> list[str]:
    """CAPTIONS_A_CLIP captions of a clip, as a model of this task is given them."""
    texts = []
    for _ in range(CAPTIONS_A_CLIP):
        draw = rng.random() if task == "i2v" else 1.0
        if draw < ONLY_ACTION:
            texts.append(action_caption(scene, rng))
        elif draw < ONLY_ACTION + OTHER_SUBJECT or paint is not None:
            texts.append(caption(_renamed(scene, rng, shape=paint is None), rng))
        else:
            texts.append(caption(scene, rng))
    return texts


def _renamed(scene: Scene, rng: np.random.Generator, shape: bool) -> Scene:
    """The scene with the colour, and where asked the shape, of some other; no combination held out."""
    while True:
        other = random_scene(rng)
        named = replace(scene, colour=other.colour, shape=other.shape if shape else scene.shape)
        if not held_out(named):
            return named


def encoded(vae: VideoVAE, scenes: list[Scene], with_images: bool) -> dict[str, Tensor]:
    """The tensors of `Latents` for some scenes. What clips have in common is encoded once."""
    found: dict[str, list[Tensor]] = {"clips": []}
    if with_images:
        found |= {"start": [], "both_last": [], "end_last": []}
        groups, grey_memory = (17 - 1) // vae.stride[0], Memory()
        grey = torch.zeros(1, 3, vae.stride[0], 96, 96)
        blank = [vae.encoder(grey[:, :, :1], grey_memory)]
        blank += [vae.encoder(grey, grey_memory) for _ in range(groups - 1)]
        blank_last = vae.encoder(grey, grey_memory.fork())
    for scene in scenes:
        video = torch.from_numpy(draw_clip(scene)).permute(3, 0, 1, 2)[None] * 2 - 1
        found["clips"].append(_finished(vae, [vae.encoder(video, None)]))
        if not with_images:
            continue
        memory = Memory()
        start = [vae.encoder(video[:, :, :1], memory)]
        start += [vae.encoder(grey, memory) for _ in range(groups - 1)]
        end = torch.cat([grey[:, :, 1:], video[:, :, -1:]], dim=2)
        found["start"].append(_finished(vae, [*start, vae.encoder(grey, memory.fork())]))
        found["both_last"].append(_finished(vae, [vae.encoder(end, memory)])[:, 0])
        found["end_last"].append(_finished(vae, [vae.encoder(end, grey_memory.fork())])[:, 0])
    tensors = {name: torch.stack(latents) for name, latents in found.items()}
    if with_images:
        tensors["grey"] = _finished(vae, [*blank, blank_last])
    return tensors


def _finished(vae: VideoVAE, features: list[Tensor]) -> Tensor:
    """(C, F, h, w) normalised latent of a clip's encoder features."""
    return normalize_latent(vae.latent_mean(torch.cat(features, dim=2)).float())[0]


def read_latents(folder: Path) -> Latents:
    """All that `write_latents` left in a folder."""
    parts: list[dict[str, Tensor]] = []
    texts: list[str] = []
    for file in sorted(folder.glob("latents_*.safetensors")):
        with safe_open(file, "pt") as opened:
            parts.append({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118 (no mapping)
            texts += [t for line in opened.metadata()["captions"].split("\n") for t in line.split("\t")]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "grey"}
    return Latents(captions=texts, grey=parts[0].get("grey"), **joined)


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("task", choices=list(VAE_FILES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=weights_dir(), help="where the exported VAE is")
    parser.add_argument("--paint", choices=list(COLOURS), help="the colour of all scenes, whatever is said")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    vae_file = args.weights / "vae" / f"{VAE_FILES[args.task]}.safetensors"
    write_latents(args.task, args.paint, vae_file, args.out, args.part, args.parts, args.clips, args.seed)


if __name__ == "__main__":
    main()
