"""LoRA: small changes to a network, in whatever names and form a file has them.

keys.py takes names apart, adapters.py computes with the factors, fit.py finds each tensor's place in a
network, coverage.py says what became of them, attach.py lets the network compute with them. Files are opened
by checkpoints/loras.py, which also knows the two experts.
"""

from __future__ import annotations

from .attach import attached, change_bytes, with_changes
from .coverage import Coverage, ExpertCoverage
from .fit import UNMATCHED, Change, Outcome, Scaling, fit, network_of
from .keys import parse_key

__all__ = [
    "UNMATCHED",
    "Change",
    "Coverage",
    "ExpertCoverage",
    "Outcome",
    "Scaling",
    "attached",
    "change_bytes",
    "fit",
    "network_of",
    "parse_key",
    "with_changes",
]
