"""The Wan2.1 VAE: decode, encode, and whether a longer clip takes more memory."""

from __future__ import annotations

import argparse

from wan_core.models.vae_2_1 import VAEConfig

from . import contest, vae

describe = vae.describe


def run(options: argparse.Namespace) -> int:
    """Measure, print, write."""
    config = VAEConfig(dim=options.width) if options.width else VAEConfig()
    return contest.run_cases("vae21", vae.cases(config, options), options)
