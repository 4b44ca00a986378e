"""START HERE. A sentence becomes an mp4:

    pipeline = load_pipeline("models")                     # reads headers, loads nothing yet
    request = Request.for_variant(pipeline.variant, "a red circle moves to the right")
    generate(pipeline, request, "circle.mp4")

`generate` is the whole walk: prompt to context (text/, models/umt5.py), noise to latent (sampling/,
schedulers/, models/transformer.py), latent to frames (models/vae_2_1.py), frames to a file (media/). A
network is in memory only while its part lasts, and of the two experts only the one whose turn it is.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from .checkpoints import (
    Checkpoint,
    Inspection,
    check_pair,
    check_text_encoder,
    load_module,
    look_into,
    tokenizer_of,
    transformer_config,
    umt5_config,
    usable,
    vae_config,
)
from .checkpoints.header import shown
from .checkpoints.layouts import TRANSFORMER, UMT5
from .checkpoints.loras import Lora, load_lora, lora_partner
from .checkpoints.mapping import ReadAhead
from .checkpoints.shards import find_parts
from .errors import WanError
from .lora import Change, change_bytes, with_changes
from .media.mp4 import write_mp4
from .memory import Residence, Streamer, give_back
from .models.latent_scale import denormalize_latent, normalize_latent
from .models.transformer import WanTransformer
from .models.umt5 import UMT5Encoder
from .models.vae import make_vae
from .models.vae_tiles import Tile, decode_tiled
from .models.video_vae import VideoVAE, to_frames
from .placement import (
    Budget,
    Need,
    budget,
    decode_need,
    decode_tiles,
    describe,
    encode_caches,
    encode_need,
    expert_need,
    read_ahead_limit,
    text_need,
)
from .request import Request
from .sampling import KeepTexts, StepInfo, denoise, looking_ahead, make_noise, plan_experts
from .sampling.plan import Plan, taken_step
from .schedulers import make_schedule
from .speed import Speed, apply
from .text.cleaning import clean_prompt
from .text.tokenizer import MAX_TOKENS, Tokenizer
from .variants import Conditioning, Variant, variant_for_task
from .variants.variant import DENSE, HIGH_NOISE, LOW_NOISE

log = logging.getLogger("wancore")

# Where the parts of a model lie: side by side, as in ComfyUI's models folder, as released, as in diffusers.
SUBFOLDERS = (
    *("", "diffusion_models", "unet", "text_encoders", "clip", "vae"),
    *("high_noise_model", "low_noise_model"),
    *("transformer", "transformer_2", "text_encoder"),
)
WEIGHTS = (".safetensors", ".gguf", ".pth")
# Which task is meant when several models lie in a folder: the first there of these.
WITH_IMAGE, TEXT_ONLY = ("i2v", "ti2v", "t2v"), ("t2v", "ti2v", "i2v")
EXPERT_NAMES = {HIGH_NOISE: "high-noise expert", LOW_NOISE: "low-noise expert", DENSE: "transformer"}

Module = TypeVar("Module", bound=nn.Module)
OnStep = Callable[[StepInfo], None]
OnFrames = Callable[[int, int], None]  # frames written, frames in all


# --- load -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pipeline:
    """The files of one model, opened but not read, and where its networks will compute."""

    variant: Variant
    experts: Mapping[str, Checkpoint]  # by expert name: "high_noise" and "low_noise", or "dense" alone
    text_encoder: Checkpoint
    vae: Checkpoint
    tokenizer: Tokenizer
    device: torch.device
    dtype: torch.dtype  # what the transformers compute in; text encoder and VAE: float32
    loras: tuple[Lora, ...] = ()
    speed: Speed = dataclasses.field(default_factory=Speed)
    vram: int | None = None  # bytes that may be used on the device; None: what is free on it


def load_pipeline(
    folder: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    task: str | None = None,
    with_image: bool = False,
    vram: int | None = None,
) -> Pipeline:
    """Find the parts of a model in a folder, by what their headers say; the experts by their names.

    folder: ComfyUI's models folder, all files side by side, a released folder (high_noise_model/ and so on),
    or a diffusers one (transformer/, transformer_2/ and so on). task: "t2v", "i2v" or "ti2v"; left out, the
    only one there, else t2v, or i2v when there will be a picture (`with_image`).
    By default it computes in bfloat16 on the GPU, or where there is none in float32 on the CPU. vram: bytes
    that may be used there, 8 * 10**9 for a card of 8 GB; what does not fit is streamed block by block, with
    the same numbers as the outcome. Left out, all that is free may be used. A WanError names the part that is
    missing, there twice, damaged, or of another model.
    """
    looked_into = {file: look_into(file) for file in _models_in(Path(folder))}
    found = [inspection for inspection, _ in looked_into.values()]
    variant = variant_for_task(task or _task(found, with_image))

    def part(name: str, family: str, **wanted: str) -> Checkpoint:
        file = _only(found, Path(folder), variant, name, {"family": family, **wanted})
        return usable(looked_into[file][1])

    experts = {
        expert: part(EXPERT_NAMES[expert], TRANSFORMER, task=variant.task, expert=expert)
        for expert in variant.experts
    }
    text_encoder = part("text encoder", UMT5)
    vae = part("VAE", variant.vae_family)
    if variant.boundary is not None:
        check_pair(experts[HIGH_NOISE], experts[LOW_NOISE])
    check_text_encoder(text_encoder, experts[variant.experts[0]])
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return Pipeline(
        variant=variant,
        experts=experts,
        text_encoder=text_encoder,
        vae=vae,
        tokenizer=tokenizer_of(text_encoder),
        device=device,
        dtype=dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16),
        vram=vram,
    )


def with_lora(
    pipeline: Pipeline, path: str | Path, strength_high: float = 1.0, strength_low: float | None = None
) -> Pipeline:
    """The same pipeline wearing one more LoRA; the weights stay as they are, so this costs next to nothing.

    A file for one expert brings its partner, found by name, for the other. strength_low: None means as
    strength_high; a model of one network goes by strength_high. `pipeline.loras[-1].coverage` tells what was
    applied. Raises WanError for a bad file and for one of which nothing fits.
    """
    path = Path(path)
    low = strength_high if strength_low is None else strength_low
    experts = pipeline.variant.experts
    strengths = dict(zip(experts, (strength_high, low), strict=False))
    config = transformer_config(pipeline.experts[experts[0]].header)
    lora = load_lora(path, config, strengths, lora_partner(path))
    return dataclasses.replace(pipeline, loras=(*pipeline.loras, lora))


# --- generate ---------------------------------------------------------------------------------------------


def generate(
    pipeline: Pipeline,
    request: Request,
    path: str | Path,
    on_step: OnStep | None = None,
    on_frames: OnFrames | None = None,
) -> Plan:
    """Make the video a request asks for and write it to `path`; the answer is the expert plan it followed.

    Everything is checked first: WanError names the field or file that is wrong before any network is loaded.
    What a callback raises ends the run, and no file is left.
    """
    path = check_output(path)
    request = check_request(pipeline, request)
    followed: Plan = {"steps": [], "switch": None}
    log.info(memory_line(pipeline, request))
    try:
        context, negative_context = encode_prompts(pipeline, [request.prompt, request.negative_prompt])
        conditioning = encode_images(pipeline, request)
        on_step = _noted(followed, on_step)
        latent = sample(pipeline, request, context, negative_context, on_step, conditioning)
        chunks = _counted(decode(pipeline, latent), request.frames, on_frames)
        write_mp4(chunks, path, request.fps, {"wancore": _provenance(pipeline, request, followed)})
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        width, height = request.size(pipeline.variant)
        raise WanError(
            f"out of memory on {pipeline.device} with {request.frames} frames of {width} x {height}; "
            "choose fewer frames or a smaller size"
        ) from error
    return followed


def memory_line(pipeline: Pipeline, request: Request) -> str:
    """What the run needs in memory, what there is, and what was chosen; WanError when it cannot fit."""
    limit = _budget(pipeline)
    shape = request.latent_shape(pipeline.variant)
    experts = [_expert_need(pipeline, name, shape) for name in pipeline.variant.experts]
    text = text_need(pipeline.text_encoder, pipeline.device)
    width, height = request.size(pipeline.variant)
    encoded, decoded = (pipeline.vae, height, width), (pipeline.vae, *shape[-2:])
    encodes = request.image is not None or request.end_image is not None
    lean = [encode_need(*encoded, lean=True)] if encodes else []
    limit.check([*experts, text, *lean, decode_need(*decoded, lean=True)])
    pictures: list[tuple[Need, str | None]] = []
    if encodes:
        caches = encode_caches(limit, *encoded)
        pictures.append((encode_need(*encoded), None if caches is None else "whole frames"))
    pictures.append((decode_need(*decoded), _in_tiles(decode_tiles(limit, *decoded))))
    return describe(limit, experts, text, pictures)


def encode_prompts(pipeline: Pipeline, prompts: list[str]) -> list[Tensor]:
    """The context of each prompt, (1, L, D) with L its real tokens, on the pipeline's device."""
    checkpoint = pipeline.text_encoder
    residence = _budget(pipeline).residence(text_need(checkpoint, pipeline.device))
    encoder = UMT5Encoder(umt5_config(checkpoint.header), device="meta")
    encoder = _load_mapped(pipeline, encoder, checkpoint)
    contexts = []
    with placed(encoder, residence, pipeline.device, on_host=(encoder.token_embedding,)):
        for prompt in prompts:  # one by one, so that no prompt's numbers depend on another's length
            ids, mask = (table.to(pipeline.device) for table in pipeline.tokenizer([prompt]))  # (1, 512)
            with torch.no_grad():
                contexts.append(encoder(ids, mask)[:, : int(mask.sum())])
    return contexts


def encode_images(pipeline: Pipeline, request: Request) -> Conditioning:
    """What the pictures of a request tell the networks; empty without any."""
    start, end = request.images(pipeline.variant)
    variant = pipeline.variant
    variant.check_images(start is not None, end is not None, request.frames)
    if variant.prepare is None or (start is None and end is None):
        return Conditioning()
    width, height = request.size(variant)
    caches = encode_caches(_budget(pipeline), pipeline.vae, height, width)
    vae = _load_vae(pipeline)

    def encode(chunks: Iterable[Tensor]) -> Tensor:
        moved = (chunk.to(pipeline.device) for chunk in chunks)
        with torch.no_grad():
            return normalize_latent(vae.encode_chunks(moved, caches))

    return variant.prepare(start, end, request.frames, height, width, encode)


def sample(
    pipeline: Pipeline,
    request: Request,
    context: Tensor,
    negative_context: Tensor,
    on_step: OnStep | None = None,
    conditioning: Conditioning | None = None,
) -> Tensor:
    """The raw latent (1, 16 or 48, F, h, w) of a request, as the VAE decodes it."""
    schedule = make_schedule(request.scheduler, request.steps, request.shift)
    planned = plan_experts(schedule.timesteps, request.boundary)
    shape = request.latent_shape(pipeline.variant)
    noise = make_noise(shape, request.seed).to(pipeline.device)
    with OneAtATime(pipeline, shape) as experts:
        latent = denoise(
            noise,
            experts,
            context,
            negative_context,
            request.guidance_scale,
            schedule,
            planned,
            looking_ahead(planned, experts.expect, on_step),
            conditioning,
            *request.shortcuts,
        )
    return denormalize_latent(latent)


def decode(pipeline: Pipeline, latent: Tensor) -> Iterator[Tensor]:
    """Frames of a raw latent, a chunk at a time: (1, H, W, 3), then (4, H, W, 3) each, 0..1."""
    tiles = decode_tiles(_budget(pipeline), pipeline.vae, *latent.shape[-2:])
    vae = _load_vae(pipeline)
    with torch.no_grad():
        latent = latent.to(pipeline.device, torch.float32)
        chunks = vae.decode_chunks(latent) if tiles is None else decode_tiled(vae, latent, tiles, "cpu")
        for video in chunks:  # (1, 3, 1 or 4, H, W) in -1..1
            yield to_frames(video)


class OneAtATime:
    """The experts as the loop asks for them: each is loaded when its turn comes, and the last one let go.

    latent_shape: (C, F, h, w), which decides how much room the weights have. Leaving the context lets all go.
    """

    def __init__(self, pipeline: Pipeline, latent_shape: tuple[int, int, int, int]) -> None:
        self._pipeline = pipeline
        self._latent_shape = latent_shape
        self._network: Callable[..., Tensor] | None = None
        self._placed = ExitStack()
        self._ahead: dict[str, ReadAhead] = {}
        self._in_use = 0  # bytes of the expert's file that its steps read

    def __enter__(self) -> OneAtATime:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()
        for ahead in self._ahead.values():
            ahead.stop()
        self._ahead.clear()

    def at(self, name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Bring in an expert by name. The answer holds no network itself, so the loop keeps no old one."""
        self._let_go()
        pipeline, checkpoint = self._pipeline, self._pipeline.experts[name]
        residence = _budget(pipeline).residence(_expert_need(pipeline, name, self._latent_shape))
        ahead = self._ahead.pop(name, None)
        network = WanTransformer(transformer_config(checkpoint.header), device="meta")
        network.compute_dtype = pipeline.dtype
        network = _load_mapped(pipeline, network, checkpoint, ahead)
        if ahead is not None:
            self._placed.callback(ahead.stop)  # it may still be reading; then it keeps ahead of the loop
        dtype = checkpoint.rounding(pipeline.dtype)
        self._placed.enter_context(placed(network, residence, pipeline.device, dtype))
        from_file = pipeline.device.type == "cpu" or residence.streamed
        self._in_use = checkpoint.size if from_file else 0
        apply(network, pipeline.speed, pipeline.device)
        self._network = KeepTexts(with_changes(network, _changes(pipeline, name), pipeline.device))
        return self._velocity

    def expect(self, name: str) -> None:
        """Begin to read an expert's file, whose turn will come soon."""
        self._ahead[name] = self._pipeline.experts[name].read_ahead(read_ahead_limit(self._in_use))

    def _velocity(self, latent: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        return self._network(latent, timestep, context)

    def _let_go(self) -> None:
        self._network = None
        self._placed.close()


# --- checks -----------------------------------------------------------------------------------------------


def check_request(pipeline: Pipeline, request: Request) -> Request:
    """The request as it will be made: pictures opened, negative prompt settled. Raises WanError.

    An empty negative prompt stands for the released one, as in the released code.
    """
    request = request.validate(pipeline.variant)
    if not clean_prompt(request.negative_prompt):
        request = dataclasses.replace(request, negative_prompt=pipeline.variant.negative_prompt)
    for field, text in (("prompt", request.prompt), ("negative prompt", request.negative_prompt)):
        if (count := pipeline.tokenizer.count(text)) > MAX_TOKENS:
            raise WanError(f"{field}: {count} tokens, and the model reads at most {MAX_TOKENS}; shorten it")
    return request


def check_output(path: str | Path) -> Path:
    """The path as a Path if an mp4 can be written there. Raises WanError."""
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise WanError(
            f"out: {path} does not end in .mp4, and mp4 is what is written; call it {path.stem}.mp4"
        )
    try:
        if path.is_dir():
            raise WanError(f"out: {path} is a folder; name a file in it")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise WanError(f"out: nothing can be written into {folder}; choose another folder")
    except OSError as error:
        raise WanError(f"out: {shown(str(path))}: {error.strerror}; choose another name") from error
    return path


# --- helpers ----------------------------------------------------------------------------------------------


def _models_in(folder: Path) -> list[Path]:
    """A file of each model in a folder, shards taken together; those of no Wan model are among them."""
    if not folder.is_dir():
        raise WanError(f"model: there is no folder {folder}; give one that holds the model's files")
    places = [folder / name for name in SUBFOLDERS if (folder / name).is_dir()]
    # ComfyUI looks into the folders of its folders too; beside the parts lies whatever it may.
    inside = [sorted(place.iterdir() if place == folder else place.rglob("*")) for place in places]
    files = [file for items in inside for file in items if file.suffix.lower() in WEIGHTS]
    return list({_parts(file): file for file in reversed(files)}.values())


def _parts(file: Path) -> tuple[Path, ...]:
    """The files of the model that a file is part of; only itself when some are missing."""
    try:
        return find_parts(file).files
    except (WanError, OSError):  # `inspect` will say what is wrong
        return (file,)


def _task(found: list[Inspection], with_image: bool) -> str:
    """The task that is meant: the first in order of preference that is there, whole rather than in part."""
    order = WITH_IMAGE if with_image else TEXT_ONLY
    there = {(one.task, one.expert) for one in found}
    whole = [task for task in order if all((task, name) in there for name in variant_for_task(task).experts)]
    partly = [task for task in order if any(one.task == task for one in found)]
    return next(iter(whole + partly), order[0])


def _only(
    found: list[Inspection], folder: Path, variant: Variant, part: str, wanted: Mapping[str, str]
) -> Path:
    """The one file that is this part of the model: the one whose inspection says all that is wanted."""
    fitting = [one.file for one in found if all(getattr(one, key) == value for key, value in wanted.items())]
    if len(fitting) == 1:
        return Path(fitting[0])
    if fitting:
        names = " and ".join(Path(file).name for file in fitting[:3])
        raise WanError(
            f"{folder}: {len(fitting)} files could be the {part} ({names}); leave one in the folder"
        )
    unsaid = "expert" in wanted and any(one.task == wanted["task"] and one.expert is None for one in found)
    hint = "; the experts are told apart by high_noise or low_noise in their files' names" if unsaid else ""
    seen = ", ".join(f"{Path(one.file).name}: {one.words}" for one in found[:6]) or "none at all"
    damaged = next((f"; {one.problems[0]}" for one in found if one.problems), "")
    raise WanError(f"{folder}: no {part} of {variant.title} among its files ({seen}){hint}{damaged}")


def _budget(pipeline: Pipeline) -> Budget:
    return budget(pipeline.device, pipeline.vram)


def _in_tiles(tiles: Sequence[Tile] | None) -> str | None:
    """What frames are decoded in where they do not fit; None where they do."""
    if tiles is None:
        return None
    return f"{len(tiles)} tiles" if len(tiles) > 1 else "whole frames"


def _changes(pipeline: Pipeline, expert: str) -> list[Change]:
    return [change for lora in pipeline.loras for change in lora.changes[expert]]


def _expert_need(pipeline: Pipeline, expert: str, latent_shape: tuple[int, int, int, int]) -> Need:
    worn = change_bytes(_changes(pipeline, expert))
    return expert_need(
        pipeline.experts[expert], latent_shape, pipeline.dtype, pipeline.speed, pipeline.device, worn
    )


@contextmanager
def placed(
    network: WanTransformer | UMT5Encoder,
    residence: Residence,
    device: torch.device,
    dtype: torch.dtype | None = None,
    on_host: Sequence[nn.Module] = (),
) -> Iterator[None]:
    """While the context lasts, a network that was loaded on the host computes on the device."""
    streamer = Streamer(network, network.blocks, residence.streamed, device, dtype, on_host)
    try:
        yield
    finally:
        streamer.close()


def _load_vae(pipeline: Pipeline) -> VideoVAE:
    _announce(pipeline, pipeline.vae)
    vae = make_vae(vae_config(pipeline.vae.header), device="meta")
    return load_module(vae, pipeline.vae, torch.float32, pipeline.device)


def _load_mapped(
    pipeline: Pipeline, module: Module, checkpoint: Checkpoint, ahead: ReadAhead | None = None
) -> Module:
    """A module built on meta with its weights as stored, in the pages of its file."""
    _announce(pipeline, checkpoint)
    return load_module(module, checkpoint, None, None, None if ahead is None else ahead.tensors)


def _announce(pipeline: Pipeline, checkpoint: Checkpoint) -> None:
    """A network is about to be loaded, and the last one is gone."""
    give_back(pipeline.device)
    log.info("loading %s", checkpoint.file)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. On the CPU torch says so in words only."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "t allocate memory" in str(error)


def _noted(followed: Plan, on_step: OnStep | None) -> OnStep:
    """`on_step` that also notes down what each step was."""

    def note(info: StepInfo) -> None:
        if info.expert == LOW_NOISE and followed["switch"] is None:
            followed["switch"] = info.index
        followed["steps"].append(taken_step(info))
        if on_step is not None:
            on_step(info)

    return note


def _counted(chunks: Iterator[Tensor], total: int, on_frames: OnFrames | None) -> Iterator[Tensor]:
    done = 0
    for frames in chunks:
        yield frames
        done += len(frames)
        if on_frames is not None:
            on_frames(done, total)


def _provenance(pipeline: Pipeline, request: Request, followed: Plan) -> str:
    """What made the video, as JSON. Not under "prompt" or "workflow": ComfyUI takes those for graphs."""
    settings = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    settings["width"], settings["height"] = request.size(pipeline.variant)
    for field in ("image", "end_image"):
        settings[field] = settings[field] and settings[field].name
    files = {name: checkpoint.file for name, checkpoint in pipeline.experts.items()}
    loras = [{row.expert: [row.file, row.strength] for row in lora.coverage.rows} for lora in pipeline.loras]
    if request.step_cache is not None:
        settings["reused_steps"] = [n for n, step in enumerate(followed["steps"]) if step.get("reused")]
    model = {"model": pipeline.variant.name, "experts": files, "loras": loras}
    return json.dumps({**model, "speed": pipeline.speed.changed(), **settings})
