"""A whole video of wan-tiny, prompt to mp4, and how our time divides."""

from __future__ import annotations

import argparse
import io
import time
from typing import Any

import torch

from wan_core.media.mp4 import write_mp4
from wan_core.pipeline import check_request, decode, encode_prompts, load_pipeline, sample
from wan_core.request import Request
from wan_core.tiny import DEFAULTS, weights_dir

from . import contest, machine, results
from .contest import Case, say
from .work import PROMPT


def describe(parser: argparse.ArgumentParser) -> None:
    """The suite's options."""
    contest.describe(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, print, write."""
    words = "{steps} steps, {frames} frames of {width} x {height}".format(**DEFAULTS)
    case = Case("t2v", f"wan-tiny, {words}; ours also loads its files", "film", None, {}, 0.0)
    status = contest.run_cases("end_to_end", [case], options)
    threads = options.threads or machine.cores()
    torch.set_num_threads(threads)
    row = stages()
    results.Record("end_to_end", options.results, threads).add(row)
    for fact in row["facts"]:
        say(f"  {fact['words']}: {fact['value']:.2f} s")
    return status


def stages() -> dict[str, Any]:
    """Our seconds by stage, of a second run."""
    pipeline = load_pipeline(weights_dir(), device="cpu", task="t2v")
    request = check_request(pipeline, Request.for_variant(pipeline.variant, PROMPT, **DEFAULTS))
    for _ in range(2):
        times = [time.perf_counter()]
        texts = encode_prompts(pipeline, [request.prompt, request.negative_prompt])
        times.append(time.perf_counter())
        latent = sample(pipeline, request, *texts)
        times.append(time.perf_counter())
        write_mp4(decode(pipeline, latent), io.BytesIO(), request.fps)
        times.append(time.perf_counter())
    names = ("text, two prompts", "sampling", "decode and mp4")
    facts = [
        {"words": name, "value": times[index + 1] - times[index], "unit": "s"}
        for index, name in enumerate(names)
    ]
    return {"name": "stages", "words": "the same video, ours, by stage", "facts": facts}
