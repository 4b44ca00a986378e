"""WanCoreLoadTextEncoder: the UMT5 encoder with its tokenizer."""

from __future__ import annotations

from comfy_api.latest import io

from .file_names import FileNames
from .handles import load_text_encoder
from .hosting import file_state, if_there, model_files, model_path
from .sockets import CATEGORY, WanTextEncoder

FOLDER = "text_encoders"
BUILT_IN = "wan_tiny_umt5.safetensors"


class WanCoreLoadTextEncoder(io.ComfyNode):
    """A UMT5 file to a handle for WanCore's Text Encode."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = model_files(FOLDER)
        return io.Schema(
            node_id="WanCoreLoadTextEncoder",
            display_name="Load Text Encoder (WanCore)",
            category=CATEGORY,
            description="Loads a UMT5 text encoder with the tokenizer inside its file or beside it. "
            "ComfyUI's own CLIP loader may take its place.",
            search_aliases=["umt5", "t5", "clip"],
            inputs=[
                io.Combo.Input(
                    "text_encoder_name",
                    options=FileNames(files),
                    default=if_there(BUILT_IN, files),
                    tooltip="A umt5_xxl file in models/text_encoders, or the built-in wan_tiny_umt5.",
                ),
            ],
            outputs=[
                WanTextEncoder.Output(display_name="text_encoder", tooltip="For WanCore's Text Encode.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, text_encoder_name: str) -> object:
        return file_state(model_path(FOLDER, text_encoder_name))

    @classmethod
    def execute(cls, text_encoder_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_text_encoder(model_path(FOLDER, text_encoder_name)))
