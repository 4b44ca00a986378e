"""Measure the library: `python -m bench SUITE`. A suite is a module with `describe` and `run`."""

from __future__ import annotations

import argparse
import sys

import torch

from . import activations, end_to_end, gpu, load, report, schedule, switch, text, transformer, vae21, vae22

SUITES = {
    "transformer": transformer,
    "vae21": vae21,
    "vae22": vae22,
    "text": text,
    "schedule": schedule,
    "load": load,
    "switch": switch,
    "end_to_end": end_to_end,
    "activations": activations,
    "gpu": gpu,
    "report": report,
}
ALL = "all"


def main(arguments: list[str] | None = None) -> int:
    """Run one suite; its exit status says whether the promise was kept."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    suites = parser.add_subparsers(dest="suite", required=True)
    for name, suite in SUITES.items():
        summary = suite.__doc__.split("\n")[0]
        suite.describe(suites.add_parser(name, help=summary, description=suite.__doc__))
    suites.add_parser(ALL, help="every suite as it is by itself, then the page; gpu where there is one")
    options = parser.parse_args(arguments)
    if options.suite != ALL:
        return SUITES[options.suite].run(options)
    here = [name for name in SUITES if name != "gpu" or torch.cuda.is_available()]
    return max(SUITES[name].run(parser.parse_args([name])) for name in here)


if __name__ == "__main__":
    sys.exit(main())
