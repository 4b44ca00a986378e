"""The Wan2.2 VAE: decode, encode, and whether a longer clip takes more memory."""

from __future__ import annotations

import argparse

from wan_core.models.vae_2_2 import VAE22Config

from . import contest, vae

describe = vae.describe


def run(options: argparse.Namespace) -> int:
    """Measure, print, write."""
    config = VAE22Config()
    if options.width:
        config = VAE22Config(dim=options.width, decoder_dim=options.width)
    return contest.run_cases("vae22", vae.cases(config, options), options)
