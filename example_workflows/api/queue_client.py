"""Queue a graph on a running ComfyUI without a browser: change its inputs, follow it, fetch what it made.

    python queue_client.py text_to_video.json --set Sampler.seed=8 --set 'Text Encode.positive=a blue star'
    python queue_client.py text_to_video.json --variants variants.csv --out out/variants
    python queue_client.py --attach PROMPT_ID                 (after a lost connection)

The graph is in API format: ComfyUI's File > Export (API), or a file beside this one. `--set NODE.INPUT=VALUE`
names a node by its id, its title or its class. Paths of fetched files go to stdout, progress to stderr.

From Python:

    from queue_client import Client
    client = Client("http://127.0.0.1:8188")
    graph = client.change(json.load(open("text_to_video.json")), {"Sampler.seed": 8})
    paths = client.fetch(client.wait(client.queue(graph)), "out")

This file needs Python 3.10 and nothing else, so it can be copied anywhere. With `websocket-client` installed
progress arrives as it happens; without it the server is asked every second.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import filecmp
import hashlib
import html
import http.client
import json
import struct
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    import websocket
except ImportError:
    websocket = None
HAS_WEBSOCKET = hasattr(websocket, "create_connection")  # another package has that name, too

URL = "http://127.0.0.1:8188"
PATIENCE = 120.0  # seconds that a server may be gone before its job is given up
ANSWER_SECONDS = 60.0
# How often the job's state is asked for; with a websocket that is only a net under it.
POLL_SECONDS, POLL_SECONDS_LIVE = 1.0, 5.0
CHUNK = 1 << 20
AWAY = (502, 503, 504)  # a proxy's word for a server that is not there

Graph = dict[str, dict[str, Any]]  # API format: {id: {"class_type", "inputs", "_meta"}}


class QueueError(Exception):
    """Base of all that goes wrong here: one line that says what, and what to do."""


class UnreachableError(QueueError):
    """No ComfyUI answers, or it stopped answering."""


class RejectedError(QueueError):
    """The server found fault with the graph; `lines` name the node, the input and the fault."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        super().__init__("the server refuses the graph: " + "; ".join(lines))


class FailedError(QueueError):
    """A node failed while it ran."""


class CancelledError(QueueError):
    """The job was cancelled, here or in a browser."""


class ForgottenError(QueueError):
    """The server does not know the job: it was taken from the queue, or the server was started anew."""


class _StatusError(QueueError):
    """An HTTP status other than 200."""

    def __init__(self, path: str, code: int, body: bytes) -> None:
        self.code, self.body = code, body
        super().__init__(f"{path}: the server answers {code}; is it a ComfyUI, and a recent one?")


@dataclass(frozen=True)
class Progress:
    """What a job is doing: a line, and how far its working node is, where it says so."""

    text: str
    value: int = 0
    total: int = 0


@dataclass(frozen=True)
class File:
    """A file that a node wrote on the server; `kind` is its folder there: output or temp."""

    node: str
    name: str
    subfolder: str
    kind: str


@dataclass(frozen=True)
class Result:
    """What a finished job left: files, lines of text by node, and the seconds it took on the server.

    `cached` means that nothing had changed since an earlier run, whose files these are.
    """

    prompt_id: str
    files: tuple[File, ...]
    texts: dict[str, str]
    seconds: float
    cached: bool


OnProgress = Callable[[Progress], None]


# ---------------------------------------------------------------------------------------------- the server


class Client:
    """One ComfyUI server."""

    def __init__(self, url: str = URL, patience: float = PATIENCE) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.patience = patience
        self._graphs: dict[str, Graph] = {}
        self._known: dict[str, dict[str, Any]] = {}

    def change(self, graph: Graph, settings: Mapping[str, Any]) -> Graph:
        """A copy of `graph` with inputs changed: {"Sampler.seed": 7, "4.positive": "..."}.

        A local file for an input that takes uploads (Load Image's) is uploaded. Raises QueueError for a name
        that fits no node or several, and for an input the node does not have.
        """
        changed = copy.deepcopy(graph)
        for name, value in settings.items():
            node, field_name = find_input(changed, name)
            spec = self.inputs(changed[node]["class_type"])
            if field_name not in changed[node]["inputs"] and field_name.split(".")[0] not in spec:
                raise QueueError(f"{name}: {_called(changed, node)} has the inputs {_listed(spec)}")
            changed[node]["inputs"][field_name] = self._uploaded(spec.get(field_name), value)
        return changed

    def queue(self, graph: Graph, canvas: dict[str, Any] | None = None) -> str:
        """Queue a graph; returns the job's prompt id. Raises RejectedError if any part of it is unsound.

        `canvas` is the same graph as ComfyUI saves it: with it the video brings the canvas back as it was
        laid out. It is given the graph's values, and refused where it is not its twin.
        """
        # The job's own id serves as its client's, so that whoever knows the id can listen again.
        prompt_id = str(uuid.uuid4())
        body: dict[str, Any] = {"prompt": graph, "prompt_id": prompt_id, "client_id": prompt_id}
        if canvas is not None:
            twin = filled_canvas(canvas, graph, self.inputs)
            body["extra_data"] = {"extra_pnginfo": {"workflow": twin}}
        try:
            faults = self._post("/prompt", body).get("node_errors")
        except _StatusError as error:
            if error.code != 400:
                raise
            raise RejectedError(fault_lines(graph, json.loads(error.body))) from error
        except UnreachableError:
            # Perhaps only the answer was lost.
            if not self._knows(prompt_id):
                raise
            faults = None
        if faults:  # the server would run the sound part of it
            self.cancel(prompt_id)
            raise RejectedError(fault_lines(graph, {"node_errors": faults}))
        self._graphs[prompt_id] = graph
        return prompt_id

    def wait(self, prompt_id: str, on_progress: OnProgress | None = None) -> Result:
        """Follow a job to its end, through lost connections. Any job of the server can be waited for.

        Raises FailedError, CancelledError, ForgottenError, and UnreachableError when the server has been gone
        for `patience` seconds: the job may run on, and can be waited for again.
        """
        seen_at = time.monotonic()
        with _Listener(self.url, prompt_id, self._graphs.get(prompt_id, {}), on_progress) as listener:
            while True:
                try:
                    job = self._job(prompt_id)
                    if job["status"] not in ("pending", "in_progress"):
                        return self._result(prompt_id, job)
                    before = self._before(prompt_id) if job["status"] == "pending" else 0
                    seen_at = time.monotonic()
                except UnreachableError as error:
                    if time.monotonic() - seen_at > self.patience:
                        raise UnreachableError(
                            f"{error} Job {prompt_id} may run on: attach to it."
                        ) from error
                    time.sleep(POLL_SECONDS)
                    continue
                listener.tell_state(job["status"], before)
                listener.listen()

    def fetch(self, result: Result, folder: str | Path) -> list[Path]:
        """Copy a result's files into `folder`; returns where they are, in order.

        A name that another file has already gets a number. Without files in the server's output folder those
        it shows from its temporary one are taken. Raises QueueError for a file that is gone.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for file in kept_files(result):
            arrived = self.download(file, folder / f".{result.prompt_id}.part")
            paths.append(_settle(arrived, folder / Path(file.name).name))
        return paths

    def download(self, file: File, path: Path) -> Path:
        """Copy one file to `path`, a piece at a time; returns `path`."""
        query = urllib.parse.urlencode(
            {"filename": file.name, "subfolder": file.subfolder, "type": file.kind}
        )
        try:
            with _translated(self.url, f"/view ({file.name})"), self._open(f"/view?{query}") as answer:
                with path.open("wb") as out:
                    while piece := answer.read(CHUNK):
                        out.write(piece)
                expected = answer.headers.get("Content-Length")
        except _StatusError as error:
            raise QueueError(
                f"{file.name}: the job's file is not in the server's {file.kind} folder any more. If it was "
                "kept from an earlier run, change an input of the node that saves it and queue it again"
            ) from error
        if expected is not None and path.stat().st_size != int(expected):
            raise UnreachableError(f"{file.name}: the connection was lost at {path.stat().st_size} bytes.")
        return path

    def cancel(self, prompt_id: str) -> bool:
        """Take a job from the queue, or stop it; False if it had ended."""
        return bool(self._post(f"/api/jobs/{prompt_id}/cancel", {}).get("cancelled"))

    def upload(self, path: str | Path) -> str:
        """Put a local picture or video into the server's input folder; returns its name for Load Image."""
        path = Path(path)
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n'
        data = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + path.read_bytes()
        data += f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        answer = json.loads(self._send("/upload/image", data, kind))
        return f"{answer['subfolder']}/{answer['name']}" if answer.get("subfolder") else answer["name"]

    def inputs(self, class_type: str) -> dict[str, Any]:
        """A node class's inputs as the server describes them; empty if it does not have the node."""
        if class_type not in self._known:
            name = urllib.parse.quote(class_type)
            described = self._get(f"/object_info/{name}").get(class_type, {}).get("input", {})
            self._known[class_type] = {**described.get("required", {}), **described.get("optional", {})}
        return self._known[class_type]

    def _uploaded(self, spec: Any, value: Any) -> Any:
        takes = isinstance(spec, list) and len(spec) > 1 and isinstance(spec[1], dict)
        if not takes or not any(key.endswith("_upload") and on for key, on in spec[1].items()):
            return value
        return self.upload(value) if isinstance(value, str) and Path(value).is_file() else value

    def _job(self, prompt_id: str) -> dict[str, Any]:
        try:
            return self._get(f"/api/jobs/{prompt_id}")
        except _StatusError as error:
            if error.code != 404:
                raise
            raise ForgottenError(
                f"the server does not know job {prompt_id}: it was taken from the queue, or ComfyUI was "
                "started anew. Queue it again"
            ) from error

    def _knows(self, prompt_id: str) -> bool:
        try:
            return bool(self._job(prompt_id))
        except ForgottenError:
            return False

    def _before(self, prompt_id: str) -> int:
        """How many jobs come before a waiting one; 0 for one that runs."""
        queue = self._get("/queue")
        waiting = [job[1] for job in sorted(queue["queue_pending"], key=lambda job: job[0])]
        return len(queue["queue_running"]) + waiting.index(prompt_id) if prompt_id in waiting else 0

    def _result(self, prompt_id: str, job: dict[str, Any]) -> Result:
        if job["status"] == "cancelled":
            raise CancelledError(f"job {prompt_id} was cancelled")
        entry = self._get(f"/history/{prompt_id}")[prompt_id]
        events = dict(entry["status"]["messages"])
        if job["status"] == "failed":
            raise FailedError(_failure(entry["prompt"][2], events.get("execution_error", {})))
        outputs = entry["outputs"]
        files = tuple(_files(outputs))
        kept = set(events.get("execution_cached", {}).get("nodes", ()))
        start, end = events.get("execution_start", {}), events.get("execution_success", {})
        return Result(
            prompt_id,
            files,
            {node: "\n".join(map(str, shown["text"])) for node, shown in outputs.items() if "text" in shown},
            (end.get("timestamp", 0) - start.get("timestamp", 0)) / 1000,
            bool(files) and {file.node for file in files} <= kept,
        )

    def _get(self, path: str) -> dict[str, Any]:
        with _translated(self.url, path), self._open(path) as answer:
            return json.loads(answer.read())

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return json.loads(self._send(path, json.dumps(body).encode(), "application/json"))

    def _send(self, path: str, data: bytes, kind: str) -> bytes:
        with _translated(self.url, path), self._open(path, data, {"Content-Type": kind}) as answer:
            return answer.read()

    def _open(self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        request = urllib.request.Request(self.url + path, data, headers or {})
        return urllib.request.urlopen(request, timeout=ANSWER_SECONDS)


@contextlib.contextmanager
def _translated(url: str, path: str) -> Iterator[None]:
    """The library's many errors as ours."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if error.code in AWAY:
            raise UnreachableError(f"no ComfyUI answers behind {url} ({error}): start it.") from error
        raise _StatusError(path, error.code, error.read()) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UnreachableError(
            f"no ComfyUI answers at {url} ({reason}): start it, or say where it is."
        ) from error
    except json.JSONDecodeError as error:
        raise QueueError(f"{url}{path}: the answer is not ComfyUI's; is the address right?") from error


class _Listener:
    """Hears of a job's progress by websocket, where there is one; else only waits."""

    def __init__(self, url: str, prompt_id: str, graph: Graph, on_progress: OnProgress | None) -> None:
        self.address = "ws" + url.removeprefix("http") + "/ws?clientId=" + prompt_id
        self.prompt_id, self.graph = prompt_id, graph
        self.on_progress = on_progress
        self.spoken: set[str] = set()  # nodes that say by themselves what they do
        self.told: Progress | None = None
        self.link: Any = None

    def __enter__(self) -> _Listener:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        if self.link is not None:
            self.link.close()

    def tell(self, progress: Progress) -> None:
        if self.on_progress is not None and progress != self.told:
            self.told = progress
            self.on_progress(progress)

    def tell_state(self, status: str, before: int) -> None:
        """Tell what there is to tell without a websocket: that it waits, and that it runs."""
        if status == "pending" and before:
            self.tell(Progress(f"waiting, {_count(before, 'job')} before it"))
        elif status == "in_progress" and not HAS_WEBSOCKET:
            self.tell(Progress("running; websocket-client would tell each step"))

    def listen(self) -> None:
        """Return when it is time to ask for the job's state."""
        if self.link is None and not self._open():
            time.sleep(POLL_SECONDS)
            return
        deadline = time.monotonic() + POLL_SECONDS_LIVE
        while (left := deadline - time.monotonic()) > 0:
            try:
                self.link.settimeout(left)
                message = self.link.recv()
            except websocket.WebSocketTimeoutException:
                return
            except (websocket.WebSocketException, OSError):
                message = ""
            if not message:  # the connection is gone
                self.link = None
                return
            if self._take(message):
                return

    def _open(self) -> bool:
        if not HAS_WEBSOCKET:
            return False
        try:
            self.link = websocket.create_connection(self.address, timeout=ANSWER_SECONDS)
        except (websocket.WebSocketException, OSError):
            self.link = None
        return self.link is not None

    def _take(self, message: str | bytes) -> bool:
        """Tell what a message says; True where the queue has changed, perhaps by this job's end."""
        if isinstance(message, bytes):
            if message[:4] == b"\0\0\0\3":  # a line that a node writes on itself
                (length,) = struct.unpack(">I", message[4:8])
                self.spoken.add(message[8 : 8 + length].decode())
                self.tell(Progress(message[8 + length :].decode()))
            return False
        event = json.loads(message)
        kind, data = event["type"], event["data"]
        if kind == "progress" and data["node"] not in self.spoken:
            words = f"{_called(self.graph, str(data['node']))}: {data['value']} of {data['max']}"
            self.tell(Progress(words, data["value"], data["max"]))
        return kind == "status"


def kept_files(result: Result) -> list[File]:
    """The files a result keeps in the server's output folder, or if there are none its temporary ones."""
    return [file for file in result.files if file.kind == "output"] or list(result.files)


def _files(outputs: dict[str, Any]) -> Iterator[File]:
    """Every file of a job's record, whatever key a node shows it under, each once."""
    seen = set()
    for node, shown in outputs.items():
        items = [item for value in shown.values() if isinstance(value, list) for item in value]
        for item in items:
            if isinstance(item, dict) and "filename" in item:
                file = File(node, item["filename"], item.get("subfolder", ""), item.get("type", "output"))
                if file not in seen:
                    seen.add(file)
                    yield file


def _settle(arrived: Path, wanted: Path) -> Path:
    """Move a fetched file to its name, or the next free one; a copy that is there already is taken."""
    path, number = wanted, 1
    while path.exists():
        if filecmp.cmp(arrived, path, shallow=False):
            arrived.unlink()
            return path
        number += 1
        path = wanted.with_stem(f"{wanted.stem}_{number}")
    return arrived.replace(path)


def fault_lines(graph: Graph, answer: dict[str, Any]) -> list[str]:
    """What `POST /prompt` found wrong, a line each: the node, the input, the fault."""
    faults = answer.get("node_errors") or {}
    lines = [
        f"{_called(graph, node)}: {_fault(error)}"
        for node, found in faults.items()
        for error in found["errors"]
    ]
    if not lines:
        error = answer.get("error") or {}
        error = error if isinstance(error, dict) else {"message": error}
        lines = [f"{error.get('message', 'no reason given')} {error.get('details') or ''}".strip()]
    return list(dict.fromkeys(lines))  # core repeats a line for each input that a check looked at


def _fault(error: dict[str, Any]) -> str:
    extra = error.get("extra_info") or {}
    name, details = extra.get("input_name", ""), error.get("details", "")
    if error["type"] == "custom_validation_failed":
        return details.removeprefix(f"{name} - ")
    if error["type"] == "value_not_in_list":
        config = extra.get("input_config") or [[]]
        options = config[0] if isinstance(config[0], list) else config[1].get("options", [])
        return f"{name}: {extra.get('received_value')!r} is not one of {_listed(options)}"
    if error["type"] == "required_input_missing":
        return f"{name}: it is missing"
    if details == name:
        return f"{name}: {error['message']}"
    return f"{error['message']}: {details}"


def _failure(graph: Graph, error: dict[str, Any]) -> str:
    message = " ".join(str(error.get("exception_message", "it failed")).split())
    return f"{_called(graph, str(error.get('node_id')))}: {message}"


# ------------------------------------------------------------------------------------------------ the graph


def read_graph(path: str | Path) -> Graph:
    """An API-format graph. Raises QueueError for what is none."""
    graph = _read_json(path)
    if isinstance(graph, dict) and "nodes" in graph:
        raise QueueError(f"{path} is a canvas file: export it with File > Export (API)")
    if not isinstance(graph, dict) or not all(
        isinstance(node, dict) and "class_type" in node for node in graph.values()
    ):
        raise QueueError(f"{path} is no graph in API format: export it with File > Export (API)")
    return graph


def find_input(graph: Graph, name: str) -> tuple[str, str]:
    """(node id, input) of "Sampler.seed"; titles and inputs may hold dots themselves.

    Raises QueueError where no node, or more than one, is called so.
    """
    parts = name.split(".")
    cuts = [(".".join(parts[:cut]), ".".join(parts[cut:])) for cut in range(1, len(parts))]
    found = [(node, field_name) for title, field_name in cuts for node in find_nodes(graph, title)]
    if not cuts or not all(cuts[0]):
        raise QueueError(f"{name}: say NODE.INPUT, such as Sampler.seed")
    if not found:
        raise QueueError(f"{name}: no node is called so; there are {_nodes(graph, graph)}")
    if len(found) > 1:
        several = _nodes(graph, [node for node, _ in found])
        raise QueueError(f"{name}: {len(found)} nodes are called so, {several}; name one by its id")
    return found[0]


def find_nodes(graph: Graph, name: str) -> list[str]:
    """The nodes that `name` may mean: the one of that id, else those of that title, else of that class.

    Titles and classes go without "(WanCore)" and "WanCore", too, in any case.
    """
    if name in graph:
        return [name]
    wanted = name.strip().casefold()
    for words in (_titles, _classes):
        found = [node for node in graph if wanted in words(graph[node])]
        if found:
            return found
    return []


def _titles(node: dict[str, Any]) -> set[str]:
    title = str(node.get("_meta", {}).get("title", "")).casefold()
    # ComfyUI in Chinese writes Chinese titles, with its own brackets.
    return {title, title.removesuffix("(wancore)").removesuffix("（wancore）").strip()} - {""}


def _classes(node: dict[str, Any]) -> set[str]:
    name = str(node["class_type"]).casefold()
    return {name, name.removeprefix("wancore")}


def _called(graph: Graph, node: str) -> str:
    about = graph.get(node)
    if about is None:
        return f"node {node}"
    return f"{about.get('_meta', {}).get('title') or about['class_type']} (node {node})"


def _nodes(graph: Graph, chosen: Iterable[str]) -> str:
    return ", ".join(f"{node}: {_called(graph, node).rsplit(' (node', 1)[0]}" for node in chosen)


def _listed(names: Iterable[Any], most: int = 20) -> str:
    listed = [str(name) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def as_value(text: str, present: Any) -> Any:
    """A value from the command line: text where the graph has text, else JSON if it can be read so."""
    if isinstance(present, str):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def filled_canvas(
    canvas: dict[str, Any], graph: Graph, inputs: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """A copy of the canvas file with the graph's values on its nodes, so that the two say the same.

    Raises QueueError where they are not the same graph.
    """
    filled = copy.deepcopy(canvas)
    nodes = {str(node["id"]): node for node in filled.get("nodes", ())}
    for key, node in graph.items():
        if nodes.get(key, {}).get("type") != node["class_type"]:
            raise QueueError(
                f"canvas: it has no {_called(graph, key)}; give the canvas of this very graph, without "
                "subgraphs, or none: then the video carries the graph alone"
            )
        _fill(nodes[key], node, inputs(node["class_type"]), _called(graph, key))
    return filled


def _fill(drawn: dict[str, Any], node: dict[str, Any], specs: dict[str, Any], called: str) -> None:
    slots: list[str | None] = []
    for socket in drawn.get("inputs", ()):
        name = socket["name"]
        given = node["inputs"].get(name)
        if given is not None and (socket.get("link") is not None) != _is_link(given):
            raise QueueError(f"canvas: {called}.{name} is linked in one of the two graphs only")
        if "widget" in socket:
            slots.append(name)
            if _has_control(specs.get(name)):
                slots.append(None)  # what becomes of the seed after a run
    values = list(drawn.get("widgets_values") or [])
    for place, name in enumerate(slots):
        given = node["inputs"].get(name) if name else None
        if given is not None and not _is_link(given):
            values[place : place + 1] = [given]
        elif place >= len(values):  # of a graph saved before the node had it
            break
    drawn["widgets_values"] = values


def _has_control(spec: Any) -> bool:
    return isinstance(spec, list) and len(spec) > 1 and bool(spec[1].get("control_after_generate"))


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


# ------------------------------------------------------------------------------------------------- variants


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
        rows = _read_json(path)
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
    report: Callable[[str], None] | None = None,
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
        made = client.change(made, _typed(made, variant.settings))
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
            options = _options(client.inputs(node["class_type"]).get("contact_sheet", [None]))
            node["inputs"] |= {"contact_sheet": options[-1]} if options else {}
    return made


def the_prompt(graph: Graph) -> tuple[str, str]:
    """(node id, input) of the graph's one positive prompt, found by its links."""
    found = _prompts(graph)
    if len(found) == 1:
        return found[0]
    several = ", ".join(f"{_called(graph, node)}.{name}" for node, name in found)
    raise QueueError(f"prompt: the graph has {several or 'none'}; name the input yourself, as NODE.INPUT")


def _prompts(graph: Graph) -> list[tuple[str, str]]:
    """Of what takes a prompt, the Samplers: nodes whose input `positive` is linked."""
    starts = [
        (node, "positive") for node, about in graph.items() if _is_link(about["inputs"].get("positive"))
    ]
    return _sources(graph, starts, ("positive", "prompt", "text", "value"))


def _seeds(graph: Graph) -> list[tuple[str, str]]:
    names = ("seed", "noise_seed")
    starts = [(node, name) for node, about in graph.items() for name in names if name in about["inputs"]]
    return _sources(graph, starts, (*names, "value"))


def _sources(graph: Graph, starts: list[tuple[str, str]], onward: tuple[str, ...]) -> list[tuple[str, str]]:
    """Where these inputs' values come from, through links to inputs called one of `onward`, each once."""
    found: dict[tuple[str, str], None] = {}
    for start in starts:
        place: tuple[str, str] | None = start
        for _ in graph:  # no way is longer, even in a ring
            if place is None or not _is_link(value := graph[place[0]]["inputs"][place[1]]):
                break
            feeder = graph.get(value[0], {}).get("inputs", {})
            place = next(((value[0], name) for name in onward if name in feeder), None)
        if place is not None:
            found[place] = None
    return list(found)


def _look(client: Client, graph: Graph, terms: tuple[str, ...]) -> None:
    """Choose the terms in the graph's Aesthetic node, which is put before the prompt if there is none."""
    kind = "WanCoreAesthetic"
    lists = {name: options for name, spec in client.inputs(kind).items() if (options := _options(spec))}
    if not lists:
        raise QueueError("look: the server has no node Aesthetic (WanCore)")
    chosen = {name: options[0] for name, options in lists.items()}
    for term in terms:
        homes = [name for name, options in lists.items() if term.casefold() in map(str.casefold, options)]
        if len(homes) != 1:
            raise QueueError(f"look: {term!r} is {'in ' + _listed(homes) if homes else 'no term'} of {kind}")
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


def _options(spec: Any) -> list[str]:
    """The list of an input that is one."""
    if isinstance(spec[0], list):
        return spec[0]
    return spec[1].get("options", []) if spec[0] == "COMBO" else []


def _typed(graph: Graph, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose values may be text from a table or the command line."""
    typed = {}
    for name, value in settings.items():
        node, key = find_input(graph, name)
        text = isinstance(value, str)
        typed[name] = as_value(value, graph[node]["inputs"].get(key)) if text else value
    return typed


def _make(
    client: Client,
    variant: Variant,
    graph: Graph,
    canvas: dict[str, Any] | None,
    manifest: _Manifest,
    say: Callable[[str], None],
) -> str:
    """Bring one variant to its end and into the manifest; returns what came of it."""
    prompt_id: str | None = manifest.waited_for(variant)
    try:
        try:
            result = client.wait(prompt_id, lambda progress: say(progress.text)) if prompt_id else None
        except ForgottenError:
            result = None
        if result is None:
            prompt_id = client.queue(graph, canvas)
            manifest.note(variant, status="queued", prompt_id=prompt_id)
            result = client.wait(prompt_id, lambda progress: say(progress.text))
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
    for file in kept_files(result):
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


PICTURES = (".jpg", ".jpeg", ".png", ".webp")


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
    return PAGE.format(count=f"{done} of {_count(len(rows), 'variant')} finished", cards=cards)


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
    """The command; returns its exit status: 0, 1 when something failed, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    lines = _Lines()
    try:
        return _variants(options, lines) if options.variants else _single(options, lines)
    except QueueError as error:
        lines.end()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        lines.end()
        print("cancelled", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Queue a graph on a running ComfyUI without a browser.")
    parser.add_argument("graph", nargs="?", help="a graph in API format")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        dest="settings",
        help="change an input; NODE is an id, a title or a class",
    )
    parser.add_argument("--variants", metavar="FILE", help="make each row of this JSON or CSV file")
    parser.add_argument(
        "--canvas", metavar="FILE", help="the graph as ComfyUI saves it, for the video to carry"
    )
    parser.add_argument("--out", default="out", metavar="FOLDER", help="where the files go (default: out)")
    parser.add_argument("--url", default=URL, help=f"the server (default: {URL})")
    parser.add_argument("--attach", metavar="PROMPT_ID", help="wait for a job that is queued already")
    return parser


def _single(options: argparse.Namespace, lines: _Lines) -> int:
    client = Client(options.url)
    prompt_id = options.attach
    if prompt_id is None:
        graph, canvas = _graph_and_canvas(options, client)
        prompt_id = client.queue(graph, canvas)
        lines.show(f"queued as {prompt_id}")
    try:
        result = client.wait(prompt_id, lambda progress: lines.show(progress.text))
    except KeyboardInterrupt:
        client.cancel(prompt_id)
        raise
    lines.end()
    if result.cached:
        print("nothing had changed: the server kept these files from an earlier run", file=sys.stderr)
    paths = client.fetch(result, options.out)
    if not paths:
        print("the graph saved no file", file=sys.stderr)
    for path in paths:
        print(path)
    return 0


def _variants(options: argparse.Namespace, lines: _Lines) -> int:
    client = Client(options.url)
    variants = read_variants(options.variants)
    graph, canvas = _graph_and_canvas(options, client)
    rows = run_variants(client, graph, variants, options.out, canvas, lines.show)
    lines.end()
    for row in rows:
        if row["status"] == "finished":
            print(Path(options.out) / row["file"])
        else:
            print(f"{row['name']}: {row['status']}: {row['error']}", file=sys.stderr)
    print(f"see {Path(options.out) / 'index.html'}", file=sys.stderr)
    return 0 if all(row["status"] == "finished" for row in rows) else 1


def _graph_and_canvas(options: argparse.Namespace, client: Client) -> tuple[Graph, dict[str, Any] | None]:
    if options.graph is None:
        raise QueueError("say which graph, or --attach PROMPT_ID")
    graph = read_graph(options.graph)
    canvas = _read_json(options.canvas) if options.canvas else None
    settings = {}
    for setting in options.settings:
        name, found, text = setting.partition("=")
        if not found:
            raise QueueError(f"--set {setting}: say NODE.INPUT=VALUE")
        settings[name] = text
    return client.change(graph, _typed(graph, settings)), canvas


class _Lines:
    """Progress on stderr: one line that changes on a terminal, a line each in a log."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.open = False

    def show(self, text: str) -> None:
        line = text.partition("\n")[0]
        start, end = ("\r\033[K", "") if self.live else ("", "\n")
        print(start + line, end=end, file=sys.stderr, flush=True)
        self.open = self.live

    def end(self) -> None:
        if self.open:
            print(file=sys.stderr)
        self.open = False


def _read_json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise QueueError(f"{path} cannot be read: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
