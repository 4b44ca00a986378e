"""WanCoreExampleImage: a picture to start from, so that the example workflows run as they are."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from ..wan_core.tiny.scenes import COLOURS, SHAPES, Scene, draw_frame
from .sockets import CATEGORY

# Where the clips that the built-in model was shown begin and end, from the middle.
AWAY = 0.25
PLACES = {
    "left": (0.5 - AWAY, 0.5),
    "right": (0.5 + AWAY, 0.5),
    "top": (0.5, 0.5 - AWAY),
    "bottom": (0.5, 0.5 + AWAY),
    "middle": (0.5, 0.5),
}


class WanCoreExampleImage(io.ComfyNode):
    """One coloured shape on a dark ground, 96 x 96, as the built-in model knows them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanCoreExampleImage",
            display_name="Example Image (WanCore)",
            category=CATEGORY,
            description="Draws a small picture that the built-in model can animate, so that an example "
            "workflow needs no file. For your own picture put ComfyUI's Load Image in its place.",
            search_aliases=["test image", "sample picture"],
            inputs=[
                io.Combo.Input("colour", options=list(COLOURS), default="red", tooltip="Of the shape."),
                io.Combo.Input("shape", options=list(SHAPES), default="circle", tooltip="What is drawn."),
                io.Combo.Input(
                    "place",
                    options=list(PLACES),
                    default="left",
                    tooltip="Where the shape is. A start image at the left and an end image at the right "
                    "make it cross.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="96 x 96 pixels.")],
        )

    @classmethod
    def execute(cls, colour: str, shape: str, place: str) -> io.NodeOutput:
        x, y = PLACES[place]
        # In the middle of a movement the shape is at (x, y), upright and at its own size.
        scene = Scene(colour, shape, "right", background="plain dark", light="neutral", x=x, y=y)
        return io.NodeOutput(torch.from_numpy(draw_frame(scene, 0.5)).unsqueeze(0))
