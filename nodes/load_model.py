"""WanCoreLoadModel: the network, or both experts, of a Wan2.2 model."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..wan_core.checkpoints import expert_of, find_partner, inspect, open_checkpoint, readable
from ..wan_core.errors import WanError
from ..wan_core.sampling.experts import HIGH_NOISE, LOW_NOISE
from ..wan_core.variants.variant import DENSE
from .file_names import FileNames
from .handles import WEIGHT_DTYPES, load_model
from .hosting import file_state, if_there, local_file, model_files, model_path, say
from .sockets import CATEGORY, WanModel

FOLDER = "diffusion_models"
BUILT_IN = "wan_tiny_t2v_high_noise.safetensors"
AUTO = "auto (partner of the high-noise file)"


class WanCoreLoadModel(io.ComfyNode):
    """A model's files to one handle for WanCore's Sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = model_files(FOLDER)
        return io.Schema(
            node_id="WanCoreLoadModel",
            display_name="Load Model (WanCore)",
            category=CATEGORY,
            description="Loads a Wan2.2 model: the two experts of T2V-A14B or I2V-A14B, or the one network "
            "of TI2V-5B. Only the expert whose turn it is has to be on the GPU.",
            search_aliases=["wan loader", "unet loader", "diffusion model", "gguf"],
            inputs=[
                io.Combo.Input(
                    "high_noise_model",
                    options=FileNames(files),
                    default=if_there(BUILT_IN, files),
                    tooltip="The high-noise expert's file in models/diffusion_models, or the only file of "
                    "TI2V-5B, or a built-in wan_tiny.",
                ),
                io.Combo.Input(
                    "low_noise_model",
                    options=FileNames([AUTO, *files]),
                    default=AUTO,
                    tooltip="The low-noise expert's file. auto finds the one named alike, with low for high; "
                    "TI2V-5B has none.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="auto",
                    advanced=True,
                    tooltip="The type the weights are kept and computed in; auto keeps the file's own and "
                    "computes in bfloat16. A CPU computes in float32 whatever stands here.",
                ),
            ],
            outputs=[
                WanModel.Output(display_name="model", tooltip="For WanCore's Sampler."),
                io.String.Output(
                    display_name="report",
                    tooltip="What was loaded, why these files, and what fits with them.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, high_noise_model: str, low_noise_model: str, weight_dtype: str) -> object:
        files = chosen_files(high_noise_model, low_noise_model)
        return weight_dtype, file_state(*(model_path(FOLDER, file) for file in files))

    @classmethod
    def execute(cls, high_noise_model: str, low_noise_model: str, weight_dtype: str) -> io.NodeOutput:
        high, *low = chosen_files(high_noise_model, low_noise_model)
        low_path = model_path(FOLDER, low[0]) if low else None
        model = load_model(model_path(FOLDER, high), low_path, WEIGHT_DTYPES[weight_dtype])
        lines = [model.variant.title, described(high, "chosen")]
        if low:
            lines.append(described(low[0], "found by its name" if low_noise_model == AUTO else "chosen"))
        report = "\n".join(lines)
        say(report)
        return io.NodeOutput(model, report)


def chosen_files(high: str, low: str) -> list[str]:
    """The one or two files of a model, as the loader's list names them.

    Raises WanError for a name that no file or several have, and as `partner` does.
    """
    high = local_file(FOLDER, high)
    found = partner(high, low if low == AUTO else local_file(FOLDER, low))
    return [high] if found is None else [high, found]


def partner(high: str, low: str) -> str | None:
    """The low-noise file's name: the one chosen, or for AUTO the one named like `high`; None for a model
    that is one network.

    Raises WanError where there is none, and where both names say that they are in the wrong place: the files
    would load, and the video be a poor one.
    """
    if open_checkpoint(model_path(FOLDER, high)).inspection.expert == DENSE:
        if low != AUTO:
            raise WanError(f"low_noise_model: {high} is a whole model and has no partner; choose auto")
        return None
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


def described(name: str, why: str) -> str:
    """What `inspect` says of a file, under its name in the list, without the folders of whoever runs this."""
    return readable(replace(inspect(model_path(FOLDER, name)), file=f"{name} ({why})"))
