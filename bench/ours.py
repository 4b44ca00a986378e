"""wan_core, run as its pipeline runs it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from wan_core.checkpoints import load_module, open_checkpoint, transformer_config
from wan_core.media.mp4 import write_mp4
from wan_core.models.transformer import WanTransformer
from wan_core.models.umt5 import UMT5Encoder
from wan_core.models.video_vae import VideoVAE
from wan_core.pipeline import check_request, decode, encode_prompts, load_pipeline, sample
from wan_core.request import Request
from wan_core.sampling import denoise, plan_experts
from wan_core.sampling.texts import KeepTexts
from wan_core.schedulers import make_schedule
from wan_core.speed import Speed, apply
from wan_core.tiny import DEFAULTS, weights_dir
from wan_core.variants.variant import DENSE

from .weights import empty_module
from .work import PROMPT, SHIFT, Inputs, Output, Run, Task


def version() -> str | None:
    """Of this tree."""
    project = Path(__file__).parents[1] / "pyproject.toml"
    found = re.search(r'^version = "(.+)"', project.read_text(), re.MULTILINE)
    return found.group(1) if found else None


def loader() -> Callable[[Path], Any]:
    """As the pipeline loads an expert."""

    def load(path: Path) -> Any:
        checkpoint = open_checkpoint(path)
        return load_module(WanTransformer(transformer_config(checkpoint.header), device="meta"), checkpoint)

    return load


def _network(task: Task) -> torch.nn.Module:
    assert task.config is not None
    assert task.weights is not None
    network = empty_module(task.config, "cpu").eval().requires_grad_(False)
    network.load_state_dict(load_file(task.weights))
    return network


def _predict(task: Task) -> Run:
    network = _expert(task)

    def run(inputs: Inputs) -> Output:
        with torch.no_grad():
            return network(inputs["latent"], inputs["timestep"], inputs["context"])

    return run


def _predict_guided(task: Task) -> Run:
    network = _expert(task)

    def run(inputs: Inputs) -> Output:
        with torch.no_grad():
            given = inputs["latent"], inputs["timestep"]
            positive = network(*given, inputs["context"])
            negative = network(*given, inputs["negative"])
            return torch.lerp(negative, positive, inputs["guidance"])

    return run


def _expert(task: Task) -> KeepTexts:
    """A network as the loop has it for a turn: what it makes of a prompt stays from step to step."""
    network = _network(task)
    assert isinstance(network, WanTransformer)
    apply(network, Speed(), torch.device("cpu"))
    return KeepTexts(network)


def _decode(task: Task) -> Run:
    return _of_vae(task, lambda vae, inputs: vae.decode(inputs["latent"]))


def _stream(task: Task) -> Run:
    return _of_vae(task, lambda vae, inputs: vae.decode_chunks(inputs["latent"]))


def _encode(task: Task) -> Run:
    return _of_vae(task, lambda vae, inputs: vae.encode(inputs["video"]))


def _of_vae(task: Task, call: Callable[[VideoVAE, Inputs], Output]) -> Run:
    vae = _network(task)
    assert isinstance(vae, VideoVAE)

    def run(inputs: Inputs) -> Output:
        with torch.no_grad():
            result = call(vae, inputs)
            if isinstance(result, Tensor):
                return result
            return list_lazily(result)

    return run


def list_lazily(pieces: Output) -> Output:
    """The pieces one by one, each made without gradients."""
    iterator = iter(pieces)
    while True:
        with torch.no_grad():
            piece = next(iterator, None)
        if piece is None:
            return
        yield piece


def _read_prompt(task: Task) -> Run:
    encoder = _network(task)
    assert isinstance(encoder, UMT5Encoder)

    def run(inputs: Inputs) -> Output:
        with torch.no_grad():
            return encoder(inputs["ids"], inputs["mask"])

    return run


def _loop(solver: str) -> Callable[[Task], Run]:
    """Schedule, guidance and loop around a network that costs nothing."""

    def run(inputs: Inputs) -> Output:
        schedule = make_schedule(solver, len(inputs["timesteps"]), SHIFT)
        answers = {True: inputs["velocity"], False: inputs["negative"]}
        return denoise(
            inputs["noise"],
            {DENSE: lambda _latent, _timestep, positive: answers[positive]},
            True,
            False,
            inputs["guidance"].item(),
            schedule,
            plan_experts(schedule.timesteps, None),
        )

    return lambda _task: run


def _film(_task: Task) -> Run:
    """Prompt to mp4; `generate` without the file, so that the frames can be compared."""
    pipeline = load_pipeline(weights_dir(), device="cpu", task="t2v")
    request = check_request(pipeline, Request.for_variant(pipeline.variant, PROMPT, **DEFAULTS))

    def run(_inputs: Inputs) -> Output:
        texts = encode_prompts(pipeline, [request.prompt, request.negative_prompt])
        frames = list(decode(pipeline, sample(pipeline, request, *texts)))
        write_mp4(frames, io.BytesIO(), request.fps)
        return torch.cat(frames)

    return run


WORKS: dict[str, Callable[[Task], Run]] = {
    "predict": _predict,
    "predict_guided": _predict_guided,
    "decode": _decode,
    "stream": _stream,
    "encode": _encode,
    "read_prompt": _read_prompt,
    "film": _film,
    "euler": _loop("euler"),
    "unipc": _loop("unipc"),
}
