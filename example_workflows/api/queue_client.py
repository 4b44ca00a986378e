"""Queue a graph on a running ComfyUI without a browser: change its inputs, follow it, fetch what it made.

    python queue_client.py text_to_video.json --set Sampler.seed=8 --set 'Text Encode.positive=a blue star'
    python queue_client.py --attach PROMPT_ID                 (after a lost connection)

The graph is in API format: ComfyUI's File > Export (API), or a file beside this one. `--set NODE.INPUT=VALUE`
names a node by its id, its title or its class. Paths of fetched files go to stdout, progress to stderr.
queue_variants.py makes many variants of a graph.

From Python:

    from queue_client import Client, read_graph
    client = Client("http://127.0.0.1:8188")
    graph = client.change(read_graph("text_to_video.json"), {"Sampler.seed": 8})
    paths = client.fetch(client.wait(client.queue(graph), print), "out")

This file needs Python 3.10 and nothing else, so it can be copied anywhere. With `websocket-client` installed
progress arrives as it happens; without it the server is asked every second.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import filecmp
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
from dataclasses import dataclass
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
SEEDS = ("seed", "noise_seed")

Graph = dict[str, dict[str, Any]]  # API format: {id: {"class_type", "inputs", "_meta"}}
Say = Callable[[str], None]  # takes a line about what happens


class QueueError(Exception):
    """Base of all that goes wrong here: one line that says what, and what to do."""


class UnreachableError(QueueError):
    """No ComfyUI answers, or it stopped answering."""


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
class File:
    """A file that a node wrote on the server; `kind` is its folder there: output or temp."""

    node: str
    name: str
    subfolder: str
    kind: str


@dataclass(frozen=True)
class Result:
    """What a finished job left: files, lines of text by node, and the seconds it took on the server.

    The files are those in the server's output folder, or without any those it shows from its temporary one.
    `cached` means that nothing had changed since an earlier run, whose files these are.
    """

    prompt_id: str
    files: tuple[File, ...]
    texts: dict[str, str]
    seconds: float
    cached: bool


class Client:
    """One ComfyUI server."""

    def __init__(self, url: str = URL, patience: float = PATIENCE) -> None:
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.patience = patience
        self._graphs: dict[str, Graph] = {}
        self._known: dict[str, dict[str, Any]] = {}

    def change(self, graph: Graph, settings: Mapping[str, Any]) -> Graph:
        """A copy of `graph` with inputs changed: {"Sampler.seed": 7, "4.positive": "..."}.

        Text for an input that holds none is read: "7" is a number for a seed. A local file for an input that
        takes uploads (Load Image's) is uploaded. Raises QueueError for a name that fits no node or several,
        and for an input the node does not have.
        """
        changed = copy.deepcopy(graph)
        for name, value in settings.items():
            node, key = find_input(changed, name)
            given, spec = changed[node]["inputs"], self.inputs(changed[node]["class_type"])
            if key not in given and key.split(".")[0] not in spec:
                raise QueueError(f"{name}: {called(changed, node)} has the inputs {listed(spec)}")
            given[key] = self._value(value, given.get(key), spec.get(key))
        return changed

    def queue(self, graph: Graph, canvas: dict[str, Any] | None = None) -> str:
        """Queue a graph; returns the job's prompt id. Raises QueueError if any part of it is unsound.

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
            answer = self._ask("/prompt", json.dumps(body).encode())
        except _StatusError as error:
            if error.code != 400:
                raise
            raise _rejection(graph, self._parsed("/prompt", error.body)) from error
        except UnreachableError as error:
            try:  # perhaps only the answer was lost
                answer = self._job(prompt_id)
            except ForgottenError:
                raise error from None
        if answer.get("node_errors"):  # the server would run the sound part of it
            self.cancel(prompt_id)
            raise _rejection(graph, answer)
        self._graphs[prompt_id] = graph
        return prompt_id

    def wait(self, prompt_id: str, say: Say | None = None) -> Result:
        """Follow a job to its end, through lost connections. Any job of the server can be waited for.

        `say` is called with each line of progress. Raises CancelledError, ForgottenError, QueueError for a
        node that failed, and UnreachableError when the server has been gone for `patience` seconds: the job
        may run on, and can be waited for again.
        """
        seen_at = time.monotonic()
        listener = _Listener(self.url, prompt_id, self._graphs.get(prompt_id, {}), say or (lambda _: None))
        with contextlib.closing(listener):
            while True:
                listener.open()  # first, so that an end between the two is heard
                try:
                    status = self._job(prompt_id)["status"]
                    if status not in ("pending", "in_progress"):
                        return self._result(prompt_id, status)
                    listener.tell(self._state(prompt_id, status))
                    seen_at = time.monotonic()
                    listener.listen()
                except UnreachableError as error:
                    if time.monotonic() - seen_at > self.patience:
                        words = f"{error} Job {prompt_id} may run on: attach to it."
                        raise UnreachableError(words) from error
                    time.sleep(POLL_SECONDS)

    def fetch(self, result: Result, folder: str | Path) -> list[Path]:
        """Copy a result's files into `folder`; returns where they are, in order.

        A name that another file has already gets a number. Raises QueueError for a file that is gone.
        """
        folder, paths = Path(folder), []
        folder.mkdir(parents=True, exist_ok=True)
        for file in result.files:
            arrived = self.download(file, folder / f".{result.prompt_id}.part")
            wanted = path = folder / Path(file.name).name
            number = 1
            while path.exists() and not filecmp.cmp(arrived, path, shallow=False):
                number += 1
                path = wanted.with_stem(f"{wanted.stem}_{number}")
            paths.append(arrived.replace(path))
        return paths

    def download(self, file: File, path: Path) -> Path:
        """Copy one file to `path`, a piece at a time; returns `path`."""
        asked = {"filename": file.name, "subfolder": file.subfolder, "type": file.kind}
        try:
            with path.open("wb") as out:
                for piece in self._pieces(f"/view?{urllib.parse.urlencode(asked)}"):
                    out.write(piece)
        except QueueError as error:
            path.unlink()
            if not isinstance(error, _StatusError) or error.code != 404:
                raise
            raise QueueError(
                f"{file.name}: the job's file is not in the server's {file.kind} folder any more. If it was "
                "kept from an earlier run, change an input of the node that saves it and queue it again"
            ) from error
        return path

    def cancel(self, prompt_id: str) -> bool:
        """Take a job from the queue, or stop it; False if it had ended."""
        return bool(self._ask(f"/api/jobs/{prompt_id}/cancel", b"{}").get("cancelled"))

    def upload(self, path: str | Path) -> str:
        """Put a local picture or video into the server's input folder; returns its name for Load Image."""
        path = Path(path)
        boundary = uuid.uuid4().hex
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{path.name}"\r\n'
        data = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + path.read_bytes()
        data += f"\r\n--{boundary}--\r\n".encode()
        answer = self._ask("/upload/image", data, f"multipart/form-data; boundary={boundary}")
        return f"{answer['subfolder']}/{answer['name']}" if answer.get("subfolder") else answer["name"]

    def inputs(self, class_type: str) -> dict[str, Any]:
        """A node class's inputs as the server describes them; empty if it does not have the node."""
        if class_type not in self._known:
            about = self._ask(f"/object_info/{urllib.parse.quote(class_type)}").get(class_type, {})
            described = about.get("input", {})
            self._known[class_type] = {**described.get("required", {}), **described.get("optional", {})}
        return self._known[class_type]

    def _value(self, value: Any, present: Any, spec: Any) -> Any:
        if not isinstance(value, str):
            return value
        if any(key.endswith("_upload") and on for key, on in _about(spec).items()) and Path(value).is_file():
            return self.upload(value)
        if not isinstance(present, str):
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(value)
        return value

    def _job(self, prompt_id: str) -> dict[str, Any]:
        try:
            return self._ask(f"/api/jobs/{prompt_id}")
        except _StatusError as error:
            if error.code != 404:
                raise
            raise ForgottenError(
                f"the server does not know job {prompt_id}: it was taken from the queue, or ComfyUI was "
                "started anew. Queue it again"
            ) from error

    def _state(self, prompt_id: str, status: str) -> str:
        """What there is to tell without a websocket: how many jobs come before it, or that it runs."""
        if status == "in_progress":
            return "" if HAS_WEBSOCKET else "running; websocket-client would tell each step"
        queue = self._ask("/queue")
        waiting = [job[1] for job in sorted(queue["queue_pending"], key=lambda job: job[0])]
        before = len(queue["queue_running"]) + waiting.index(prompt_id) if prompt_id in waiting else 0
        return f"waiting, jobs before it: {before}" if before else ""

    def _result(self, prompt_id: str, status: str) -> Result:
        if status == "cancelled":
            raise CancelledError(f"job {prompt_id} was cancelled")
        entry = self._ask(f"/history/{prompt_id}")[prompt_id]
        events, outputs = dict(entry["status"]["messages"]), entry["outputs"]
        if status == "failed":
            error = events.get("execution_error", {})
            words = " ".join(str(error.get("exception_message", "it failed")).split())
            raise QueueError(f"{called(entry['prompt'][2], str(error.get('node_id')))}: {words}")
        files = list(_files(outputs))
        files = [file for file in files if file.kind == "output"] or files
        kept = set(events.get("execution_cached", {}).get("nodes", ()))
        start, end = events.get("execution_start", {}), events.get("execution_success", {})
        return Result(
            prompt_id,
            tuple(files),
            {node: "\n".join(map(str, shown["text"])) for node, shown in outputs.items() if "text" in shown},
            (end.get("timestamp", 0) - start.get("timestamp", 0)) / 1000,
            bool(files) and {file.node for file in files} <= kept,
        )

    def _ask(self, path: str, data: bytes | None = None, kind: str = "application/json") -> dict[str, Any]:
        return self._parsed(path, b"".join(self._pieces(path, data, kind)))

    def _parsed(self, path: str, answer: bytes) -> dict[str, Any]:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise QueueError(
                f"{self.url}{path}: the answer is not ComfyUI's; is the address right?"
            ) from error

    def _pieces(self, path: str, data: bytes | None = None, kind: str = "") -> Iterator[bytes]:
        """The answer to a request; the library's many errors become ours."""
        request = urllib.request.Request(self.url + path, data, {"Content-Type": kind} if data else {})
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
                while piece := answer.read(1 << 20):
                    yield piece
                if answer.length:  # reading by pieces ends at a lost connection as at the end
                    raise UnreachableError(
                        f"{path}: the connection was lost {answer.length} bytes before its end."
                    )
        except urllib.error.HTTPError as error:
            if error.code not in (502, 503, 504):  # a proxy's word for a server that is not there
                raise _StatusError(path, error.code, error.read()) from error
            raise UnreachableError(f"no ComfyUI answers behind {self.url} ({error}): start it.") from error
        except (OSError, http.client.HTTPException) as error:
            words = f"no ComfyUI answers at {self.url} ({getattr(error, 'reason', error)})"
            raise UnreachableError(f"{words}: start it, or say where it is.") from error


class _Listener:
    """Hears of a job's progress by websocket, where there is one; else only waits."""

    def __init__(self, url: str, prompt_id: str, graph: Graph, say: Say) -> None:
        self.address = "ws" + url.removeprefix("http") + "/ws?clientId=" + prompt_id
        self.graph, self.say = graph, say
        self.told = ""
        self.spoken: set[str] = set()  # nodes that say by themselves what they do
        self.link: Any = None

    def open(self) -> None:
        if HAS_WEBSOCKET and self.link is None:
            with contextlib.suppress(websocket.WebSocketException, OSError, ValueError):
                self.link = websocket.create_connection(self.address, timeout=ANSWER_SECONDS)

    def close(self) -> None:
        if self.link is not None:
            self.link.close()

    def tell(self, line: str) -> None:
        if line and line != self.told:
            self.told = line
            self.say(line)

    def listen(self) -> None:
        """Return when it is time to ask for the job's state."""
        if self.link is None:
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

    def _take(self, message: str | bytes) -> bool:
        """Tell what a message says; True where the queue has changed, perhaps by this job's end."""
        if isinstance(message, bytes):
            if message[:4] == b"\0\0\0\3":  # a line that a node writes on itself
                (length,) = struct.unpack(">I", message[4:8])
                self.spoken.add(message[8 : 8 + length].decode())
                self.tell(message[8 + length :].decode())
            return False
        event = json.loads(message)
        kind, data = event["type"], event["data"]
        if kind == "progress" and data["node"] not in self.spoken:
            self.tell(f"{called(self.graph, str(data['node']))}: {data['value']} of {data['max']}")
        return kind == "status"


def _files(outputs: dict[str, Any]) -> Iterator[File]:
    """Every file of a job's record, whatever key a node shows it under, each once."""
    seen = set()
    for node, shown in outputs.items():
        for item in [item for value in shown.values() if isinstance(value, list) for item in value]:
            if isinstance(item, dict) and "filename" in item:
                file = File(node, item["filename"], item.get("subfolder", ""), item.get("type", "output"))
                if file not in seen:
                    seen.add(file)
                    yield file


def _rejection(graph: Graph, answer: dict[str, Any]) -> QueueError:
    """What `POST /prompt` found wrong: each time the node, the input, the fault."""
    faults = answer.get("node_errors") or {}
    lines = [f"{called(graph, node)}: {_fault(each)}" for node in faults for each in faults[node]["errors"]]
    if not lines:
        error = answer.get("error") or {}
        error = error if isinstance(error, dict) else {"message": error}
        lines = [f"{error.get('message', 'no reason given')} {error.get('details') or ''}".strip()]
    once = dict.fromkeys(lines)  # core repeats a line for each input that a check looked at
    return QueueError(f"the server refuses the graph: {'; '.join(once)}")


def _fault(error: dict[str, Any]) -> str:
    extra = error.get("extra_info") or {}
    name, details = extra.get("input_name", ""), error.get("details", "")
    if error["type"] == "custom_validation_failed":
        return details.removeprefix(f"{name} - ")
    if error["type"] == "value_not_in_list":
        options = listed(choices(extra.get("input_config")))
        return f"{name}: {extra.get('received_value')!r} is not one of {options}"
    if error["type"] == "required_input_missing":
        return f"{name}: it is missing"
    return f"{name}: {error['message']}" if details == name else f"{error['message']}: {details}"


# ------------------------------------------------------------------------------------------------ the graph


def read_json(path: str | Path) -> Any:
    """What a JSON file holds. Raises QueueError."""
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise QueueError(f"{path} cannot be read: {error}") from error


def read_graph(path: str | Path) -> Graph:
    """An API-format graph. Raises QueueError for what is none."""
    graph = read_json(path)
    nodes = graph.values() if isinstance(graph, dict) else [None]
    if not all(isinstance(node, dict) and "class_type" in node and "inputs" in node for node in nodes):
        raise QueueError(f"{path} is no graph in API format: export it with File > Export (API)")
    return graph


def find_input(graph: Graph, name: str) -> tuple[str, str]:
    """(node id, input) of "Sampler.seed"; titles and inputs may hold dots themselves.

    Raises QueueError where no node, or more than one, is called so.
    """
    parts = name.split(".")
    if len(parts) == 1 or not (parts[0] and parts[-1]):
        raise QueueError(f"{name}: say NODE.INPUT, such as Sampler.seed")
    cuts = [(".".join(parts[:cut]), ".".join(parts[cut:])) for cut in range(1, len(parts))]
    found = [(node, key) for node_name, key in cuts for node in _find_nodes(graph, node_name)]
    if not found:
        raise QueueError(f"{name}: no node is called so; there are {_named(graph, graph)}")
    if len(found) > 1:
        several = _named(graph, [node for node, _ in found])
        raise QueueError(f"{name}: {len(found)} nodes are called so, {several}; name one by its id")
    return found[0]


def _find_nodes(graph: Graph, name: str) -> list[str]:
    """The nodes that `name` may mean: the one of that id, else those of that title, else of that class.

    Titles and classes go without "(WanCore)" and "WanCore", too, in any case.
    """
    if name in graph:
        return [name]
    for spelled in (str.casefold, _short):
        for word in (_name, _kind):
            if found := [node for node in graph if spelled(word(graph[node])) == spelled(name.strip())]:
                return found
    return []


def _short(name: str) -> str:
    # ComfyUI in Chinese writes Chinese titles, with its own brackets.
    name = name.casefold().removesuffix("(wancore)").removesuffix("（wancore）")
    return name.removeprefix("wancore").strip()


def _kind(node: dict[str, Any]) -> str:
    return node["class_type"]


def called(graph: Graph, node: str) -> str:
    """What a message calls a node: its title and id."""
    return f"{_name(graph[node])} (node {node})" if node in graph else f"node {node}"


def _name(node: dict[str, Any]) -> str:
    return node.get("_meta", {}).get("title") or node["class_type"]


def _named(graph: Graph, chosen: Iterable[str]) -> str:
    return ", ".join(f"{node}: {_name(graph[node])}" for node in chosen)


def listed(names: Iterable[Any], most: int = 20) -> str:
    """Names as a message lists them."""
    every = [str(name) for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def is_link(value: Any) -> bool:
    """Whether an input's value is another node's output."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def choices(spec: Any) -> list[Any]:
    """What an input may be, where the server lists that."""
    options = spec[0] if spec else []
    return options if isinstance(options, list) else _about(spec).get("options", [])


def _about(spec: Any) -> dict[str, Any]:
    """The particulars of an input as /object_info has them: [type, particulars]."""
    return spec[1] if isinstance(spec, list) and len(spec) > 1 and isinstance(spec[1], dict) else {}


def filled_canvas(
    canvas: dict[str, Any], graph: Graph, inputs: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """A copy of the canvas file with the graph's values on its nodes, so that the two say the same.

    `inputs` describes a class's inputs. Raises QueueError where they are not the same graph.
    """
    filled = copy.deepcopy(canvas)
    drawn = {str(node["id"]): node for node in filled.get("nodes", ())}
    for key, node in graph.items():
        if drawn.get(key, {}).get("type") != node["class_type"]:
            raise QueueError(
                f"canvas: it has no {called(graph, key)}; give the canvas of this very graph, without "
                "subgraphs, or none: then the video carries the graph alone"
            )
        _fill(drawn[key], node["inputs"], inputs(node["class_type"]), called(graph, key))
    return filled


def _fill(drawn: dict[str, Any], given: dict[str, Any], specs: dict[str, Any], node: str) -> None:
    values, place = list(drawn.get("widgets_values") or []), 0
    for socket in drawn.get("inputs", ()):
        name = socket["name"]
        if name in given and is_link(given[name]) != (socket.get("link") is not None):
            raise QueueError(f"canvas: {node}.{name} is linked in one of the two graphs only")
        if "widget" in socket:
            # A place further on is of a widget that the node had not when the canvas was saved.
            if name in given and not is_link(given[name]) and place <= len(values):
                values[place : place + 1] = [given[name]]
            # Behind a seed stands what becomes of it after a run.
            place += 2 if _about(specs.get(name)).get("control_after_generate", name in SEEDS) else 1
    drawn["widgets_values"] = values


# -------------------------------------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status: 0, 1 when something failed, 130 after Ctrl-C."""
    return guarded(_run, options_parser().parse_args(arguments))


def options_parser() -> argparse.ArgumentParser:
    """What the command takes."""
    what = "Queue a graph on a running ComfyUI without a browser."
    parser = argparse.ArgumentParser(description=what, parents=[shared_options()])
    parser.add_argument("graph", nargs="?", help="a graph in API format")
    parser.add_argument("--attach", metavar="PROMPT_ID", help="wait for a job that is queued already")
    return parser


def _run(options: argparse.Namespace, lines: Lines) -> int:
    client, prompt_id = Client(options.url), options.attach
    if prompt_id is None:
        prompt_id = client.queue(*graph_and_canvas(options, client))
        lines.show(f"queued as {prompt_id}")
    try:
        result = client.wait(prompt_id, lines.show)
    except KeyboardInterrupt:
        client.cancel(prompt_id)
        raise
    lines.end()
    if result.cached:
        print("nothing had changed: the server kept these files from an earlier run", file=sys.stderr)
    if not result.files:
        print("the graph saved no file", file=sys.stderr)
    for path in client.fetch(result, options.out):
        print(path)
    return 0


def shared_options() -> argparse.ArgumentParser:
    """The options of every command that queues a graph."""
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument
    add("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="change an input")
    add("--canvas", metavar="FILE", help="the graph as ComfyUI saves it, for the video to carry")
    add("--out", default="out", metavar="FOLDER", help="where the files go (default: out)")
    add("--url", default=URL, help=f"the server (default: {URL})")
    return parser


def graph_and_canvas(options: argparse.Namespace, client: Client) -> tuple[Graph, dict[str, Any] | None]:
    """The graph that the options ask for, and its canvas."""
    if options.graph is None:
        raise QueueError("say which graph, or --attach PROMPT_ID")
    settings = {}
    for setting in options.set:
        name, found, value = setting.partition("=")
        if not found:
            raise QueueError(f"--set {setting}: say NODE.INPUT=VALUE")
        settings[name] = value
    graph = client.change(read_graph(options.graph), settings)
    return graph, read_json(options.canvas) if options.canvas else None


def guarded(run: Callable[[argparse.Namespace, Lines], int], options: argparse.Namespace) -> int:
    """Run a command; what goes wrong is told in one line. Returns the exit status."""
    lines = Lines()
    try:
        return run(options, lines)
    except (QueueError, OSError) as error:
        lines.end()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        lines.end()
        print("cancelled", file=sys.stderr)
        return 130


class Lines:
    """Progress on stderr: one line that changes on a terminal, a line each in a log."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.open = False

    def show(self, text: str) -> None:
        """Show a text's first line."""
        line = text.partition("\n")[0]
        start, end = ("\r\033[K", "") if self.live else ("", "\n")
        print(start + line, end=end, file=sys.stderr, flush=True)
        self.open = self.live

    def end(self) -> None:
        """Leave the line as it stands."""
        if self.open:
            print(file=sys.stderr)
        self.open = False


if __name__ == "__main__":
    sys.exit(main())
