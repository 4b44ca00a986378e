"""What fits where: sizes and budgets (`budget.py`), the choice (`choice.py`), and blocks that come and go
(`streamer.py`).

Nothing here knows a model or a file: it gets bytes, and modules whose weights lie on the host.
"""

from __future__ import annotations

from .budget import RESERVE, HostMemory, free_bytes, give_back, host_memory, parse_size, shown_size
from .choice import SLABS, Residence, Weights, choose, least_bytes, streamed_indices, weigh
from .streamer import Streamer

__all__ = [
    "RESERVE",
    "SLABS",
    "HostMemory",
    "Residence",
    "Streamer",
    "Weights",
    "choose",
    "free_bytes",
    "give_back",
    "host_memory",
    "least_bytes",
    "parse_size",
    "shown_size",
    "streamed_indices",
    "weigh",
]
