"""Measure the library: `python -m bench SUITE`. A suite is a module with `describe` and `run`."""

from __future__ import annotations

import argparse
import sys

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


def main(arguments: list[str] | None = None) -> int:
    """Run one suite; its exit status says whether the promise was kept."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    suites = parser.add_subparsers(dest="suite", required=True)
    for name, suite in SUITES.items():
        summary = suite.__doc__.split("\n")[0]
        suite.describe(suites.add_parser(name, help=summary, description=suite.__doc__))
    options = parser.parse_args(arguments)
    return SUITES[options.suite].run(options)


if __name__ == "__main__":
    sys.exit(main())
