"""What the widgets in the browser ask: GET `/wancore/...`, each answer a pure function of the query.

A question names numbers, or a file in a loader's list; never a path. Nothing is changed by an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ..wan_core.aesthetic import compose, look_of
from ..wan_core.checkpoints import CLIPS, inspect
from ..wan_core.errors import WanError, shown
from ..wan_core.presets import Preset, presets_for
from ..wan_core.request import ClipSize, Request
from ..wan_core.sampling.plan import plan, plan_summary
from ..wan_core.schedulers import SCHEDULERS
from ..wan_core.variants import TASKS, VARIANTS, Variant, variant_for_task
from .hosting import local_file, model_path
from .load_model import FOLDER as MODELS
from .load_vae import FOLDER as VAES

Query = Mapping[str, str]
Number = TypeVar("Number", int, float)


def plan_answer(query: Query) -> dict[str, Any]:
    """Steps, switch and summary of `?task&steps&shift&boundary&scheduler`: what `sampling.plan` says.

    Left out, a number is the released one of the task. A boundary is passed over for a model of one network,
    as the Sampler does.
    """
    variant = variant_for_task(query.get("task", VARIANTS[0].task))
    given = number(query, "boundary", float)
    planned = plan(
        variant.task,
        number(query, "steps", int),
        number(query, "shift", float),
        query.get("scheduler", SCHEDULERS[0]),
        None if variant.boundary is None else given,
    )
    boundary = variant.boundary if variant.boundary is None or given is None else given
    return {**planned, "summary": plan_summary(planned), "boundary": boundary}


def model_answer(query: Query) -> dict[str, Any]:
    """What the transformer `?name` of Load Model's list is, and its released numbers; or those of `?task`."""
    if "task" in query:
        return released(variant_for_task(query["task"]))
    return described(query.get("name", ""), MODELS)


def vae_answer(query: Query) -> dict[str, Any]:
    """The same of the model that Image to Video makes pictures ready for with the VAE `?name`."""
    return described(query.get("name", ""), VAES)


def size_answer(query: Query) -> dict[str, Any]:
    """What `?task&width&height&frames` come to; with `follows=1` the size is a picture's."""
    variant = variant_for_task(query.get("task", VARIANTS[0].task))
    sides = {name: number(query, name, int) for name in ("width", "height", "frames")}
    request = Request.for_variant(variant, "")
    asked = ClipSize(*(getattr(request, name) if side is None else side for name, side in sides.items()))
    used = asked.fitted(variant)
    latent = replace(request, width=used.width, height=used.height, frames=used.frames).latent_shape(variant)
    length = f"{used.frames} frames, {used.frames / variant.fps:.1f} s at {variant.fps} fps"
    if query.get("follows") == "1":
        line = f"{length}, in the picture's aspect"
    else:
        size = "" if used == asked else f"becomes {used.width} x {used.height}, "
        line = f"{size}{length}, latent {' x '.join(map(str, latent))}"
    return {"width": used.width, "height": used.height, "latent": latent, "line": line}


def aesthetic_answer(query: Query) -> dict[str, Any]:
    """The look that `?prompt` and the categories' names make: its phrases, those over the limit, why, and the
    finished prompt, which is None then."""
    choices = {name: choice for name, choice in query.items() if name != "prompt"}
    look = look_of(choices)
    return {
        "style": look.style,
        "terms": look.terms,
        "over": look.over,
        "fault": look.fault,
        "prompt": None if look.fault else compose(query.get("prompt", ""), choices),
    }


def presets_answer(_query: Query) -> dict[str, Any]:
    """The presets by task, each with the values of the widgets that it fills."""
    return {
        task: [
            {"name": one.name, "title": one.title, "note": one.note, "values": widgets(one)}
            for one in presets_for(task)
        ]
        for task in TASKS
    }


ROUTES: dict[str, Callable[[Query], dict[str, Any]]] = {
    "plan": plan_answer,
    "model": model_answer,
    "vae": vae_answer,
    "size": size_answer,
    "aesthetic": aesthetic_answer,
    "presets": presets_answer,
}


def add_routes() -> None:
    """Answer under `/wancore/` wherever there is a server."""
    from server import PromptServer  # half of ComfyUI, so only where it is there anyway

    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    for name, answer in ROUTES.items():
        server.routes.get(f"/wancore/{name}")(handler(answer))


def handler(answer: Callable[[Query], dict[str, Any]]) -> Callable[[Any], Any]:
    """A route's function, its work off the server's loop; a WanError becomes status 400 with its line."""
    from server import web

    async def handle(request: Any) -> Any:
        try:
            return web.json_response(await asyncio.to_thread(answer, request.query))
        except WanError as error:
            return web.json_response({"error": str(error)}, status=400)

    return handle


def number(query: Query, field: str, kind: type[Number]) -> Number | None:
    """A number of the query, None where it is left out. Raises WanError for what is none."""
    text = query.get(field)
    if text is None:
        return None
    try:
        return kind(text)
    except ValueError:
        raise WanError(f"{field}: {shown(text)!r} is not a number") from None


def described(name: str, folder: str) -> dict[str, Any]:
    """The released numbers of the model that a listed file belongs to. Raises WanError for another file."""
    file = local_file(folder, name)
    found = inspect(model_path(folder, file))
    variant = next((one for one in VARIANTS if found.task == one.task or fits(found.family, one)), None)
    if variant is None:
        raise WanError(f"{file}: this is {found.words}, which says nothing of a model's numbers")
    told = {"name": file, **released(variant)}
    if clips := CLIPS.get(found.known):
        told |= {"title": found.known, "frames": clips.frames, "sizes": listed(clips.sizes)}
    return told


def fits(family: str, variant: Variant) -> bool:
    """Whether a VAE's family is the one that Image to Video makes pictures ready with for a model."""
    return bool(variant.images) and family == variant.vae_family


def widgets(preset: Preset) -> dict[str, Any]:
    """What a preset sets, under the names of the widgets; nothing that its model has no use for."""
    settings = preset.settings
    settings["cfg_high"] = settings.pop("guidance_scale_high")
    settings["cfg_low"] = settings.pop("guidance_scale_low")
    return {name: value for name, value in settings.items() if value is not None}


def released(variant: Variant) -> dict[str, Any]:
    """A model's numbers, under the names that the nodes' widgets have."""
    return {
        "task": variant.task,
        "title": variant.title,
        "steps": variant.steps,
        "shift": variant.shift,
        "boundary": variant.boundary,
        "cfg_high": variant.guidance_scale_high,
        "cfg_low": variant.guidance_scale_low,
        "fps": variant.fps,
        "frames": variant.frames,
        "sizes": listed(variant.sizes),
        "size_multiple": variant.size_multiple,
        "vae_stride": list(variant.vae_stride),
        "latent_channels": variant.latent_channels,
    }


def listed(sizes: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Sizes as JSON has them: [width, height]."""
    return [list(size) for size in sizes]
