"""WanCoreTextEncode: two prompts to conditioning."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from weakref import WeakKeyDictionary

import comfy.model_patcher
import comfy.sd
from comfy_api.latest import io

from ..wan_core.errors import WanError
from ..wan_core.request import check_text
from ..wan_core.text.cleaning import clean_prompt
from ..wan_core.text.tokenizer import MAX_TOKENS
from ..wan_core.variants import T2V_A14B
from .conditioning import Texts
from .handles import TextEncoderHandle, check_length
from .sockets import CATEGORY, WanTextEncoder

TextEncoder = TextEncoderHandle | comfy.sd.CLIP

# What an encoder made of the last texts it was given, 8 MB each with UMT5-XXL; it goes with the encoder.
KEPT_TEXTS = 8
_made = WeakKeyDictionary[comfy.model_patcher.ModelPatcher, OrderedDict[Hashable, Texts]]()


class WanCoreTextEncode(io.ComfyNode):
    """The positive and the negative prompt to CONDITIONING, by WanCore's encoder or ComfyUI's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanCoreTextEncode",
            display_name="Text Encode (WanCore)",
            category=CATEGORY,
            description="Turns both prompts into conditioning, with the released text cleaning. An empty "
            "negative prompt stands for the one the models were released with.",
            search_aliases=["prompt", "clip text encode"],
            inputs=[
                io.MultiType.Input(
                    "text_encoder",
                    types=[WanTextEncoder, io.Clip],
                    tooltip="From WanCore's Load Text Encoder, or a CLIP of type wan.",
                ),
                io.String.Input(
                    "positive",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the video shows; up to 512 tokens.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="What it must not show. Empty: the released negative prompt.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the Sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="For the Sampler."),
            ],
        )

    @classmethod
    def validate_inputs(cls, positive: object) -> bool | str:
        """Refuse an empty prompt when the graph is queued; None comes from a link and is checked later."""
        try:
            if positive is not None:
                check_text("positive", positive, may_be_empty=False)
        except WanError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, text_encoder: TextEncoder, positive: str, negative: str) -> io.NodeOutput:
        check_text("positive", positive, may_be_empty=False)
        negative = negative if clean_prompt(negative) else T2V_A14B.negative_prompt
        texts = (encoded(text_encoder, *text) for text in (("positive", positive), ("negative", negative)))
        return io.NodeOutput(*texts)


def encoded(encoder: TextEncoder, field: str, text: str) -> Texts:
    """What the encoder makes of a text: asked only where it is none of the last texts, whichever node's."""
    encode = encoder.encode if isinstance(encoder, TextEncoderHandle) else core(encoder)
    if encoder.patcher.forced_hooks is not None:  # core's hooks may change with what they hang on
        return encode(field, text)
    made = _made.setdefault(encoder.patcher, OrderedDict())
    key = clean_prompt(text), settings_of(encoder)
    if key not in made:
        made[key] = encode(field, text)
        if len(made) > KEPT_TEXTS:
            made.popitem(last=False)
    made.move_to_end(key)
    return [[rows, {**more}] for rows, more in made[key]]


def settings_of(encoder: TextEncoder) -> Hashable:
    """What an encoder's answer depends on besides the text. Core's nodes change a CLIP's clone, whose patcher
    is another; this holds where a node changes the CLIP itself."""
    patches = encoder.patcher.patches_uuid
    if isinstance(encoder, TextEncoderHandle):
        return patches
    return patches, encoder.layer_idx, repr(encoder.tokenizer_options)


def core(clip: comfy.sd.CLIP) -> Callable[[str, str], Texts]:
    """ComfyUI's own text encoder, called as ours is; it pads to 512 tokens and never cuts."""

    def encode(field: str, text: str) -> Texts:
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(clean_prompt(text)))
        check_length(field, conditioning[0][0].shape[1], MAX_TOKENS)
        return conditioning

    return encode
