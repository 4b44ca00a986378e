"""Weight files: say what they are (`inspect`), open them (`open_checkpoint`), fill modules (`load_module`).

Three small axes, a file each: the container (safetensors.py, gguf.py), the names (layouts.py), the numbers
(quantization.py). A file is recognised by its tensors' names and shapes, never by what it is called.
"""

from __future__ import annotations

from .audit import audit, fill, load_module
from .checkpoint import Checkpoint, look_into, open_checkpoint, usable
from .configs import transformer_config, umt5_config, vae_config
from .inspection import Inspection, inspect, readable
from .known import CLIPS, latent_rgb
from .local_names import local_name, named_alike
from .pairs import expert_of, find_partner
from .slots import check_pair, check_text_encoder, require
from .tokenizers import tokenizer_of
from .twins import same_weights

__all__ = [
    "CLIPS",
    "Checkpoint",
    "Inspection",
    "audit",
    "check_pair",
    "check_text_encoder",
    "expert_of",
    "fill",
    "find_partner",
    "inspect",
    "latent_rgb",
    "load_module",
    "local_name",
    "look_into",
    "named_alike",
    "open_checkpoint",
    "readable",
    "require",
    "same_weights",
    "tokenizer_of",
    "transformer_config",
    "umt5_config",
    "usable",
    "vae_config",
]
