"""The ComfyUI nodes: thin, one file each; `hosting.py` is the bridge to ComfyUI's devices and memory."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import ComfyExtension, io

from ..wan_core.tiny import weights_dir
from .aesthetic import WanCoreAesthetic
from .compare import WanCoreCompare
from .decode import WanCoreDecode
from .decode_to_video import WanCoreDecodeToVideo
from .empty_video_latent import WanCoreEmptyVideoLatent
from .example_image import WanCoreExampleImage
from .expert_plan import WanCoreExpertPlan
from .guidance_schedule import WanCoreGuidanceSchedule
from .image_to_video import WanCoreImageToVideo
from .load_lora import WanCoreLoadLora
from .load_model import WanCoreLoadModel
from .load_text_encoder import WanCoreLoadTextEncoder
from .load_vae import WanCoreLoadVAE
from .routes import add_routes
from .sampler import WanCoreSampler
from .save_video import WanCoreSaveVideo
from .speed import WanCoreSpeed
from .step_cache import WanCoreStepCache
from .text_encode import WanCoreTextEncode

NODES: list[type[io.ComfyNode]] = [
    WanCoreLoadModel,
    WanCoreLoadTextEncoder,
    WanCoreLoadVAE,
    WanCoreTextEncode,
    WanCoreEmptyVideoLatent,
    WanCoreSampler,
    WanCoreDecode,
    WanCoreDecodeToVideo,
    WanCoreSaveVideo,
    WanCoreExpertPlan,
    WanCoreImageToVideo,
    WanCoreExampleImage,
    WanCoreLoadLora,
    WanCoreSpeed,
    WanCoreStepCache,
    WanCoreGuidanceSchedule,
    WanCoreAesthetic,
    WanCoreCompare,
]

MODEL_FOLDERS = ("diffusion_models", "text_encoders", "vae", "loras")


class WanCoreExtension(ComfyExtension):
    """What the pack adds to ComfyUI: nodes, answers for their widgets, its built-in model in the lists."""

    async def on_load(self) -> None:
        """List the built-in model's files beside the user's own, without copying them; answer the widgets."""
        for folder in MODEL_FOLDERS:
            folder_paths.add_model_folder_path(folder, str(weights_dir() / folder))
        add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The node classes, in the order in which a graph uses them."""
        return NODES
