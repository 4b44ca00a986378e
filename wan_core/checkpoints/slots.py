"""The right file in the right place: what each slot needs, and which files go together."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from ..errors import WanError
from ..variants import Variant
from ..variants.variant import DENSE, HIGH_NOISE, LOW_NOISE
from .checkpoint import Checkpoint
from .configs import transformer_config, umt5_config
from .inspection import FAMILY_WORDS
from .layouts import TRANSFORMER, UMT5, VAE_2_1, VAE_2_2
from .pairs import expert_of
from .twins import same_weights

log = logging.getLogger("wancore")


@dataclass(frozen=True)
class Slot:
    """A place a file is chosen for, as messages name it."""

    name: str
    families: tuple[str, ...]
    example: str
    folder: str  # ComfyUI's, under models/


SLOTS = {
    HIGH_NOISE: Slot(
        "the high-noise slot",
        (TRANSFORMER,),
        "wan2.2_t2v_high_noise_14B_fp16.safetensors",
        "diffusion_models",
    ),
    LOW_NOISE: Slot(
        "the low-noise slot", (TRANSFORMER,), "wan2.2_t2v_low_noise_14B_fp16.safetensors", "diffusion_models"
    ),
    DENSE: Slot("the model slot", (TRANSFORMER,), "wan2.2_ti2v_5B_fp16.safetensors", "diffusion_models"),
    "text_encoder": Slot("the text encoder slot", (UMT5,), "umt5_xxl_fp16.safetensors", "text_encoders"),
    "vae": Slot("the VAE slot", (VAE_2_1, VAE_2_2), "wan_2.1_vae.safetensors", "vae"),
}


def require(checkpoint: Checkpoint, role: str, variant: Variant | None = None) -> Checkpoint:
    """Return the checkpoint if it belongs in a slot, a key of SLOTS.

    With a variant, a transformer must be of its task and a VAE of its kind. Raises WanError that says what
    the file is, what the slot needs, and an example of a file that fits.
    """
    slot = SLOTS[role]
    words, family = checkpoint.inspection.words, checkpoint.inspection.family
    needed = " or ".join(FAMILY_WORDS[name] for name in slot.families)
    fits = family in slot.families
    if variant is not None and role == "vae":
        needed, fits = FAMILY_WORDS[variant.vae_family], family == variant.vae_family
    if variant is not None and slot.families == (TRANSFORMER,):
        needed, fits = f"the transformer of {variant.title}", checkpoint.inspection.task == variant.task
    if not fits:
        raise WanError(
            f"{checkpoint.file} is {words}, but {slot.name} needs {needed}; choose a file such as "
            f"{_example(slot, variant)} (models/{slot.folder})"
        )
    return checkpoint


def check_pair(high: Checkpoint, low: Checkpoint) -> None:
    """Raise WanError unless two files can be the two experts of one model; a swap by name is logged."""
    require(high, HIGH_NOISE)
    require(low, LOW_NOISE)
    for role, checkpoint in ((HIGH_NOISE, high), (LOW_NOISE, low)):
        if checkpoint.inspection.expert == DENSE:
            raise WanError(
                f"{checkpoint.file} is one network for all steps, but {SLOTS[role].name} needs one of a "
                f"pair; choose a file such as {SLOTS[role].example}"
            )
    ours, theirs = transformer_config(high.header), transformer_config(low.header)
    if ours != theirs:
        different = next(name for name, value in vars(ours).items() if value != vars(theirs)[name])
        raise WanError(
            f"{high.file} and {low.file} are no pair: {different} is {vars(ours)[different]} and "
            f"{vars(theirs)[different]}; choose the high-noise and low-noise file of one model"
        )
    if same_weights(high, low):
        raise WanError(
            f"{high.file} and {low.file} hold the same weights; choose the high-noise file for one slot and "
            "the low-noise file for the other"
        )
    for role, checkpoint in ((HIGH_NOISE, high), (LOW_NOISE, low)):
        known = checkpoint.inspection.known
        if known and checkpoint.inspection.expert != role:
            raise WanError(
                f"{checkpoint.file} is the other expert of {known} by its numbers, whatever its name, "
                f"and {SLOTS[role].name} needs its partner; exchange the two files"
            )
    if expert_of(str(high.path)) == LOW_NOISE and expert_of(str(low.path)) == HIGH_NOISE:
        log.warning("%s and %s look swapped by their names; exchange the two slots", high.file, low.file)


def check_text_encoder(text_encoder: Checkpoint, transformer: Checkpoint) -> None:
    """Raise WanError unless the text encoder writes embeddings of the width the transformer reads."""
    require(text_encoder, "text_encoder")
    writes, reads = umt5_config(text_encoder.header).dim, transformer_config(transformer.header).text_dim
    if writes != reads:
        raise WanError(
            f"{text_encoder.file} writes text embeddings {writes} wide, but {transformer.file} reads "
            f"{reads}; choose the text encoder made for this model"
        )


def _example(slot: Slot, variant: Variant | None) -> str:
    if variant is None:
        return slot.example
    if slot.families == (TRANSFORMER,):
        return slot.example.replace("t2v", variant.task) if variant.boundary else SLOTS[DENSE].example
    return (
        "wan2.2_vae.safetensors"
        if variant.vae_family == VAE_2_2 and VAE_2_1 in slot.families
        else slot.example
    )
