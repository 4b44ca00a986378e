"""Whether two files hold the same network, whatever they are called and however their numbers are stored."""

from __future__ import annotations

from ..errors import WanError
from .checkpoint import Checkpoint
from .rounding import ROUNDING, close

# Small tensors that training moves: enough to tell two experts apart, read in a moment.
_TELLTALE = (
    *("head.modulation", "head.head.bias", "patch_embedding.bias", "time_projection.1.bias"),
    *("blocks.0.modulation", "blocks.0.self_attn.norm_q.weight", "blocks.0.cross_attn.norm_k.weight"),
)


def same_weights(first: Checkpoint, second: Checkpoint) -> bool:
    """Whether two transformers are the same, in their small tensors and within what their dtypes can tell.

    Files of one dtype must agree exactly. Tensors kept in blocks (GGUF rarely does it to small ones) are
    passed over.
    """
    names = [name for name in _TELLTALE if name in first.header]
    if not names:
        raise WanError(f"{first.file}: is {first.inspection.words}; only transformers are compared")
    if names != [name for name in _TELLTALE if name in second.header]:
        return False
    dtypes = {name: (first.header[name].dtype, second.header[name].dtype) for name in names}
    names = [name for name in names if ROUNDING.keys() >= set(dtypes[name])]
    return bool(names) and all(
        close(first.tensor(name), second.tensor(name), *dtypes[name]) for name in names
    )
