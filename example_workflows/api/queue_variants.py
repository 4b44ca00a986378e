"""Queue many variants of one graph on a running ComfyUI, and make a page of them.

    python queue_variants.py text_to_video.json variants.csv --out out/variants

A variant is a row of a CSV or JSON file: `name`, and as wanted `prompt`, `look` (terms of the Aesthetic
node), `seed` and any NODE.INPUT. A seed that is not given follows from the name. The folder gets each
variant's video and contact sheet, manifest.jsonl and index.html. Run it again after a change or an
interruption: what is finished and unchanged is kept.

From Python:

    from queue_client import Client, read_graph
    from queue_variants import Variant, run_variants
    variants = [Variant("dawn", "a blue star turns"), Variant("dusk", look=("night time",), seed=5)]
    rows = run_variants(Client(), read_graph("text_to_video.json"), variants, "out/variants")

It needs queue_client.py in the same folder, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import hashlib
import html
import json
import sys
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from queue_client import (
    SEEDS,
    CancelledError,
    Client,
    ForgottenError,
    Graph,
    Lines,
    QueueError,
    Result,
    Say,
    UnreachableError,
    called,
    choices,
    graph_and_canvas,
    guarded,
    is_link,
    listed,
    read_json,
    shared_options,
)

PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Variant:
    """One row of a variants file: a graph's prompt, look, seed and other inputs under a name."""

    name: str
    prompt: str | None = None
    look: tuple[str, ...] = ()  # terms of Aesthetic (WanCore), such as "night time"
    seed: int | None = None  # None: derived from the name
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The name as its files have it."""
        letters = (letter if letter.isalnum() or letter in "-_" else "_" for letter in self.name.strip())
        return "".join(letters)[:80]


def seed_of(name: str) -> int:
    """A variant's seed: the first 12 hex digits of its name's SHA-256, which JavaScript holds exactly.

    It depends on nothing else, so that adding, removing and moving variants changes no other.
    """
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16)


def read_variants(path: str | Path) -> list[Variant]:
    """The variants of a JSON list or a CSV file. Raises QueueError naming the row that is wrong.

    Columns: name; prompt, look and seed if wanted; any other is an input, such as Sampler.steps. An empty
    cell leaves the graph's own value.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows: Any = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise QueueError(f"{path} cannot be read: {error}") from error
    else:
        rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise QueueError(f"{path}: no variants; write a list of rows with a name each")
    return [_variant(row, f"{path}, variant {number}") for number, row in enumerate(rows, 1)]


def _check_names(variants: list[Variant]) -> None:
    stems = [variant.stem.casefold() for variant in variants]
    for variant, stem in zip(variants, stems, strict=True):
        if stems.count(stem) > 1:
            raise QueueError(
                f"variant {variant.name!r}: the name is there twice, or too like another for a file's name"
            )


def _variant(row: Any, where: str) -> Variant:
    if not isinstance(row, dict) or None in row:
        raise QueueError(f"{where}: it has more cells than the first line has names, or is no row")
    given = {key.strip(): value for key, value in row.items() if value not in (None, "")}
    name, prompt, seed = (given.pop(key, None) for key in ("name", "prompt", "seed"))
    look = given.pop("look", ())
    settings = given.pop("set", {})
    if not isinstance(name, str) or not name.strip():
        raise QueueError(f"{where}: it has no name")
    try:
        seed = None if seed is None else int(seed)
        settings = {**settings, **given}
        terms = [term.strip() for term in (look.split(",") if isinstance(look, str) else look)]
    except (TypeError, ValueError, AttributeError) as error:
        raise QueueError(
            f"{where}: seed must be a whole number, set a table of inputs, and look a list of terms"
        ) from error
    if unknown := [key for key in settings if "." not in key]:
        raise QueueError(f"{where}: {unknown[0]!r} is neither name, prompt, look, seed nor NODE.INPUT")
    return Variant(name, prompt, tuple(filter(None, terms)), seed, settings)


def run_variants(
    client: Client,
    graph: Graph,
    variants: list[Variant],
    folder: str | Path,
    canvas: dict[str, Any] | None = None,
    report: Say | None = None,
) -> list[dict[str, Any]]:
    """Make all variants of a graph, one after the other; returns their rows of the manifest.

    `folder` gets NAME.mp4 and NAME.jpg for each, manifest.jsonl and index.html. What an earlier call finished
    is left as it is if neither its inputs nor its files have changed; what it was waiting for is waited for
    again. A variant that fails does not stop the others. Raises QueueError before anything is queued for a
    row that does not fit the graph, and UnreachableError when the server is gone.
    """
    _check_names(variants)
    folder, report = Path(folder), report or (lambda _: None)
    graphs = [graph_of(client, graph, variant) for variant in variants]
    folder.mkdir(parents=True, exist_ok=True)
    manifest = _Manifest(folder, variants, graphs)
    for number, (variant, its_graph) in enumerate(zip(variants, graphs, strict=True), 1):
        label = f"[{number}/{len(variants)}] {variant.name}: "

        def say(words: str, label: str = label) -> None:
            report(label + words)

        if manifest.is_finished(variant):
            say("kept, nothing has changed")
        else:
            say(_make(client, variant, its_graph, canvas, manifest, say))
    return [manifest.rows[variant.name] for variant in variants]


def graph_of(client: Client, graph: Graph, variant: Variant) -> Graph:
    """The graph with a variant's inputs; what its settings say goes before all else."""
    try:
        made = _with_contact_sheets(client, graph)
        if variant.prompt is not None:
            node, name = the_prompt(made)
            made[node]["inputs"][name] = variant.prompt
        if variant.seed is not None and not _seeds(made):
            raise QueueError("seed: no node of the graph has one")
        for node, name in _seeds(made):  # of all Samplers: looks side by side share their noise
            made[node]["inputs"][name] = seed_of(variant.name) if variant.seed is None else variant.seed
        if variant.look:
            _look(client, made, variant.look)
        made = client.change(made, variant.settings)
    except UnreachableError:
        raise
    except QueueError as error:
        raise QueueError(f"variant {variant.name!r}: {error}") from error
    return made


def _with_contact_sheets(client: Client, graph: Graph) -> Graph:
    """A copy of the graph whose Save Video writes the pictures for the page, too."""
    made = copy.deepcopy(graph)
    for node in made.values():
        if node["class_type"] == "WanCoreSaveVideo":
            options = choices(client.inputs(node["class_type"]).get("contact_sheet"))
            node["inputs"] |= {"contact_sheet": options[-1]} if options else {}
    return made


def the_prompt(graph: Graph) -> tuple[str, str]:
    """(node id, input) of the graph's one positive prompt, found by its links."""
    found = _prompts(graph)
    if len(found) == 1:
        return found[0]
    several = ", ".join(f"{called(graph, node)}.{name}" for node, name in found)
    raise QueueError(f"prompt: the graph has {several or 'none'}; name the input yourself, as NODE.INPUT")


def _prompts(graph: Graph) -> list[tuple[str, str]]:
    """Of what takes a prompt, the Samplers: nodes whose input `positive` is linked."""
    starts = [(node, "positive") for node, about in graph.items() if is_link(about["inputs"].get("positive"))]
    return _sources(graph, starts, ("positive", "prompt", "text", "value"))


def _seeds(graph: Graph) -> list[tuple[str, str]]:
    starts = [(node, name) for node, about in graph.items() for name in SEEDS if name in about["inputs"]]
    return _sources(graph, starts, (*SEEDS, "value"))


def _sources(graph: Graph, starts: list[tuple[str, str]], onward: tuple[str, ...]) -> list[tuple[str, str]]:
    """Where these inputs' values come from, through links to inputs called one of `onward`, each once."""
    found: dict[tuple[str, str], None] = {}
    for start in starts:
        place: tuple[str, str] | None = start
        for _ in graph:  # no way is longer, even in a ring
            if place is None or not is_link(value := graph[place[0]]["inputs"][place[1]]):
                break
            feeder = graph.get(value[0], {}).get("inputs", {})
            place = next(((value[0], name) for name in onward if name in feeder), None)
        if place is not None:
            found[place] = None
    return list(found)


def _look(client: Client, graph: Graph, terms: tuple[str, ...]) -> None:
    """Choose the terms in the graph's Aesthetic node, which is put before the prompt if there is none."""
    kind = "WanCoreAesthetic"
    lists = {name: options for name, spec in client.inputs(kind).items() if (options := choices(spec))}
    if not lists:
        raise QueueError("look: the server has no node Aesthetic (WanCore)")
    chosen = {name: options[0] for name, options in lists.items()}
    for term in terms:
        homes = [name for name, options in lists.items() if term.casefold() in map(str.casefold, options)]
        if len(homes) != 1:
            raise QueueError(f"look: {term!r} is {'in ' + listed(homes) if homes else 'no term'} of {kind}")
        chosen[homes[0]] = next(word for word in lists[homes[0]] if word.casefold() == term.casefold())
    nodes = [node for node, about in graph.items() if about["class_type"] == kind]
    if len(nodes) > 1:
        raise QueueError(
            f"look: the graph has {len(nodes)} of {kind}; name their inputs yourself, as NODE.INPUT"
        )
    if not nodes:
        node, name = the_prompt(graph)
        nodes = ["look"]
        graph["look"] = {"class_type": kind, "inputs": {"prompt": graph[node]["inputs"][name]}, "_meta": {}}
        graph[node]["inputs"][name] = ["look", 0]
    graph[nodes[0]]["inputs"] |= chosen


def _make(
    client: Client,
    variant: Variant,
    graph: Graph,
    canvas: dict[str, Any] | None,
    manifest: _Manifest,
    say: Say,
) -> str:
    """Bring one variant to its end and into the manifest; returns what came of it."""
    prompt_id, result = manifest.waited_for(variant), None
    try:
        if prompt_id:
            with contextlib.suppress(ForgottenError):
                result = client.wait(prompt_id, say)
        if result is None:
            prompt_id = client.queue(graph, canvas)
            manifest.note(variant, status="queued", prompt_id=prompt_id)
            result = client.wait(prompt_id, say)
        files = _fetch_as(client, result, manifest.folder, variant.stem)
    except UnreachableError:
        raise
    except KeyboardInterrupt:
        if prompt_id:
            client.cancel(prompt_id)
        manifest.note(variant, status="cancelled", error="cancelled from the keyboard")
        raise
    except QueueError as error:
        status = "cancelled" if isinstance(error, CancelledError) else "failed"
        manifest.note(variant, status=status, error=str(error))
        return f"{status}: {error}"
    manifest.note(variant, status="finished", prompt_id=prompt_id, **files, seconds=round(result.seconds, 1))
    names = ", ".join(str(manifest.folder / name) for name in files["files"])
    return f"{names} ({'kept by the server' if result.cached else f'{result.seconds:.0f} s'})"


def _fetch_as(client: Client, result: Result, folder: Path, stem: str) -> dict[str, Any]:
    """Fetch a variant's files under its own name; returns the manifest's cells about them."""
    names: list[str] = []
    for file in result.files:
        ending, number = Path(file.name).suffix.lower(), 1
        while (name := stem + (f"_{number}" if number > 1 else "") + ending) in names:
            number += 1
        client.download(file, folder / f".{stem}.part").replace(folder / name)
        names.append(name)
    if not names:
        raise QueueError("the graph saves nothing: it needs a Save Video (WanCore)")
    videos = [name for name in names if not name.endswith(PICTURES)]
    sheets = [name for name in names if name.endswith(PICTURES)]
    return {"file": (videos or names)[0], "contact_sheet": (sheets or [None])[0], "files": names}


class _Manifest:
    """manifest.jsonl and index.html of a folder of variants, written anew after each change."""

    def __init__(self, folder: Path, variants: list[Variant], graphs: list[Graph]) -> None:
        self.folder, self.variants = folder, variants
        self.path = folder / "manifest.jsonl"
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        self.rows: dict[str, dict[str, Any]] = {}
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError, TypeError, KeyError):
                row = json.loads(line)
                self.rows[row["name"]] = row
        self.asked = {
            variant.name: _asked(variant, graph) for variant, graph in zip(variants, graphs, strict=True)
        }

    def is_finished(self, variant: Variant) -> bool:
        """Whether it was made from these very inputs and its files are still there."""
        row = self._same(variant)
        files = row.get("files") or []
        return row.get("status") == "finished" and all((self.folder / name).is_file() for name in files)

    def waited_for(self, variant: Variant) -> str | None:
        """The id of the job that an earlier call queued for these inputs and did not see the end of."""
        row = self._same(variant)
        return row.get("prompt_id") if row.get("status") == "queued" else None

    def note(self, variant: Variant, status: str, **cells: Any) -> None:
        """Keep a variant's row, and show it."""
        row = {**self.asked[variant.name], "status": status, **cells}
        self.rows = {**self.rows, variant.name: row}
        ours = [self.rows[one.name] for one in self.variants if one.name in self.rows]
        others = [row for name, row in self.rows.items() if name not in self.asked]
        _write(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*ours, *others]))
        _write(self.folder / "index.html", page_of(ours))

    def _same(self, variant: Variant) -> dict[str, Any]:
        row = self.rows.get(variant.name, {})
        return row if row.get("inputs") == self.asked[variant.name]["inputs"] else {}


def _asked(variant: Variant, graph: Graph) -> dict[str, Any]:
    """A row's first cells: all that was asked for, and a hash of it."""
    bare = {node: [about["class_type"], about["inputs"]] for node, about in graph.items()}
    seeds = _seeds(graph)
    prompts = _prompts(graph)
    return {
        "name": variant.name,
        "prompt": graph[prompts[0][0]]["inputs"][prompts[0][1]] if len(prompts) == 1 else None,
        "look": list(variant.look),
        "seed": graph[seeds[0][0]]["inputs"][seeds[0][1]] if seeds else None,
        "set": variant.settings,
        "inputs": hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest(),
    }


def _write(path: Path, text: str) -> None:
    """So that a reader never sees half a file, and an interruption leaves the old one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, "utf-8")
    part.replace(path)


def page_of(rows: list[dict[str, Any]]) -> str:
    """The rows as a page: a contact sheet beside each variant's prompt and seed."""
    done = sum(row["status"] == "finished" for row in rows)
    cards = "\n".join(map(_card, rows))
    return PAGE.format(count=f"{done} of {len(rows)} variants finished", cards=cards)


def _card(row: dict[str, Any]) -> str:
    about = [f"seed {row['seed']}"] if row["seed"] is not None else []
    about += [", ".join(row["look"])] if row["look"] else []
    about += [f"{name} = {value}" for name, value in row["set"].items()]
    about += [f"{row['seconds']} s"] if "seconds" in row else []
    if row["status"] == "finished":
        others = [name for name in row["files"] if name not in (row["file"], row["contact_sheet"])]
        end = " ".join(f'<a href="{_href(name)}">{html.escape(name)}</a>' for name in [row["file"], *others])
    else:
        end = f"<em>{html.escape(row['status'])}</em> {html.escape(row.get('error', ''))}"
    return CARD.format(
        shown=_shown(row),
        name=html.escape(row["name"]),
        prompt=html.escape(row["prompt"] or ""),
        about=html.escape(" \u00b7 ".join(about)),
        end=end,
    )


def _shown(row: dict[str, Any]) -> str:
    if row["status"] != "finished":
        return ""
    video, sheet = _href(row["file"]), row["contact_sheet"]
    if sheet:
        words = html.escape(f"first, middle and last frame of {row['name']}")
        return f'<a href="{video}"><img src="{_href(sheet)}" alt="{words}" loading="lazy"></a>'
    return f'<video src="{video}" controls loop muted preload="metadata"></video>'


def _href(name: str) -> str:
    return html.escape(urllib.parse.quote(name))


CARD = """<article>
<div>{shown}</div>
<section><h2>{name}</h2><p>{prompt}</p><p class="about">{about}</p><p>{end}</p></section>
</article>"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Variants</title><style>
body {{ margin: 2rem auto; max-width: 72rem; padding: 0 1rem; background: #1c1e22; color: #d7dae0;
  font: 16px/1.5 system-ui, sans-serif }}
h1 {{ font-size: 1.25rem; font-weight: 500 }} h2 {{ margin: 0; font-size: 1.05rem }}
article {{ display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 1.5rem;
  align-items: center; margin: 1rem 0; padding: 1rem; background: #25282d; border-radius: 10px }}
p {{ margin: .4rem 0; overflow-wrap: anywhere }} .about {{ color: #9aa0aa; font-size: .875rem }}
img, video {{ display: block; width: 100%; max-height: 20rem; object-fit: contain; border-radius: 6px }}
a {{ color: #4c9bf5 }} em {{ color: #f0883e; font-style: normal; font-weight: 600 }}
@media (max-width: 44rem) {{ article {{ grid-template-columns: 1fr }} }}
</style></head><body>
<h1>{count}</h1>
{cards}
</body></html>
"""


# -------------------------------------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 0, 1 when a variant failed, 130 after Ctrl-C."""
    return guarded(_run, options_parser().parse_args(arguments))


def options_parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(
        description="Queue many variants of one graph on a running ComfyUI.", parents=[shared_options()]
    )
    parser.add_argument("graph", help="a graph in API format")
    parser.add_argument("variants", help="a CSV or JSON file with a row for each")
    return parser


def _run(options: argparse.Namespace, lines: Lines) -> int:
    client, folder = Client(options.url), Path(options.out)
    variants = read_variants(options.variants)
    graph, canvas = graph_and_canvas(options, client)
    rows = run_variants(client, graph, variants, folder, canvas, lines.show)
    lines.end()
    for row in rows:
        if row["status"] == "finished":
            print(folder / row["file"])
        else:
            print(f"{row['name']}: {row['status']}: {row['error']}", file=sys.stderr)
    print(f"see {folder / 'index.html'}", file=sys.stderr)
    return 0 if all(row["status"] == "finished" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
