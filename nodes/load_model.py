"""WanCoreLoadModel: both experts of a Wan2.2 model."""

from __future__ import annotations

from comfy_api.latest import io

from ..wan_core.checkpoints import expert_of, find_partner
from ..wan_core.errors import WanError
from ..wan_core.sampling.experts import HIGH_NOISE, LOW_NOISE
from .handles import WEIGHT_DTYPES, load_model
from .hosting import file_state, if_there, model_files, model_path
from .sockets import CATEGORY, WanModel

FOLDER = "diffusion_models"
BUILT_IN = "wan_tiny_t2v_high_noise.safetensors"
AUTO = "auto (partner of the high-noise file)"


class WanCoreLoadModel(io.ComfyNode):
    """Two expert files to one handle for WanCore's Sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = model_files(FOLDER)
        return io.Schema(
            node_id="WanCoreLoadModel",
            display_name="Load Model (WanCore)",
            category=CATEGORY,
            description="Loads the two experts of a Wan2.2 text-to-video model. Only the one whose turn it "
            "is has to be on the GPU.",
            search_aliases=["wan loader", "unet loader", "diffusion model"],
            inputs=[
                io.Combo.Input(
                    "high_noise_model",
                    options=files,
                    default=if_there(BUILT_IN, files),
                    tooltip="The high-noise expert's file in models/diffusion_models, or built-in wan_tiny.",
                ),
                io.Combo.Input(
                    "low_noise_model",
                    options=[AUTO, *files],
                    default=AUTO,
                    tooltip="The low-noise expert's file. auto finds the one named alike, with low for high.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="auto",
                    tooltip="The type the weights are kept and computed in; auto keeps the file's own and "
                    "computes in bfloat16. A CPU computes in float32 whatever stands here.",
                ),
            ],
            outputs=[WanModel.Output(display_name="model", tooltip="For WanCore's Sampler.")],
        )

    @classmethod
    def fingerprint_inputs(cls, high_noise_model: str, low_noise_model: str, weight_dtype: str) -> object:
        low = partner(high_noise_model, low_noise_model)
        return weight_dtype, file_state(model_path(FOLDER, high_noise_model), model_path(FOLDER, low))

    @classmethod
    def execute(cls, high_noise_model: str, low_noise_model: str, weight_dtype: str) -> io.NodeOutput:
        low = partner(high_noise_model, low_noise_model)
        high_path, low_path = model_path(FOLDER, high_noise_model), model_path(FOLDER, low)
        return io.NodeOutput(load_model(high_path, low_path, WEIGHT_DTYPES[weight_dtype]))


def partner(high: str, low: str) -> str:
    """The low-noise file's name: the one chosen, or for AUTO the one named like `high`.

    Raises WanError where there is none, and where both names say that they are in the wrong place: the files
    would load, and the video be a poor one.
    """
    if low != AUTO:
        if expert_of(high) == LOW_NOISE and expert_of(low) == HIGH_NOISE:
            raise WanError(
                f"high_noise_model: {high} and {low} look swapped by their names; exchange the two files"
            )
        return low
    if expert_of(high) == LOW_NOISE:
        raise WanError(
            f"high_noise_model: {high} is the low-noise expert by its name; choose the high-noise file here"
        )
    found = find_partner(high, model_files(FOLDER))
    if found is None:
        raise WanError(
            f"low_noise_model: no file is named like {high} with low for high; choose the file yourself"
        )
    return found
