"""What a picture tells the model, in core's own words: Image to Video writes them, the Sampler reads them.

Core's WanImageToVideo, WanFirstLastFrameToVideo and Wan22ImageToVideoLatent, its KSampler and our nodes can
take each other's places:

* CONDITIONING has `concat_latent_image` (1, 16, F, h, w), raw, and `concat_mask` (1, 1 or 4, F, h, w);
* LATENT has `noise_mask` (1, 1, F, h, w) over its raw `samples`.

Both masks are 0 where a picture is given; the channels that I2V-A14B reads say 1 there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_management as mm
import node_helpers
import torch
from torch import Tensor

from ..wan_core.errors import WanError
from ..wan_core.models.latent_scale import denormalize_latent, normalize_latent
from ..wan_core.variants import I2V_A14B, TI2V_5B, Conditioning, Variant
from .hosting import resting

Texts = list[Any]  # core's CONDITIONING
Latent = dict[str, Any]  # core's LATENT

IMAGE, MASK = "concat_latent_image", "concat_mask"
MASK_CHANNELS = 4
# What core notes about a latent's size for as long as nothing is in it.
DOWNSCALE = "downscale_ratio_spacial"


def empty_latent(variant: Variant, width: int, height: int, frames: int) -> Latent:
    """All zeros (1, C, F, h, w), which stand for no latent yet."""
    every, down, across = variant.vae_stride
    shape = (1, variant.latent_channels, (frames - 1) // every + 1, height // down, width // across)
    # The ratio is core's note by which its own samplers fit an empty latent to other models.
    return {"samples": torch.zeros(shape, device=mm.intermediate_device()), DOWNSCALE: down}


def with_channels(texts: Texts, conditioning: Conditioning) -> Texts:
    """A copy of the texts that carries I2V-A14B's channels."""
    mask, image = conditioning.channels.split((MASK_CHANNELS, I2V_A14B.latent_channels), dim=1)
    values = {IMAGE: resting(denormalize_latent(image)), MASK: resting(1.0 - mask)}
    return node_helpers.conditioning_set_values(texts, values)


def with_clean_frames(empty: Latent, conditioning: Conditioning) -> Latent:
    """An empty latent that holds TI2V-5B's clean frames, and says so with a mask."""
    samples = empty["samples"]
    mask = conditioning.denoise_mask.to(samples).expand(1, 1, *samples.shape[2:])
    held = mask * samples + (1.0 - mask) * conditioning.clean_latent.to(samples)
    return {"samples": resting(denormalize_latent(held)), "noise_mask": mask.clone()}


def read_conditioning(positive: Texts, negative: Texts, latent: Latent, variant: Variant) -> Conditioning:
    """The pictures' part of what the Sampler is given. Raises WanError where it does not suit the model."""
    texts = {"positive": positive, "negative": negative}
    pictured = [name for name in texts if IMAGE in told(texts[name])]
    if variant is not I2V_A14B and pictured:
        raise WanError(
            f"{pictured[0]}: carries a picture for I2V-A14B, and the model is {variant.title}; "
            f"{_instead(variant)}"
        )
    if variant is not TI2V_5B and "noise_mask" in latent:
        raise WanError(
            f"latent: it has a mask, and {variant.title} makes the whole video; take the mask away"
        )
    if variant is I2V_A14B:
        return Conditioning(channels=_channels(texts, latent["samples"]))
    return _clean_frames(latent) if "noise_mask" in latent else Conditioning()


def told(texts: Texts) -> Mapping[str, Any]:
    """What a prompt carries besides its text."""
    return texts[0][1] if texts else {}


def _instead(variant: Variant) -> str:
    if variant is TI2V_5B:
        return "give Image to Video (WanCore) the Wan2.2 VAE: this model takes its picture in the latent"
    return "connect Text Encode (WanCore) directly, or load an I2V model"


def _channels(texts: Mapping[str, Texts], samples: Tensor) -> Tensor:
    """(1, 20, F, h, w) from the two prompts, which must carry the same."""
    parts = [_image_and_mask(name, text) for name, text in texts.items()]
    if not all(torch.equal(ours, theirs) for ours, theirs in zip(*parts, strict=True)):
        raise WanError(
            "negative: carries another picture than positive; connect both to one Image to Video (WanCore)"
        )
    image, mask = parts[0]
    if image.shape[2:] != samples.shape[2:]:
        raise WanError(
            f"positive: its picture was prepared for a latent of {size(image)} (frames, height, width), and "
            f"latent has {size(samples)}; connect the latent of the same Image to Video (WanCore)"
        )
    return torch.cat([(1.0 - mask).expand(-1, MASK_CHANNELS, -1, -1, -1), normalize_latent(image)], dim=1)


def _image_and_mask(name: str, texts: Texts) -> tuple[Tensor, Tensor]:
    """A prompt's raw latent (1, 16, F, h, w) and mask (1, 1 or 4, F, h, w)."""
    values, channels = told(texts), I2V_A14B.latent_channels
    if IMAGE not in values or MASK not in values:
        raise WanError(
            f"{name}: carries no picture, and {I2V_A14B.title} animates one; put Image to Video (WanCore) "
            "between Text Encode and the Sampler"
        )
    image, mask = values[IMAGE].float(), values[MASK].float()
    if image.ndim != 5 or image.shape[:2] != (1, channels):
        raise WanError(
            f"{name}: its picture's latent is {tuple(image.shape)}, expected (1, {channels}, frames, height, "
            "width); use Image to Video (WanCore) with the Wan2.1 VAE"
        )
    if mask.ndim != 5 or mask.shape[1] not in (1, MASK_CHANNELS) or mask.shape[2:] != image.shape[2:]:
        raise WanError(
            f"{name}: its picture's mask is {tuple(mask.shape)}, expected (1, 1 or 4, {size(image)}); "
            "use Image to Video (WanCore)"
        )
    return image, mask


def _clean_frames(latent: Latent) -> Conditioning:
    """TI2V-5B's clean frames, from the samples under a mask that is 0 or 1 over each whole frame."""
    samples, mask = latent["samples"].float(), latent["noise_mask"].float().cpu()
    frames = mask[..., :1, :1]
    if (
        mask.shape != (1, 1, *samples.shape[2:])
        or not torch.equal(mask, frames.expand_as(mask))
        or not ((frames == 0) | (frames == 1)).all()
    ):
        raise WanError(
            f"latent: its mask, {tuple(mask.shape)}, does not keep (0) or make (1) each latent frame as a "
            f"whole, and {TI2V_5B.title} knows no parts of frames; use Image to Video (WanCore)"
        )
    return Conditioning(clean_latent=normalize_latent(samples), denoise_mask=frames)


def holds_video(samples: Tensor, conditioning: Conditioning) -> bool:
    """Whether there is more in a raw latent than the frames that are kept clean."""
    if conditioning.denoise_mask is None:
        return bool(torch.count_nonzero(samples))
    # Where frames are still to be made, core leaves zero in the model's scale, which has rounding errors.
    made = conditioning.denoise_mask.to(samples) * normalize_latent(samples)
    return bool(made.abs().max() > 1e-4)


def size(latent: Tensor) -> str:
    """A latent's frames, height and width."""
    return " x ".join(map(str, latent.shape[2:]))
