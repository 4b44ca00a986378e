"""Step Cache and Guidance Schedule inside ComfyUI's own Python: run by test_shortcuts.py as

    <ComfyUI's python> inside_shortcuts.py <ComfyUI> <pack> <models folder>

All answers, in JSON, are the last line of stdout.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import inside_comfyui as inside  # starts ComfyUI and takes the arguments away; beside this script
import torch

hosting = importlib.import_module("pack_under_test.nodes.hosting")
pipelines = importlib.import_module("pack_under_test.wan_core.pipeline")
requests = importlib.import_module("pack_under_test.wan_core.request")
plans = importlib.import_module("pack_under_test.wan_core.sampling.plan")

SIZE = 48, 48, 5
SETTINGS = {"steps": 14, "shift": 12.0, "boundary": 0.875, "scheduler": "unipc", "seed": 1}
THRESHOLD, SKIP = 0.2, "first 2, 13"


def as_on_the_command_line() -> dict[str, Any]:
    """The nodes' latents, and the command line's with the same settings; what both say of the steps."""
    model = inside.handles.load_model(inside.HIGH, inside.LOW, None)
    text = inside.conditioning()
    cached, unguided = with_cache(model, THRESHOLD), with_guidance(model, SKIP)
    both = with_guidance(cached, SKIP)
    answer: dict[str, Any] = {"same experts": both.experts is model.experts}
    plain, _ = sample(model, text)
    for name, handle, more in (
        ("first 3", unguided, {"cfg_skip": SKIP, "cfg_steps": 3}),
        ("whole", model, {}),
        ("cached", cached, {"step_cache": THRESHOLD}),
        ("unguided", unguided, {"cfg_skip": SKIP}),
        ("both", both, {"step_cache": THRESHOLD, "cfg_skip": SKIP}),
    ):
        latent, said = sample(handle, text, more.get("cfg_steps", 0))
        theirs, summary = on_the_command_line(**more)
        answer[name] = {
            "apart": inside.distance(latent, theirs),
            "from whole": inside.distance(latent, plain),
            "said": said,
            "summary": summary,
        }
    answer["again"] = torch.equal(sample(both, text)[0], latent)
    off = with_guidance(with_cache(both, 0.0), " ")
    answer["off"] = torch.equal(sample(off, text)[0], plain)
    return answer


def sample(model: Any, text: tuple[Any, Any], cfg_steps: int = 0) -> tuple[torch.Tensor, list[str]]:
    """The raw latent, and what the node said meanwhile."""
    said: list[str] = []
    say, hosting.say = hosting.say, said.append
    with torch.inference_mode():
        latent = inside.nodes.WanCoreEmptyVideoLatent.execute(*SIZE)[0]
        numbers = (SETTINGS[name] for name in ("seed", "steps", "shift", "boundary"))
        output = inside.nodes.WanCoreSampler.execute(
            model, *text, latent, *numbers, 4.0, 3.0, "unipc", cfg_steps=cfg_steps
        )
    hosting.say = say
    return output[0]["samples"], said


def on_the_command_line(**shortcuts: Any) -> tuple[torch.Tensor, str]:
    """The same by wan_core alone, and its summary."""
    pipeline = pipelines.load_pipeline(inside.MODELS, device="cpu", task="t2v")
    width, height, frames = SIZE
    sizes = {"width": width, "height": height, "frames": frames}
    request = requests.Request.for_variant(
        pipeline.variant, inside.PROMPT, **SETTINGS, **sizes, **shortcuts
    ).validate(pipeline.variant)
    texts = pipelines.encode_prompts(pipeline, [request.prompt, request.negative_prompt])
    steps: list[Any] = []
    latent = pipelines.sample(pipeline, request, *texts, lambda info: steps.append(plans.taken_step(info)))
    return latent, "; ".join(plans.saved_words(steps))


def with_cache(model: Any, threshold: float) -> Any:
    return inside.nodes.WanCoreStepCache.execute(model, threshold)[0]


def with_guidance(model: Any, skip: str) -> Any:
    return inside.nodes.WanCoreGuidanceSchedule.execute(model, skip)[0]


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"as_on_the_command_line": as_on_the_command_line()}) + "\n")
