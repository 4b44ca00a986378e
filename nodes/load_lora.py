"""WanCoreLoadLora: one LoRA for both experts of a model."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..wan_core.checkpoints.loras import MOST_STRENGTH, lora_partner
from .bounds import Least
from .file_names import FileNames
from .handles import ModelHandle, add_lora
from .hosting import file_state, if_there, model_files, model_path, say
from .sockets import CATEGORY, WanModel

FOLDER = "loras"
BUILT_IN = "wan_tiny_purple_high_noise.safetensors"
AUTO, NONE = "auto (found by its name)", "none"


class WanCoreLoadLora(io.ComfyNode):
    """A model handle to one that wears a LoRA as well; no weights are read again."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = model_files(FOLDER)
        return io.Schema(
            node_id="WanCoreLoadLora",
            display_name="Load LoRA (WanCore)",
            category=CATEGORY,
            description="Adds a LoRA to a Wan2.2 model, whatever tool wrote it, with a strength for each "
            "expert. Chain several to add them up.",
            search_aliases=["lora", "lokr", "loha", "lycoris", "lightning", "lightx2v"],
            inputs=[
                WanModel.Input("model", tooltip="From Load Model, or another Load LoRA."),
                io.Combo.Input(
                    "lora_name",
                    options=FileNames(files),
                    default=if_there(BUILT_IN, files),
                    tooltip="A file in models/loras: for both experts, or either one's of a pair.",
                ),
                io.Combo.Input(
                    "partner",
                    options=FileNames([AUTO, NONE, *files]),
                    default=AUTO,
                    advanced=True,
                    tooltip="The file for the other expert; auto finds the one named alike, with low for "
                    "high. Choose lora_name again to feed both from a file that is one's by its name.",
                ),
                strength_input("strength_high", "the high-noise expert, or TI2V-5B's only network"),
                strength_input("strength_low", "the low-noise expert"),
            ],
            outputs=[
                WanModel.Output(display_name="model", tooltip="For WanCore's Sampler."),
                io.String.Output(
                    display_name="coverage",
                    tooltip="What of the file each expert took, what it left, and why.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, lora_name: str, partner: str, strength_high: float, strength_low: float
    ) -> object:
        path = model_path(FOLDER, lora_name)
        files = [path, partner_path(path, partner)]
        return strength_high, strength_low, file_state(*(file for file in files if file is not None))

    @classmethod
    def execute(
        cls, model: ModelHandle, lora_name: str, partner: str, strength_high: float, strength_low: float
    ) -> io.NodeOutput:
        path = model_path(FOLDER, lora_name)
        dressed = add_lora(model, path, partner_path(path, partner), strength_high, strength_low)
        coverage = dressed.loras[-1].coverage.text()
        say(coverage)
        return io.NodeOutput(dressed, coverage)


def strength_input(name: str, whose: str) -> io.Float.Input:
    """How strongly one expert wears the LoRA."""
    return io.Float.Input(
        name,
        default=1.0,
        min=Least(-MOST_STRENGTH),
        max=MOST_STRENGTH,
        step=0.05,
        round=0.001,
        tooltip=f"For {whose}: 1 is as trained, 0 leaves it out.",
    )


def partner_path(path: Path, partner: str) -> Path | None:
    """The file for the other expert; None when there is none."""
    if partner == NONE:
        return None
    return lora_partner(path) if partner == AUTO else model_path(FOLDER, partner)
