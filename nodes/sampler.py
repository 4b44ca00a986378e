"""WanCoreSampler: noise to latent, all experts in one node."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..wan_core.errors import WanError
from ..wan_core.models.latent_scale import denormalize_latent
from ..wan_core.models.transformer import TransformerConfig
from ..wan_core.sampling.ahead import looking_ahead
from ..wan_core.sampling.denoise import StepInfo, denoise
from ..wan_core.sampling.experts import HIGH_NOISE, LOW_NOISE, plan_experts
from ..wan_core.sampling.guidance import step_scales
from ..wan_core.sampling.guidance_schedule import unguided_steps, with_cfg_steps
from ..wan_core.sampling.noise import MAX_SEED, make_noise
from ..wan_core.schedulers import make_schedule
from ..wan_core.schedulers.sigmas import MAX_STEPS
from ..wan_core.variants import T2V_A14B, TI2V_5B, Variant
from ..wan_core.variants.variant import DENSE
from .bounds import Least
from .conditioning import DOWNSCALE, Latent, Texts, holds_video, read_conditioning
from .expert_plan import schedule_inputs
from .handles import HostedExperts, ModelHandle, check_length
from .hosting import StepProgress, resting
from .preview import ANIMATED, PREVIEWS, previews
from .sockets import CATEGORY, WanModel

# What core notes about a latent's size for as long as nothing is in it.
OF_EMPTY_LATENTS = (DOWNSCALE, "downscale_ratio_temporal")


class WanCoreSampler(io.ComfyNode):
    """The released sampling loop; each expert is loaded when its turn comes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        steps, shift, boundary, scheduler = schedule_inputs()
        return io.Schema(
            node_id="WanCoreSampler",
            display_name="Sampler (WanCore)",
            category=CATEGORY,
            description="Denoises with the high-noise expert down to the boundary and with the low-noise "
            "expert from there; TI2V-5B is one network, for which boundary and cfg_low mean nothing. A seed "
            "means the same noise on every machine.",
            search_aliases=["ksampler", "wan sampler", "denoise"],
            inputs=[
                WanModel.Input("model", tooltip="From WanCore's Load Model."),
                io.Conditioning.Input("positive", tooltip="What the video should show."),
                io.Conditioning.Input("negative", tooltip="What it should not show."),
                io.Latent.Input("latent", tooltip="Its size: an empty latent, or that of Image to Video."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="The noise to start from, drawn on the CPU.",
                ),
                steps,
                shift,
                boundary,
                guidance_input(
                    "cfg_high", T2V_A14B.guidance_scale_high, "high-noise expert or TI2V-5B follows"
                ),
                guidance_input("cfg_low", T2V_A14B.guidance_scale_low, "low-noise expert follows"),
                scheduler,
                preview_input(),
                cfg_steps_input(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="For Decode, WanCore's or ComfyUI's.")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        positive: Texts,
        negative: Texts,
        latent: Latent,
        seed: int,
        steps: int,
        shift: float,
        boundary: float,
        cfg_high: float,
        cfg_low: float,
        scheduler: str,
        preview: str = ANIMATED,
        cfg_steps: int = 0,
    ) -> io.NodeOutput:
        variant = model.variant
        shape = latent_shape(latent, variant)
        conditioning = read_conditioning(positive, negative, latent, variant)
        if holds_video(latent["samples"], conditioning):
            raise WanError(
                "latent: it holds a video already, and this Sampler starts from noise; use Empty Video "
                "Latent (WanCore) or Image to Video (WanCore)"
            )
        schedule = make_schedule(scheduler, steps, shift)
        plan = plan_experts(schedule.timesteps, None if variant.boundary is None else boundary)
        guidance_schedule = with_cfg_steps(model.guidance_schedule, cfg_steps)
        scales = {HIGH_NOISE: cfg_high, LOW_NOISE: cfg_low, DENSE: cfg_high}
        device = model.patcher.load_device
        noise = make_noise(shape, seed).to(device)
        context = text_rows("positive", positive, model.config).to(device)
        negative_context = text_rows("negative", negative, model.config).to(device)
        rows = context.shape[1], negative_context.shape[1]
        unguided = unguided_steps(guidance_schedule, steps)
        progress = StepProgress(schedule, plan, step_scales(scales, plan.experts, unguided))
        with (
            previews(preview, model.rgb, variant.fps / variant.vae_stride[0]) as show,
            HostedExperts(model, noise.shape, rows, progress) as experts,
        ):

            def on_step(info: StepInfo) -> None:
                progress.step(info)
                show(info)

            sampled = denoise(
                noise,
                experts,
                context,
                negative_context,
                scales,
                schedule,
                plan,
                looking_ahead(plan, experts.expect, on_step),
                conditioning,
                model.step_cache,
                guidance_schedule,
            )
        progress.finish()
        kept = {key: value for key, value in latent.items() if key not in OF_EMPTY_LATENTS}
        return io.NodeOutput({**kept, "samples": resting(denormalize_latent(sampled))})


def preview_input() -> io.Combo.Input:
    """Whether the node shows what it is heading for."""
    return io.Combo.Input(
        "preview",
        options=list(PREVIEWS),
        default=ANIMATED,
        optional=True,
        advanced=True,
        tooltip="A rough moving picture on the node while it samples, about one a second; it costs no time. "
        "ComfyUI's own preview setting is not asked.",
    )


def cfg_steps_input() -> io.Int.Input:
    """How many steps have guidance."""
    return io.Int.Input(
        "cfg_steps",
        default=0,
        min=0,
        max=MAX_STEPS,
        optional=True,
        advanced=True,
        tooltip="Only this many first steps have guidance, the others take half the time; 0 is all. With "
        "4-step LoRAs, guidance on the first steps brings motion back.",
    )


def guidance_input(name: str, default: float, who_follows: str) -> io.Float.Input:
    """The guidance of one expert."""
    return io.Float.Input(
        name,
        default=default,
        min=Least(0.0),
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip=f"How strictly the {who_follows} the prompt; 1 halves its work and ignores the negative "
        "prompt.",
    )


def latent_shape(latent: Latent, variant: Variant) -> tuple[int, int, int, int]:
    """(C, F, h, w) of one video's LATENT. Raises WanError for another model's, and for a batch."""
    shape = tuple(latent["samples"].shape)
    channels = variant.latent_channels
    if len(shape) != 5 or shape[1] != channels or shape[3] % 2 or shape[4] % 2:
        raise WanError(
            f"latent: shape {shape} is not (1, {channels}, frames, even height, even width), which "
            f"{variant.title} takes; use {_source(variant)}"
        )
    if shape[0] != 1:
        raise WanError(f"latent: a batch of {shape[0]} videos; make one at a time, and queue several seeds")
    return shape[1:]


def _source(variant: Variant) -> str:
    if variant.needs_image:
        return "Image to Video (WanCore) with the Wan2.1 VAE"
    model = "TI2V-5B" if variant is TI2V_5B else "T2V-A14B"
    return f"Empty Video Latent (WanCore) for {model}"


def text_rows(name: str, texts: Texts, config: TransformerConfig) -> Tensor:
    """The real rows (1, L, D) of a CONDITIONING, without the zeros that pad it: the model adds its own.

    Raises WanError for mixed prompts, for text of another encoder and for too much of it.
    """
    width = config.text_dim
    if len(texts) != 1:
        raise WanError(f"{name}: {len(texts)} prompts combined; this Sampler takes exactly one")
    rows = texts[0][0]
    if rows.ndim != 3 or rows.shape[0] != 1 or rows.shape[2] != width:
        raise WanError(
            f"{name}: shape {tuple(rows.shape)} is not (1, tokens, {width}); "
            "use the text encoder that belongs to this model"
        )
    if not torch.isfinite(rows).all():
        raise WanError(f"{name}: the text encoding holds NaN; check the text encoder's file")
    used = rows[0].abs().amax(dim=1).nonzero()  # (real rows, 1)
    count = int(used[-1]) + 1 if len(used) else 1
    check_length(name, count, config.text_len)
    return rows[:, :count]
