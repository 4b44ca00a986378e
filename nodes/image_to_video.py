"""WanCoreImageToVideo: pictures that a video starts from or ends with."""

from __future__ import annotations

from collections.abc import Iterable

import comfy.sd
import torch
from comfy_api.latest import io
from torch import Tensor

from ..wan_core.errors import WanError
from ..wan_core.models.latent_scale import normalize_latent
from ..wan_core.request import MAX_FRAMES, MAX_SIDE, ClipSize
from ..wan_core.variants import I2V_A14B, TI2V_5B, Encode, Variant
from ..wan_core.variants.images import EXACT, RELEASED, crop_to_aspect
from .conditioning import Latent, Texts, empty_latent, with_channels, with_clean_frames
from .empty_video_latent import say_size
from .handles import VAEHandle
from .sockets import CATEGORY, WanVAE

# How the video's size comes about: the rounding of the size that follows from the picture, or None.
SIZES = {
    "from the image, as released": RELEASED,
    "from the image, rounded exactly": EXACT,
    "exactly width x height": None,
}


class WanCoreImageToVideo(io.ComfyNode):
    """Pictures into the conditioning (Wan2.1 VAE: I2V-A14B) or into the latent (Wan2.2 VAE: TI2V-5B)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side = I2V_A14B.size_multiple
        return io.Schema(
            node_id="WanCoreImageToVideo",
            display_name="Image to Video (WanCore)",
            category=CATEGORY,
            description="Makes the video start from a picture, end with one, or both. The VAE says for which "
            "model: the Wan2.1 VAE for I2V-A14B, the Wan2.2 VAE for TI2V-5B, which takes a start image only.",
            search_aliases=["i2v", "ti2v", "first last frame", "start image", "end image", "animate"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="From Text Encode."),
                io.Conditioning.Input("negative", tooltip="From Text Encode."),
                io.MultiType.Input(
                    "vae",
                    types=[WanVAE, io.Vae],
                    tooltip="The model's VAE, from WanCore's Load VAE or ComfyUI's own.",
                ),
                io.Combo.Input(
                    "size",
                    options=list(SIZES),
                    default=next(iter(SIZES)),
                    tooltip="From the image: its aspect, with as many pixels as width x height at most. As "
                    "released, a rounding error can cost a row of cells (832 x 480 becomes 832 x 464); "
                    "rounded exactly, it cannot. Exactly width x height: the image is cut to that aspect.",
                ),
                io.Int.Input(
                    "width", default=832, min=side, max=MAX_SIDE, step=side, tooltip="Pixels; see size."
                ),
                io.Int.Input(
                    "height", default=480, min=side, max=MAX_SIDE, step=side, tooltip="Pixels; see size."
                ),
                io.Int.Input(
                    "frames",
                    default=I2V_A14B.frames,
                    min=1,
                    max=MAX_FRAMES,
                    step=I2V_A14B.vae_stride[0],
                    tooltip="One more than a multiple of 4 is made, the nearest. I2V-A14B makes 81 at 16 "
                    "frames a second, TI2V-5B 121 at 24.",
                ),
                io.Image.Input("start_image", optional=True, tooltip="The video's first frame."),
                io.Image.Input("end_image", optional=True, tooltip="The video's last frame; I2V-A14B only."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the Sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="For the Sampler."),
                io.Latent.Output(display_name="latent", tooltip="For the Sampler."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Texts,
        negative: Texts,
        vae: VAEHandle | comfy.sd.VAE,
        size: str,
        width: int,
        height: int,
        frames: int,
        start_image: Tensor | None = None,
        end_image: Tensor | None = None,
    ) -> io.NodeOutput:
        variant = variant_of_vae(vae)
        start, end = one_picture("start_image", start_image), one_picture("end_image", end_image)
        asked = ClipSize(width, height, frames)
        used = asked.fitted(variant)
        variant.check_images(start is not None, end is not None, used.frames)
        rounding, first = SIZES[size], end if start is None else start
        if rounding is not None and first is not None:
            rows, columns, _ = first.shape
            width, height = variant.size_for_image(columns, rows, width * height, rounding)
            asked = ClipSize(width, height, frames)
            used = asked.fitted(variant)
        elif variant.stretches_image:  # so that nothing is squashed
            start, end = (cropped(picture, used.width, used.height) for picture in (start, end))
        say_size(asked, used, variant)
        width, height, frames = used.width, used.height, used.frames
        conditioning = variant.prepare(start, end, frames, height, width, encoder(vae))
        latent: Latent = empty_latent(variant, width, height, frames)
        if conditioning.channels is not None:
            positive, negative = (with_channels(texts, conditioning) for texts in (positive, negative))
        if conditioning.denoise_mask is not None:
            latent = with_clean_frames(latent, conditioning)
        return io.NodeOutput(positive, negative, latent)


def variant_of_vae(vae: VAEHandle | comfy.sd.VAE) -> Variant:
    """The model that a VAE and a picture are for. Raises WanError for another model's VAE."""
    channels = vae.latent_channels
    for variant in (I2V_A14B, TI2V_5B):
        if channels == variant.latent_channels:
            return variant
    raise WanError(
        f"vae: its latents have {channels} channels; use the Wan2.1 VAE (16, for I2V-A14B) or the Wan2.2 VAE "
        "(48, for TI2V-5B)"
    )


def one_picture(name: str, images: Tensor | None) -> Tensor | None:
    """The picture (H, W, 3) of an IMAGE; transparency, which has no colour, is left out as core does."""
    if images is None:
        return None
    if len(images) != 1:
        raise WanError(f"{name}: {len(images)} pictures; choose one with Image From Batch")
    if images.shape[-1] < 3:
        raise WanError(f"{name}: {images.shape[-1]} colour channel; convert it to RGB")
    if not torch.isfinite(images).all():
        raise WanError(f"{name}: holds NaN or infinite values; check the node it comes from")
    return images[0, :, :, :3]


def cropped(picture: Tensor | None, width: int, height: int) -> Tensor | None:
    """The centre of a picture with the video's aspect, where there is a picture."""
    return None if picture is None else crop_to_aspect(picture, width, height)


def encoder(vae: VAEHandle | comfy.sd.VAE) -> Encode:
    """Chunks of a video in -1..1 to the normalised latent, by either kind of VAE."""

    def encode(chunks: Iterable[Tensor]) -> Tensor:
        if isinstance(vae, VAEHandle):
            return normalize_latent(vae.encode(chunks))
        video = torch.cat(list(chunks), dim=2)
        frames = video[0].permute(1, 2, 3, 0).add(1.0).div(2.0)  # core's takes (T, H, W, 3) in 0..1
        return normalize_latent(vae.encode(frames).float())

    return encode
