"""WanCoreAesthetic: a prompt with a look, chosen by name."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..wan_core.aesthetic import CATEGORIES, MOST_TERMS, NONE, STYLE, Category, compose
from ..wan_core.request import check_text
from .sockets import CATEGORY


class WanCoreAesthetic(io.ComfyNode):
    """Choices to the words Wan2.2 was captioned with, beside the prompt; gives text, for any prompt node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanCoreAesthetic",
            display_name="Aesthetic (WanCore)",
            category=CATEGORY,
            description="Light, colour, framing, camera and style by name. Adds the words that Wan2.2 was "
            "captioned with to a prompt and shows what it says and how it looks.",
            search_aliases=["look", "style", "lighting", "camera movement", "shot", "prompt builder"],
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the video shows. Its words stay as they are.",
                ),
                *(choice_input(category) for category in CATEGORIES),
            ],
            outputs=[
                io.String.Output(display_name="prompt", tooltip="For Text Encode, or any prompt input.")
            ],
        )

    @classmethod
    def validate_inputs(cls, prompt: object = None, **choices: object) -> bool:
        """Refuse too many terms when the graph is queued; a value that is None comes from a link.

        What is wrong is raised: ComfyUI would repeat a message that is returned for each input named here.
        Raises WanError.
        """
        if prompt is not None:
            check_text("prompt", prompt, may_be_empty=False)
        compose("", {name: choice for name, choice in choices.items() if choice is not None})
        return True

    @classmethod
    def execute(cls, prompt: str, **choices: str) -> io.NodeOutput:
        check_text("prompt", prompt, may_be_empty=False)
        finished = compose(prompt, choices)
        return io.NodeOutput(finished, ui=ui.PreviewText(finished))


def choice_input(category: Category) -> io.Combo.Input:
    """The widget of one category."""
    counts = (
        "The flat ones (from 2D anime on) take no term beside them."
        if category is STYLE
        else f"One of at most {MOST_TERMS} terms."
    )
    return io.Combo.Input(
        category.name,
        options=[NONE, *category.phrases],
        default=NONE,
        optional=True,
        tooltip=f"{category.about} {counts}",
    )
