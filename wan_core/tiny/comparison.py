"""The command line of what compares wan-tiny's clips of held-out prompts, made in several ways."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..pipeline import Pipeline, load_pipeline
from . import DEFAULTS, weights_dir
from .evaluate import Case


def run_comparison(
    about: str,
    cases: Callable[[int, int], list[Case]],
    compare: Callable[[Pipeline, list[Case]], dict[str, Any]],
) -> None:
    """Compare on as many cases, of the seed, as the command line says, and write the figures where it says.

    about: the script's own docstring.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=24, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("wancore.tiny").setLevel(logging.INFO)
    figures = compare(load_pipeline(weights_dir(), task="t2v"), cases(args.prompts, args.seed))
    if args.json:
        told = {"prompts": args.prompts, "seed": args.seed, "steps": DEFAULTS["steps"], **figures}
        args.json.write_text(json.dumps(told, indent=2) + "\n")
