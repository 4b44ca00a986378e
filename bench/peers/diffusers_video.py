"""A whole video by diffusers' WanPipeline with wan-tiny's weights, loaded before its time is taken.

Its tokenizer and video writer are ours: wan-tiny's tokenizer is in no other form, and what its own writer
needs is not installed with it. Its solver walks our noise levels, so that the frames can be compared.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import nn

from wan_core.checkpoints import Checkpoint, load_module, transformer_config, umt5_config, vae_config
from wan_core.checkpoints.layouts import LAYOUTS, TRANSFORMER, UMT5, VAE_2_1
from wan_core.media.mp4 import write_mp4
from wan_core.models.transformer import WanTransformer
from wan_core.models.umt5 import UMT5Encoder
from wan_core.models.vae import make_vae
from wan_core.pipeline import Pipeline, check_request, load_pipeline
from wan_core.request import Request
from wan_core.sampling import make_noise
from wan_core.schedulers import make_schedule
from wan_core.tiny import DEFAULTS, weights_dir
from wan_core.variants.variant import HIGH_NOISE, LOW_NOISE

from ..work import PROMPT, Inputs, Output, Run, Task
from . import diffusers as peer


def film(_task: Task) -> Run:
    """Prompt to mp4."""
    files = load_pipeline(weights_dir(), device="cpu", task="t2v")
    request = check_request(files, Request.for_variant(files.variant, PROMPT, **DEFAULTS))
    pipeline = _pipeline(files, request)

    def run(_inputs: Inputs) -> Output:
        texts = [
            _read(pipeline.text_encoder, files, text) for text in (request.prompt, request.negative_prompt)
        ]
        frames = pipeline(
            prompt_embeds=texts[0],
            negative_prompt_embeds=texts[1],
            height=request.height,
            width=request.width,
            num_frames=request.frames,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale_high,
            guidance_scale_2=request.guidance_scale_low,
            latents=make_noise(request.latent_shape(files.variant), request.seed),
            output_type="pt",
        ).frames[0]
        frames = frames.permute(0, 2, 3, 1)
        write_mp4([frames], io.BytesIO(), request.fps)
        return frames

    return run


def _pipeline(files: Pipeline, request: Request) -> Any:
    import diffusers

    class OnOurLevels(diffusers.UniPCMultistepScheduler):
        """Its solver with the noise levels of our schedule."""

        def set_timesteps(self, steps: int, device: Any = None, **_: Any) -> None:
            super().set_timesteps(steps, device)
            schedule = make_schedule("unipc", steps, request.shift)
            self.sigmas, self.timesteps = schedule.sigmas, schedule.timesteps

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": request.shift}
    pipeline = diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=_text_encoder(files.text_encoder),
        vae=_vae(files.vae),
        scheduler=OnOurLevels(**flow),
        transformer=_transformer(files.experts[HIGH_NOISE]),
        transformer_2=_transformer(files.experts[LOW_NOISE]),
        boundary_ratio=request.boundary,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _read(encoder: Any, files: Pipeline, text: str) -> torch.Tensor:
    ids, mask = files.tokenizer([text])
    with torch.no_grad():
        states = encoder(ids, mask).last_hidden_state
    return states * mask.unsqueeze(-1)  # zero rows for the padding, as its pipeline makes them


def _transformer(checkpoint: Checkpoint) -> Any:
    config = transformer_config(checkpoint.header)
    ours = WanTransformer(config, device="meta")
    return _renamed(ours, checkpoint, peer.transformer(config), TRANSFORMER, "diffusers")


def _vae(checkpoint: Checkpoint) -> Any:
    config = vae_config(checkpoint.header)
    return _renamed(make_vae(config, device="meta"), checkpoint, peer.vae(config), VAE_2_1, "diffusers")


def _text_encoder(checkpoint: Checkpoint) -> Any:
    config = umt5_config(checkpoint.header)
    ours = UMT5Encoder(config, device="meta")
    return _renamed(ours, checkpoint, peer.text_encoder(config), UMT5, "huggingface")


def _renamed(
    ours: nn.Module, checkpoint: Checkpoint, theirs: nn.Module, family: str, layout: str
) -> nn.Module:
    rename = next(one.rename for one in LAYOUTS if (one.family, one.name) == (family, layout))
    stored = load_module(ours, checkpoint, torch.float32).state_dict()
    theirs.load_state_dict({name: stored[rename(name)] for name in theirs.state_dict()}, strict=True)
    return theirs.eval().requires_grad_(False)
