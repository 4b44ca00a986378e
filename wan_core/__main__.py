"""The command line: `python -m wan_core generate | plan | inspect`.

Arguments in, words out; what they do is in pipeline.py, sampling/plan.py and checkpoints/.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from .attention import NAMES
from .checkpoints import inspect, readable
from .errors import WanError
from .memory import parse_size
from .pipeline import check_output, check_request, generate, load_pipeline, with_lora
from .presets import PRESET_NAMES, find_preset
from .request import Request
from .sampling import StepInfo, plan, plan_summary, plan_table
from .schedulers import SCHEDULERS
from .speed import RESIDUALS, Speed
from .tiny import DEFAULTS, weights_dir
from .variants import TASKS, VARIANTS
from .variants.images import RELEASED, ROUNDINGS

BUILT_IN = "wan-tiny"
FAILED, USAGE, INTERRUPTED, PIPE_CLOSED = 1, 2, 130, 141

EXAMPLES = """examples:
  python -m wan_core generate "a red circle moves to the right" --out circle.mp4
  python -m wan_core generate "a cat on a skateboard" --out cat.mp4 --model ComfyUI/models --steps 20
  python -m wan_core generate "the cat jumps" --out jump.mp4 --model ComfyUI/models --image cat.png
  python -m wan_core plan --task t2v --steps 20 --shift 12 --scheduler unipc
  python -m wan_core inspect models/*.safetensors --json"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 a file with problems, 2 a mistake to mend, 130 stopped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names are bytes, and need be no UTF-8
    try:
        options = build_parser().parse_args(arguments)
        status = options.command(options)
        sys.stdout.flush()
        return status
    except WanError as error:
        print(f"wan_core: error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("\nwan_core: stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; what is left to flush goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


# --- generate ---------------------------------------------------------------------------------------------


def run_generate(options: argparse.Namespace) -> int:
    """A prompt to an mp4."""
    started = time.monotonic()
    out = check_output(options.out)
    built_in = options.model in (None, BUILT_IN)
    if built_in and not weights_dir().is_dir():
        raise WanError(
            f"model: there is no {BUILT_IN} in {weights_dir()}; install the pack again, or give --model"
        )
    with_image = options.image is not None or options.end_image is not None
    folder = weights_dir() if built_in else Path(options.model)
    pipeline = load_pipeline(folder, task=options.task, with_image=with_image, vram=options.vram)
    for lora in options.lora:
        pipeline = with_lora(pipeline, *lora)
        print(pipeline.loras[-1].coverage.text(), file=sys.stderr)
    pipeline = dataclasses.replace(pipeline, speed=speed_of(options))
    changes = {name: getattr(options, name) for name in REQUEST_OPTIONS if getattr(options, name) is not None}
    own = dict(DEFAULTS) if built_in else {}
    if options.max_area is not None:  # then a picture gives the size
        own = {name: value for name, value in own.items() if name not in ("width", "height")}
    if options.preset is not None:
        own |= find_preset(pipeline.variant.task, options.preset).settings
    settings = own | changes
    request = check_request(pipeline, Request.for_variant(pipeline.variant, options.prompt, **settings))
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("wancore").setLevel(logging.INFO)  # a 14B expert takes minutes to load: say which one
    with Progress(sys.stderr) as progress, logging_redirect_tqdm():
        planned = generate(pipeline, request, out, progress.step, progress.chunk)
    width, height = request.size(pipeline.variant)
    print(out.resolve())
    print(f"  {request.frames} frames, {width} x {height}, {request.fps:g} fps, seed {request.seed}")
    print(f"  {plan_summary(planned)}")
    print(f"  {time.monotonic() - started:.1f} s")
    return 0


class Progress:
    """Steps, then frames: a bar on a terminal, elsewhere a plain line each."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.bar: tqdm | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, info: StepInfo) -> None:
        """One sampling step is done."""
        detail = f"{info.expert}, timestep {info.timestep:g}" + (", reused" if info.skipped else "")
        self._show("step", info.index + 1, info.total, detail)

    def chunk(self, done: int, total: int) -> None:
        """`done` of `total` frames are decoded and written."""
        self._show("frame", done, total, "decoded")

    def _show(self, unit: str, done: int, total: int, detail: str) -> None:
        if not self.stream.isatty():
            print(f"{unit} {done}/{total}  {detail}", file=self.stream, flush=True)
            return
        if self.bar is None or self.bar.unit != unit:
            self.__exit__()
            self.bar = tqdm(total=total, unit=unit, file=self.stream)
        self.bar.set_postfix_str(detail, refresh=False)
        self.bar.update(done - self.bar.n)


# --- plan and inspect -------------------------------------------------------------------------------------


def run_plan(options: argparse.Namespace) -> int:
    """Every step's timestep, sigma and expert."""
    fields = ("steps", "shift", "scheduler", "boundary")
    own = {} if options.preset is None else find_preset(options.task, options.preset).settings
    given = {field: getattr(options, field) for field in fields if getattr(options, field) is not None}
    planned = plan(options.task, **{field: own[field] for field in fields if field in own} | given)
    print(as_json(planned) if options.json else plan_table(planned))
    return 0


def run_inspect(options: argparse.Namespace) -> int:
    """What each file is. The exit status is 1 when one of them has problems."""
    found = [inspect(path) for path in options.files]
    print(as_json([one.to_dict() for one in found]) if options.json else "\n".join(map(readable, found)))
    return FAILED if any(one.problems for one in found) else 0


def as_json(value: Any) -> str:
    """JSON as the standard has it: never a bare NaN."""
    return json.dumps(value, indent=2, allow_nan=False)


# --- arguments --------------------------------------------------------------------------------------------

# Fields of Request that an option of the same name may change.
REQUEST_OPTIONS = (
    *("negative_prompt", "width", "height", "frames", "fps", "steps", "shift", "boundary"),
    *("guidance_scale_high", "guidance_scale_low", "scheduler", "seed"),
    *("image", "end_image", "max_area", "rounding", "step_cache", "cfg_skip", "cfg_steps"),
)


class OneLineParser(argparse.ArgumentParser):
    """Mistakes in arguments are told like all others: in one line."""

    def error(self, message: str) -> NoReturn:
        raise WanError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """Every command and option, with its help."""
    parser = OneLineParser(
        prog="python -m wan_core",
        description="Wan2.2 video models: a sentence becomes a video.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_generate(commands.add_parser("generate", help="make a video from a prompt"))
    _add_plan(commands.add_parser("plan", help="show every step's timestep, sigma and expert; runs nothing"))
    _add_inspect(commands.add_parser("inspect", help="say what a checkpoint file is"))
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make a video from a prompt, and from pictures where the model takes them. "
        "Settings that are left out are the model's own."
    )
    parser.set_defaults(command=run_generate)
    add = parser.add_argument
    own = _with_defaults
    add("prompt", metavar="PROMPT", help="what the video shows")
    add(
        "--out", required=True, metavar="FILE.mp4", help="where the video goes; its folder is made if need be"
    )
    add(
        "--model",
        metavar="FOLDER",
        help="a folder with a model's transformers, text encoder and VAE: side by side, as in ComfyUI's "
        f"models folder, as released, or as diffusers has them (default: the built-in {BUILT_IN})",
    )
    add(
        "--task",
        choices=TASKS,
        help="which model of the folder (default: with a picture i2v, else t2v, or what is there)",
    )
    add("--image", metavar="FILE", help="the picture the video starts with (i2v, ti2v)")
    add("--end-image", metavar="FILE", help="the picture the video ends with, alone or with --image (i2v)")
    add(
        "--lora",
        metavar="FILE[:HIGH[:LOW]]",
        type=parse_lora,
        action="append",
        default=[],
        help="a LoRA and its strength for the high-noise and the low-noise expert (default: 1, and LOW as "
        "HIGH); the file for the other expert is found by its name; may be given several times",
    )
    add(
        "--negative",
        dest="negative_prompt",
        metavar="TEXT",
        help="what the video should not show (default: as released)",
    )
    side = "a multiple of 16, of ti2v 32; pictures are cropped to this aspect, and give it when left out"
    add("--width", type=int, metavar="PIXELS", help=own(side, "width"))
    add("--height", type=int, metavar="PIXELS", help=own("as --width", "height"))
    add(
        "--max-area",
        type=int,
        metavar="PIXELS",
        help="width times height at most, where a picture gives the aspect (default: the smallest released)",
    )
    add(
        "--rounding",
        choices=ROUNDINGS,
        help="how a picture gives the size: released, whose float rounding makes 832 x 464 of a picture of "
        f"832 x 480 at that area, or exact, which leaves it 832 x 480 (default: {RELEASED})",
    )
    add("--frames", type=int, metavar="N", help=own("4n+1", "frames"))
    add("--fps", type=float, metavar="RATE", help=own("frames per second", "fps"))
    _add_preset(parser)
    add("--steps", type=int, metavar="N", help=own("sampling steps", "steps"))
    add("--shift", type=float, metavar="S", help=own("more of the steps on high noise", "shift"))
    low = "noise level, 0 to 1, below which the low-noise expert works"
    add("--boundary", type=float, metavar="B", help=own(low, "boundary"))
    for expert in ("high", "low"):
        field, what = f"guidance_scale_{expert}", f"guidance of the {expert}-noise expert"
        add(f"--cfg-{expert}", dest=field, type=float, metavar="G", help=own(what, field))
    add(
        "--step-cache",
        type=float,
        metavar="THRESHOLD",
        help="take the last prediction again where it is foretold to be off by less than this share, such as "
        "0.05: faster, and not the same video (default: compute every step)",
    )
    add(
        "--cfg-skip",
        metavar="STEPS",
        help="steps that go without guidance, in half the time: first 2, last 4, after 10, 0-3, or "
        "60%%-100%%, with commas between (default: none)",
    )
    add(
        "--cfg-steps",
        type=int,
        metavar="N",
        help="only the first N steps have guidance (default: 0, which is all)",
    )
    add("--scheduler", metavar="NAME", help=own(f"the solver: {', '.join(SCHEDULERS)}", "scheduler"))
    add(
        "--vram",
        metavar="SIZE",
        type=parse_size,
        help="how much memory the run may use on its device, as 8GB: what does not fit is streamed block by "
        "block, with the same outcome (default: all that is free there; on a CPU files are mapped)",
    )
    add("--seed", type=int, metavar="N", help=own("the same seed gives the same video", "seed"))
    _add_speed(parser)


def _add_preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset",
        choices=PRESET_NAMES,
        metavar="NAME",
        help="settings that belong together, where no other option says otherwise: released; distilled-4 and "
        "three-phase, for the 4-step LoRAs (t2v, i2v); draft, in fewer steps",
    )


def _add_speed(parser: argparse.ArgumentParser) -> None:
    """The fields of Speed, each under its own name."""
    add = parser.add_argument
    add(
        "--attention",
        choices=NAMES,
        default=Speed.attention,
        help="the attention kernel: auto is the fastest exact one that is there; sage computes in 8 bits and "
        "is not exact, the others are (default: %(default)s)",
    )
    add(
        "--compile",
        action="store_true",
        help="torch.compile the network's blocks: exact up to rounding; the first step takes a minute longer",
    )
    add(
        "--residual",
        choices=RESIDUALS,
        default=Speed.residual,
        help="what the residual stream is kept in: 16-bit takes less memory and is not exact (default: "
        "%(default)s)",
    )
    add(
        "--fp8-matmul",
        action="store_true",
        help="multiply weights stored in fp8 in fp8, where the card can: not exact",
    )


def speed_of(options: argparse.Namespace) -> Speed:
    """What the options say about speed."""
    return Speed(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Speed)})


def parse_lora(text: str) -> tuple[Path, float, float | None]:
    """FILE[:HIGH[:LOW]]: a file's name may hold colons, so only numbers at the end count as strengths."""
    number = r":([-+]?(?:\d+\.?\d*|\.\d+))"
    match = re.fullmatch(rf"(.+?)(?:{number})?(?:{number})?", text)
    if match is None:
        raise WanError("--lora: the name of the file is missing; give FILE, FILE:0.8 or FILE:0.8:1.2")
    file, high, low = match.groups()
    return Path(file), float(high or 1), None if low is None else float(low)


def _with_defaults(what: str, field: str) -> str:
    """Help for an option that sets a field of Request: what it is, and what it is when left out."""
    released = {variant.task: getattr(Request.for_variant(variant, ""), field) for variant in VARIANTS}
    values = list(dict.fromkeys(released.values()))
    default = str(values[0])
    if len(values) > 1:
        default = ", ".join(f"{task} {value}" for task, value in released.items() if value is not None)
    built_in = DEFAULTS.get(field)
    return f"{what} (default: {default}" + (")" if built_in is None else f", {BUILT_IN} {built_in})")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show every step's timestep, sigma and expert, and where the experts switch."
    parser.set_defaults(command=run_plan)
    add = parser.add_argument
    add("--task", choices=TASKS, default="t2v", help="which model's defaults to take (default: %(default)s)")
    _add_preset(parser)
    add("--steps", type=int, metavar="N", help="sampling steps (default: as released, 40 or 50)")
    add("--shift", type=float, metavar="S", help="schedule shift (default: as released, 12 or 5)")
    add("--scheduler", metavar="NAME", help=f"the solver: {', '.join(SCHEDULERS)} (default: unipc)")
    add("--boundary", type=float, metavar="B", help="switch point, 0 to 1 (default: as released)")
    add("--json", action="store_true", help='{"steps": [{"timestep", "sigma", "expert"}], "switch": index}')


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say what each file is, from its header alone: nothing is loaded and nothing in it is run. "
        "The exit status is 1 when a file has problems."
    )
    parser.set_defaults(command=run_inspect)
    parser.add_argument("files", nargs="+", metavar="FILE", help="checkpoint files")
    parser.add_argument("--json", action="store_true", help="a list with one object per file")


if __name__ == "__main__":
    sys.exit(main())
