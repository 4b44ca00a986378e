"""The same work by every contestant: a process each, rounds interleaved, the order turned each round."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from . import machine, results
from .weights import Config, write_weights
from .work import CONTESTANTS, Inputs, Task, contestant
from .worker import serve

ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """One line of a suite: a network, its inputs, and what is asked of it."""

    name: str
    words: str
    work: str
    config: Config | None
    inputs: Inputs
    flops: float  # of the plain algorithm, by formula
    warm_up: Inputs | None = None  # smaller inputs, where a whole run would take minutes
    rounds: int | None = None
    clamp: bool = False  # compare within -1..1: one of the peers gives no more


def describe(parser: argparse.ArgumentParser) -> None:
    """The options of every contest."""
    parser.add_argument("--case", action="append", help="only these cases")
    parser.add_argument("--only", action="append", choices=CONTESTANTS, help="only these contestants")
    parser.add_argument(
        "--rounds", type=int, help=f"measured runs of each (default: {ROUNDS}, less where said)"
    )
    parser.add_argument("--threads", type=int, help="threads of each contestant (default: physical cores)")
    parser.add_argument("--folder", type=Path, help="where weights are made (default: a temporary folder)")
    parser.add_argument(
        "--results", type=Path, default=results.FOLDER, help="where the JSON goes (default: bench/results)"
    )


def run_cases(suite: str, cases: Sequence[Case], options: argparse.Namespace) -> int:
    """Run the cases chosen, write the JSON after each, and print the tables; 1 when a contestant failed."""
    names = [name for name in CONTESTANTS if options.only is None or name in options.only]
    names = [name for name in names if contestant(name).version()]
    threads = options.threads or machine.cores()
    record = results.Record(suite, options.results, threads)
    say(f"{suite}: {', '.join(names)}; {threads} threads; {record.head['machine']}")
    good = True
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-") as folder:
        for case in cases:
            if options.case and case.name not in options.case:
                continue
            able = [name for name in names if case.work in contestant(name).WORKS]
            row = run_case(case, able, threads, options.rounds or case.rounds or ROUNDS, Path(folder))
            record.add(row)
            say(results.table(row))
            good = good and not any("failed" in one for one in row["contestants"].values())
    return 0 if good else 1


def run_case(case: Case, names: Sequence[str], threads: int, rounds: int, folder: Path) -> dict[str, Any]:
    """One case's row for the JSON."""
    begin = time.perf_counter()
    say(f"{clock()} {case.name}: {case.words}; {rounds} rounds")
    weights = None
    if case.config is not None:
        weights = folder / f"{abs(hash(case.config))}.safetensors"
        if not weights.exists():
            write_weights(weights, case.config)
    files = folder / "inputs.pt", folder / "warm_up.pt" if case.warm_up else None
    torch.save(case.inputs, files[0])
    if files[1]:
        torch.save(case.warm_up, files[1])
    task = Task(case.work, case.config, weights)
    outputs = {name: folder / f"{name}.pt" for name in names}
    measured = _contest(task, files, outputs, threads, rounds)
    reference, errors = _errors(outputs, case.clamp)
    for name, error in errors.items():
        measured[name]["error"] = error
    for file in outputs.values():
        file.unlink(missing_ok=True)
    return {
        "name": case.name,
        "words": case.words,
        "rounds": rounds,
        "flops": case.flops,
        "reference": reference,
        "seconds": round(time.perf_counter() - begin, 1),
        "contestants": measured,
    }


def _contest(
    task: Task, files: tuple[Path, Path | None], outputs: dict[str, Path], threads: int, rounds: int
) -> dict[str, dict[str, Any]]:
    measured: dict[str, dict[str, Any]] = {name: {"wall": [], "cpu": [], "peak": []} for name in outputs}
    with _workers(task, files, outputs, threads) as pipes:
        for name, pipe in pipes.items():  # one after the other: each warms up alone
            pipe.send("start")
            if (answer := _answer(pipe)) != "ready":
                measured[name] = {"failed": answer}
            say(f"  {clock()} {name}: {answer}")
        for number in range(rounds):
            for name in turned(list(outputs), number):
                if "failed" in measured[name]:
                    continue
                pipes[name].send("go")
                answer = _answer(pipes[name])
                if isinstance(answer, str):
                    measured[name] = {"failed": answer}
                    say(f"  {name}: {answer}")
                    continue
                for key, value in answer.items():
                    measured[name][key].append(value)
            say(f"  {clock()} round {number + 1}: " + _line(measured))
    return measured


@contextmanager
def _workers(
    task: Task, files: tuple[Path, Path | None], outputs: dict[str, Path], threads: int
) -> Iterator[dict[str, Connection]]:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for name, output in outputs.items():
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, name, task, (*files, output), threads))
        process.start()
        theirs.close()
        processes.append(process)
    try:
        yield pipes
        for pipe in pipes.values():
            _tell(pipe, None)
    except BaseException:
        for process in processes:
            process.kill()
        raise
    finally:
        for process in processes:
            process.join()


def _answer(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return "failed: its process ended"


def _tell(pipe: Connection, word: str | None) -> None:
    try:
        pipe.send(word)
    except OSError:  # it ended before
        return


def turned(names: list[str], number: int) -> list[str]:
    """The same names, starting one later in each round."""
    start = number % len(names)
    return names[start:] + names[:start]


def _errors(outputs: dict[str, Path], clamp: bool) -> tuple[str, dict[str, float]]:
    """The reference, the first peer with an answer, and each other's relative L2 distance from it."""
    answers = {name: torch.load(file).double() for name, file in outputs.items() if file.exists()}
    if clamp:
        answers = {name: values.clamp(-1, 1) for name, values in answers.items()}
    peers = [name for name in ("diffusers", "comfyui") if name in answers]
    if not peers:
        return "", {}
    reference = answers[peers[0]]
    others = {name: values for name, values in answers.items() if name != peers[0]}
    return peers[0], {
        name: float((values - reference).norm() / reference.norm()) for name, values in others.items()
    }


def _line(measured: dict[str, dict[str, Any]]) -> str:
    last = {name: one["wall"][-1] for name, one in measured.items() if one.get("wall")}
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in last.items())


def clock() -> str:
    """The time of day, for the lines of a long run."""
    return time.strftime("%H:%M:%S")


def say(line: str) -> None:
    """Print at once, also into a file."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
