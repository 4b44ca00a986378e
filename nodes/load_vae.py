"""WanCoreLoadVAE: the autoencoder between pixels and latents."""

from __future__ import annotations

from comfy_api.latest import io

from .file_names import FileNames
from .handles import AS_RELEASED, VAE_PRECISIONS, load_vae
from .hosting import file_state, if_there, model_files, model_path
from .sockets import CATEGORY, WanVAE

FOLDER = "vae"
BUILT_IN = "wan_tiny_vae.safetensors"


class WanCoreLoadVAE(io.ComfyNode):
    """A VAE file to a handle for WanCore's Decode and Image to Video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = model_files(FOLDER)
        return io.Schema(
            node_id="WanCoreLoadVAE",
            display_name="Load VAE (WanCore)",
            category=CATEGORY,
            description="Loads the Wan2.1 VAE, which the A14B models use, or the Wan2.2 VAE, which TI2V-5B "
            "uses. ComfyUI's own VAE loader may take its place.",
            search_aliases=["wan vae"],
            inputs=[
                io.Combo.Input(
                    "vae_name",
                    options=FileNames(files),
                    default=if_there(BUILT_IN, files),
                    tooltip="A VAE in models/vae: for A14B wan_2.1_vae, for TI2V-5B wan2.2_vae; or the "
                    "built-in model's.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(VAE_PRECISIONS),
                    default=AS_RELEASED,
                    optional=True,
                    advanced=True,
                    tooltip="What it computes in. bfloat16 takes half the memory and moves pixels by less "
                    "than 1 %, as ComfyUI's own VAEs do on most cards.",
                ),
            ],
            outputs=[WanVAE.Output(display_name="vae", tooltip="For Decode and Image to Video.")],
        )

    @classmethod
    def fingerprint_inputs(cls, vae_name: str, precision: str = AS_RELEASED) -> object:
        return precision, file_state(model_path(FOLDER, vae_name))

    @classmethod
    def execute(cls, vae_name: str, precision: str = AS_RELEASED) -> io.NodeOutput:
        return io.NodeOutput(load_vae(model_path(FOLDER, vae_name), precision))
