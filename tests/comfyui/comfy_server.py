"""A real, headless ComfyUI with this pack in its `custom_nodes`, and the few calls the tests make to it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 180
RUN_SECONDS = 300


def find_comfyui() -> Path | None:
    """The ComfyUI folder: $COMFYUI_PATH, else where comfy-cli puts it."""
    candidates = [os.environ.get("COMFYUI_PATH"), Path.home() / "comfy" / "ComfyUI"]
    folders = [Path(candidate) for candidate in candidates if candidate]
    return next((folder for folder in folders if (folder / "main.py").is_file()), None)


def comfyui_python(comfyui: Path) -> str:
    """The interpreter ComfyUI runs on: its own virtual environment's, else this one."""
    inside = [".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe", "venv/Scripts/python.exe"]
    return next((str(comfyui / path) for path in inside if (comfyui / path).is_file()), sys.executable)


@dataclass
class Run:
    """What one queued graph came to."""

    prompt_id: str
    entry: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)  # (node, what it wrote on itself)
    previews: list[tuple[dict[str, Any], bytes]] = field(default_factory=list)  # (what of, picture)

    @property
    def ok(self) -> bool:
        return self.entry["status"]["status_str"] == "success"

    @property
    def outputs(self) -> dict[str, Any]:
        return self.entry["outputs"]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The data of every websocket message of one kind, in order."""
        return [message["data"] for message in self.messages if message["type"] == kind]

    @property
    def error(self) -> str:
        """The message of the node that failed."""
        for kind, data in self.entry["status"]["messages"]:
            if kind == "execution_error":
                return data["exception_message"].strip()
        raise AssertionError(f"no node failed: {self.entry['status']}")

    @property
    def interrupted(self) -> bool:
        return any(kind == "execution_interrupted" for kind, _ in self.entry["status"]["messages"])


class RejectedError(Exception):
    """POST /prompt found fault with the graph; `lines` are the messages a user reads."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.lines = [
            f"{error['message']}: {error['details']}"
            for node in answer["node_errors"].values()
            for error in node["errors"]
        ]
        super().__init__("; ".join(self.lines) or str(answer))


class ComfyServer:
    """One ComfyUI process in a folder of its own; `base` holds its models, output and custom_nodes."""

    def __init__(self, comfyui: Path, base: Path) -> None:
        self.comfyui, self.base = comfyui, base
        self.log = base / "server.log"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        _install_pack(base / "custom_nodes" / "wancore")
        for folder in ("models/diffusion_models", "models/vae", "models/text_encoders", "user"):
            (base / folder).mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start the process and wait until it answers."""
        arguments = ["--cpu", "--disable-api-nodes", "--disable-auto-launch", "--dont-print-server"]
        arguments += ["--base-directory", str(self.base), "--port", str(self.port)]
        arguments += ["--database-url", f"sqlite:///{self.base / 'comfyui.db'}"]
        command = [comfyui_python(self.comfyui), "main.py", *arguments]
        # As a user's console would show it, so that a failing import can be found.
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=self.comfyui, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.5)
        raise RuntimeError(f"ComfyUI did not start; the end of its log:\n{self.log_text()[-3000:]}")

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def get(self, path: str) -> Any:
        return json.loads(self.get_bytes(path))

    def get_bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def post(self, path: str, body: Any) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 400:
                raise RejectedError(json.loads(error.read())) from error
            raise
        return json.loads(text) if text else None

    def run(self, prompt: dict[str, Any], on_message: Any = None, flags: dict[str, Any] | None = None) -> Run:
        """Queue an API-format graph and wait for its end, listening on the websocket meanwhile.

        `on_message(message)` sees each message as it arrives. flags: what the listener says it knows. Raises
        RejectedError where /prompt refuses an output of the graph.
        """
        client = uuid.uuid4().hex
        address = f"ws://127.0.0.1:{self.port}/ws?clientId={client}"
        link = websocket.create_connection(address, timeout=RUN_SECONDS)
        try:
            if flags is not None:
                link.send(json.dumps({"type": "feature_flags", "data": flags}))
            answer = self.post("/prompt", {"prompt": prompt, "client_id": client})
            if answer["node_errors"]:  # what is sound in the graph runs all the same
                raise RejectedError(answer)
            prompt_id = answer["prompt_id"]
            messages, texts, previews = [], [], []
            while True:
                message = link.recv()
                if isinstance(message, bytes):
                    texts += _texts(message)
                    previews += _previews(message)
                    continue
                message = json.loads(message)
                messages.append(message)
                if on_message:
                    on_message(message)
                if _ends(message, prompt_id):
                    break
        finally:
            link.close()
        return Run(prompt_id, self.history(prompt_id), messages, texts, previews)

    def history(self, prompt_id: str) -> dict[str, Any]:
        """The job's record, which appears a moment after its last message."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}")
            if prompt_id in entry:
                return entry[prompt_id]
            time.sleep(0.1)
        raise AssertionError(f"job {prompt_id} never reached /history")

    def view(self, shown: dict[str, str]) -> bytes:
        """The bytes of a file that a node showed."""
        return self.get_bytes("/view?" + urllib.parse.urlencode(shown))


def _ends(message: dict[str, Any], prompt_id: str) -> bool:
    last = ("execution_success", "execution_error", "execution_interrupted")
    return message["type"] in last and message["data"]["prompt_id"] == prompt_id


def _texts(message: bytes) -> list[tuple[str, str]]:
    """The node and its line in a binary message of kind 3; nothing for the other kinds."""
    kind, length = struct.unpack(">II", message[:8])
    return [(message[8 : 8 + length].decode(), message[8 + length :].decode())] if kind == 3 else []


def _previews(message: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """The picture in a binary message: of kind 4 with what it is of, of kind 1 with nothing."""
    kind, length = struct.unpack(">II", message[:8])
    if kind == 4:
        return [(json.loads(message[8 : 8 + length]), message[8 + length :])]
    return [({}, message[8:])] if kind == 1 else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _install_pack(target: Path) -> None:
    """The pack in custom_nodes: a link to this tree, or a copy where links are not allowed."""
    target.parent.mkdir(parents=True)
    try:
        target.symlink_to(ROOT, target_is_directory=True)
    except OSError:
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "out"))


def last_answer(command: list[str], folder: Path) -> Any:
    """What a script that runs in ComfyUI's own Python prints as JSON in its last line."""
    answer = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=RUN_SECONDS
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return json.loads(answer.stdout.strip().splitlines()[-1])
