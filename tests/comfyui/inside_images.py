"""Core's picture conditioning and ours, inside ComfyUI's own Python: run by test_interop.py as

    <ComfyUI's python> inside_images.py <ComfyUI> <pack> <models folder>

The last line of stdout is JSON: for each kind of picture how far core's nodes and samplers are from ours.
"""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import inside_comfyui as inside  # starts ComfyUI; beside this script, so on the path
import torch
import torch.nn.functional as F
from torch import Tensor

comfy_sample, comfy_samplers = (importlib.import_module(f"comfy.{name}") for name in ("sample", "samplers"))
core_nodes = importlib.import_module("comfy_extras.nodes_wan")
bridge = importlib.import_module("pack_under_test.nodes.conditioning")
variants = importlib.import_module("pack_under_test.wan_core.variants")
schedulers = importlib.import_module("pack_under_test.wan_core.schedulers")
noises = importlib.import_module("pack_under_test.wan_core.sampling.noise")

NETWORKS = inside.MODELS / "diffusion_models"
I2V = NETWORKS / "wan_tiny_i2v_high_noise.safetensors", NETWORKS / "wan_tiny_i2v_low_noise.safetensors"
TI2V = NETWORKS / "wan_tiny_ti2v.safetensors"
VAE_2_1, VAE_2_2 = (inside.MODELS / "vae" / f"wan_tiny_vae{end}.safetensors" for end in ("", "_2_2"))
SIZE = {"width": 96, "height": 96}
FRAMES, STEPS, SHIFT = 17, 6, 5.0
CORE_TEXT_WIDTH = 4096  # the only one that core's transformer knows


def image_to_video() -> dict[str, Any]:
    """I2V-A14B with a start image, and with both images: core's two nodes for it, and core's sampler."""
    ours, core = inside.handles.load_vae(VAE_2_1), core_vae()
    model = inside.handles.load_model(*I2V, None)
    core_model = load_in_core(I2V[0])
    start, end = picture("left"), picture("right")
    positive, negative = inside.conditioning()
    size = (SIZE["width"], SIZE["height"], FRAMES, 1)
    first = core_nodes.WanImageToVideo.execute(positive, negative, core, *size, start_image=start)
    both = core_nodes.WanFirstLastFrameToVideo.execute(
        positive, negative, core, *size, start_image=start, end_image=end
    )
    answer = {}
    for name, last, theirs in (("start", None, first), ("start and end", end, both)):
        mine = our_node(ours, start, last)
        answer[name] = {
            "latent": inside.distance(told(mine, bridge.IMAGE), told(theirs, bridge.IMAGE)),
            "mask": float((told(mine, bridge.MASK) - told(theirs, bridge.MASK)).abs().max()),
            "with core's VAE": inside.distance(
                told(our_node(core, start, last), bridge.IMAGE), told(theirs, bridge.IMAGE)
            ),
            "what core's model reads": inside.distance(
                core_channels(core_model, theirs), our_channels(theirs, variants.I2V_A14B)
            ),
            "our sampler": inside.distance(our_sampler(model, theirs), our_sampler(model, mine)),
            "core's sampler": inside.distance(core_sampler(core_model, mine), our_sampler(model, mine)),
        }
    return answer


def text_and_image_to_video() -> dict[str, Any]:
    """TI2V-5B with a start image. Core's Wan2.2 VAE knows the released size only, so ours encodes for it."""
    vae = inside.handles.load_vae(VAE_2_2)
    core = SimpleNamespace(
        encode=lambda images: vae.encode([images.permute(3, 0, 1, 2).unsqueeze(0) * 2 - 1])
    )
    model, core_model = inside.handles.load_model(TI2V, None, None), load_in_core(TI2V)
    start = picture("left")
    mine = our_node(vae, start, None)
    latent = core_nodes.Wan22ImageToVideoLatent.execute(
        core, SIZE["width"], SIZE["height"], FRAMES, 1, start_image=start
    )[0]
    theirs = (*mine[:2], latent)
    return {
        "latent": inside.distance(mine[2]["samples"], latent["samples"]),
        "mask": float((mine[2]["noise_mask"] - latent["noise_mask"]).abs().max()),
        "our sampler": inside.distance(our_sampler(model, theirs), our_sampler(model, mine)),
        "core's sampler": inside.distance(core_sampler(core_model, mine), our_sampler(model, mine)),
        "first latent frame": inside.distance(
            our_sampler(model, mine)[:, :, :1], mine[2]["samples"][:, :, :1]
        ),
    }


def picture(place: str) -> Tensor:
    """An example picture in steps of 1/255, as files hold them."""
    image = inside.nodes.WanCoreExampleImage.execute("red", "circle", place)[0]
    return (image * 255).round() / 255


def our_node(vae: Any, start: Tensor, end: Tensor | None) -> Any:
    positive, negative = inside.conditioning()
    rule = "exactly width x height"
    return inside.nodes.WanCoreImageToVideo.execute(
        positive, negative, vae, rule, *SIZE.values(), FRAMES, start, end
    ).args


def told(made: Any, key: str) -> Tensor:
    """What a node wrote into the positive conditioning; a mask in all four channels."""
    value = made[0][0][1][key]
    return value.expand(-1, 4, -1, -1, -1) if key == bridge.MASK else value


def our_channels(made: Any, variant: Any) -> Tensor:
    return bridge.read_conditioning(*made[:3], variant).channels


def core_channels(patcher: Any, made: Any) -> Tensor:
    noise, values = torch.zeros_like(made[2]["samples"]), made[0][0][1]
    copies = {key: value.clone() for key, value in values.items() if isinstance(value, Tensor)}
    return patcher.model.concat_cond(noise=noise, device=torch.device("cpu"), **copies)


def our_sampler(model: Any, made: Any) -> Tensor:
    """A few steps of the first network alone, without guidance."""
    sampled = inside.nodes.WanCoreSampler.execute(model, *made[:3], 1, STEPS, SHIFT, 0.0, 1.0, 1.0, "euler")
    return sampled[0]["samples"]


def core_sampler(patcher: Any, made: Any) -> Tensor:
    """The same by core's sampler and its own network, with our noise and our sigmas."""
    samples = made[2]["samples"]
    return comfy_sample.sample_custom(
        patcher,
        noises.make_noise(samples.shape[1:], 1),
        1.0,
        comfy_samplers.sampler_object("euler"),
        schedulers.make_schedule("euler", STEPS, SHIFT).sigmas.float(),
        *(widened(texts) for texts in made[:2]),
        samples.clone(),
        noise_mask=made[2].get("noise_mask"),
        disable_pbar=True,
        seed=1,
    )


def widened(texts: Any) -> Any:
    """A CONDITIONING for a network of `load_in_core`."""
    ((rows, values),) = texts
    return [[F.pad(rows, (0, CORE_TEXT_WIDTH - rows.shape[2])), values]]


def core_vae() -> Any:
    return inside.comfy.sd.VAE(sd=inside.comfy.utils.load_torch_file(str(VAE_2_1)))


def load_in_core(path: Any) -> Any:
    """The network as core loads it, its text embedding widened by columns that read nothing."""
    tensors = inside.comfy.utils.load_torch_file(str(path))
    weight = tensors["text_embedding.0.weight"]
    tensors["text_embedding.0.weight"] = F.pad(weight, (0, CORE_TEXT_WIDTH - weight.shape[1]))
    return inside.comfy.sd.load_diffusion_model_state_dict(tensors)


if __name__ == "__main__":
    questions = (image_to_video, text_and_image_to_video)
    with torch.inference_mode():  # as nodes run
        answers = {question.__name__: question() for question in questions}
    sys.stdout.write(json.dumps(answers) + "\n")
