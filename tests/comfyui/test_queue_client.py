"""The queue client against a real ComfyUI: change, follow, fetch; what goes wrong; variants.

pytest tests/comfyui/test_queue_client.py
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import queue_client as qc
import queue_variants as qv

from .comfy_server import ROOT, RUN_SECONDS, ComfyServer
from .conftest import workflow
from .videos import read_mp4

pytestmark = pytest.mark.comfy

CLIENT = ROOT / "example_workflows" / "api" / "queue_client.py"
VARIANTS = CLIENT.with_name("queue_variants.py")
SMALL = {"5.width": 32, "5.height": 32, "5.frames": 5, "Sampler.steps": 2}
# Long enough to be stopped in its middle.
LONG = {"Sampler.steps": 200}


@pytest.fixture
def client(server: ComfyServer) -> Any:
    return qc.Client(server.url)


@pytest.fixture
def small(client: Any) -> dict[str, Any]:
    """Text to video, as small as it gets, without the plan beside it."""
    graph = client.change(workflow("text_to_video"), SMALL)
    del graph["9"]
    return graph


def command(server: ComfyServer, *arguments: str, script: Path = CLIENT) -> list[str]:
    """The client as a command, with nothing but the standard library to be found: so it asks every second."""
    return [sys.executable, "-E", "-s", "-S", str(script), "--url", server.url, *arguments]


def in_words(settings: dict[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def test_the_command_fetches_the_video_and_says_when_it_was_kept(server: ComfyServer, tmp_path: Path) -> None:
    graph = str(CLIENT.with_name("text_to_video.json"))
    settings = in_words({**SMALL, "Sampler.seed": 70, "Text Encode.positive": "a blue star turns"})
    for kept in (False, True):
        ran = subprocess.run(
            command(server, graph, *settings, "--out", str(tmp_path)),
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
        )
        assert ran.returncode == 0, ran.stderr
        (path,) = ran.stdout.splitlines()
        assert ("nothing had changed: the server kept these files" in ran.stderr) == kept
        assert [file.name for file in tmp_path.iterdir()] == [Path(path).name]
    assert read_mp4(Path(path).read_bytes()).shape == (5, 32, 32, 3)
    with av.open(path) as container:
        carried = json.loads(container.metadata["prompt"])
    assert carried["4"]["inputs"]["positive"] == "a blue star turns"
    assert carried["6"]["inputs"]["seed"] == 70


def test_progress_goes_on_over_a_lost_connection(
    client: Any, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both ways are cut at once: the websocket, and the next two questions for the job's state."""
    small["6"]["inputs"] |= {"seed": 71, "steps": 20}
    links, cuts, lines = [], [], []
    connect, job = qc.websocket.create_connection, client._job

    def connected(*arguments: Any, **options: Any) -> Any:
        links.append(connect(*arguments, **options))
        return links[-1]

    def questioned(prompt_id: str) -> Any:
        if cuts and len(cuts) < 3:
            cuts.append("question")
            raise qc.UnreachableError("gone.")
        return job(prompt_id)

    def say(line: str) -> None:
        lines.append(line)
        if "step 5 of 20" in line and not cuts:
            cuts.append("websocket")
            links[0].shutdown()

    monkeypatch.setattr(qc.websocket, "create_connection", connected)
    monkeypatch.setattr(client, "_job", questioned)
    monkeypatch.setattr(qc, "POLL_SECONDS", 0.05)
    result = client.wait(client.queue(small), say)
    assert cuts == ["websocket", "question", "question"]
    assert len(links) == 2
    steps = [int(found[1]) for line in lines if (found := re.search(r"step (\d+) of 20", line))]
    assert steps == sorted(steps)
    assert {5, 20} <= set(steps)
    assert not result.cached
    assert result.seconds > 0
    assert [path.suffix for path in client.fetch(result, tmp_path)] == [".mp4"]


def test_a_server_that_stays_away_is_given_up(client: Any, small: dict[str, Any]) -> None:
    away = qc.Client("127.0.0.1:9", patience=0)
    with pytest.raises(qc.UnreachableError, match=r"no ComfyUI answers at http://127\.0\.0\.1:9"):
        away.queue(small)
    with pytest.raises(qc.UnreachableError, match="Job 1 may run on: attach to it"):
        away.wait("1")


def test_a_refused_graph_says_where_and_why(client: Any, small: dict[str, Any]) -> None:
    bad = client.change(small, {"Sampler.steps": 0, "Sampler.scheduler": "magic", "4.positive": ""})
    del bad["3"]["inputs"]["vae_name"]
    with pytest.raises(qc.QueueError, match=r"^the server refuses the graph: ") as refused:
        client.queue(bad)
    for line in (
        "Load VAE (WanCore) (node 3): vae_name: it is missing",
        "Sampler (WanCore) (node 6): scheduler: 'magic' is not one of "
        + ", ".join(client.inputs("WanCoreSampler")["scheduler"][1]["options"]),
        "Sampler (WanCore) (node 6): steps: Value 0 smaller than min of 1",
        "Text Encode (WanCore) (node 4): positive: it is empty; say what the video should show",
    ):
        assert str(refused.value).count(line) == 1
    with pytest.raises(qc.QueueError, match="Nowhere"):
        client.queue({"1": {"class_type": "Nowhere", "inputs": {}, "_meta": {"title": "Nowhere"}}})


def test_a_half_sound_graph_does_not_run(server: ComfyServer, client: Any, small: dict[str, Any]) -> None:
    """Core would run the one output that is sound, and the video would never come."""
    small["9"] = workflow("text_to_video")["9"]
    small["6"]["inputs"] |= {"steps": 0}
    with pytest.raises(qc.QueueError, match=r"Sampler .*: steps"):
        client.queue(small)
    assert server.get("/queue")["queue_pending"] == []


def test_a_node_that_fails_is_named(client: Any, small: dict[str, Any]) -> None:
    small["5"]["inputs"]["model"] = "TI2V-5B"
    with pytest.raises(qc.QueueError, match=r"^Sampler \(WanCore\) \(node 6\): latent: shape") as failed:
        client.wait(client.queue(small))
    assert "\n" not in str(failed.value)


def test_ctrl_c_cancels_its_own_job(server: ComfyServer, client: Any) -> None:
    graph = str(CLIENT.with_name("text_to_video.json"))
    words = command(server, graph, *in_words({**LONG, "Sampler.seed": 72}))
    # A job started in the background by a shell ignores SIGINT, and its children with it: give it back.
    running = subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    first = running.stderr.readline()
    prompt_id = re.fullmatch(r"queued as (\S+)\n", first)[1]
    until(lambda: client._job(prompt_id)["status"] == "in_progress")
    running.send_signal(signal.SIGINT)
    assert running.wait(30) == 130
    assert running.stderr.read().endswith("cancelled\n")
    until(lambda: client._job(prompt_id)["status"] == "cancelled")


def test_others_may_cancel_what_runs_and_what_waits(client: Any, small: dict[str, Any]) -> None:
    small["6"]["inputs"] |= {"seed": 73, "steps": 200}
    runs = client.queue(small)
    small["6"]["inputs"]["seed"] += 1
    waits = client.queue(small)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        client.cancel(waits)

    with pytest.raises(qc.ForgottenError, match="taken from the queue"):
        client.wait(waits, say)
    assert said == ["waiting, jobs before it: 1"]
    canceller = threading.Timer(0.5, client.cancel, [runs])
    canceller.start()
    with pytest.raises(qc.CancelledError, match=f"job {runs} was cancelled"):
        client.wait(runs)
    canceller.join()


def test_the_canvas_travels_with_the_graphs_values(
    client: Any, small: dict[str, Any], tmp_path: Path
) -> None:
    small["6"]["inputs"]["seed"] = 75
    canvas = json.loads((ROOT / "example_workflows" / "text_to_video.json").read_text())
    (path,) = client.fetch(client.wait(client.queue(small, canvas)), tmp_path)
    with av.open(str(path)) as container:
        carried = json.loads(container.metadata["workflow"])
    assert [node["pos"] for node in carried["nodes"]] == [node["pos"] for node in canvas["nodes"]]
    values = {node["id"]: node.get("widgets_values") for node in carried["nodes"]}
    assert values[6][:3] == [75, "fixed", 2]
    assert values[5][:3] == [32, 32, 5]


def test_a_picture_is_uploaded(client: Any, tmp_path: Path) -> None:
    graph = workflow("image_to_video")
    graph["9"] = {"class_type": "LoadImage", "inputs": {"image": "none.png"}}
    start = ROOT / "web" / "docs" / "red_circle_left.png"
    graph = client.change(graph, {**SMALL, "LoadImage.image": str(start)})
    assert graph["9"]["inputs"]["image"].startswith("red_circle_left")
    (path,) = client.fetch(client.wait(client.queue(graph)), tmp_path)
    assert path.suffix == ".mp4"


def test_a_file_that_is_gone_is_told(
    server: ComfyServer, client: Any, small: dict[str, Any], tmp_path: Path
) -> None:
    small["6"]["inputs"]["seed"] = 76
    (file,) = client.wait(client.queue(small)).files
    (server.base / "output" / file.subfolder / file.name).unlink()
    again = client.wait(client.queue(small))
    assert again.cached
    with pytest.raises(qc.QueueError, match=f"{file.name}: the job's file is not in the server's output"):
        client.fetch(again, tmp_path)


def test_variants_are_made_once_each(client: Any, small: dict[str, Any], tmp_path: Path) -> None:
    dawn = qv.Variant("dawn", "a blue star turns")
    noon = qv.Variant("noon", "a red circle grows", seed=5, settings={"Sampler.steps": "3"})
    bad = qv.Variant("bad", settings={"Save Video.fps": -1})
    first = by_name(qv.run_variants(client, small, [dawn, noon, bad], tmp_path))
    assert [row["status"] for row in first.values()] == ["finished", "finished", "failed"]
    assert (first["dawn"]["seed"], first["noon"]["seed"]) == (qv.seed_of("dawn"), 5)
    assert "fps: Value -1.0 smaller than min" in first["bad"]["error"]
    for name in ("dawn", "noon"):
        assert first[name]["files"] == [f"{name}.mp4", f"{name}.jpg"]
        assert first[name]["contact_sheet"] == f"{name}.jpg"
        assert read_mp4((tmp_path / f"{name}.mp4").read_bytes()).shape == (5, 32, 32, 3)
    manifest = (tmp_path / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in manifest] == list(first.values())
    page = (tmp_path / "index.html").read_text()
    assert page.count("<article>") == 3
    assert '<a href="dawn.mp4"><img src="dawn.jpg"' in page

    # One is added in front, one is mended, one lost its file: the fourth is left alone.
    (tmp_path / "noon.mp4").unlink()
    dusk, mended = qv.Variant("dusk"), qv.Variant("bad", settings={"Save Video.fps": 8})
    said: list[str] = []
    second = qv.run_variants(client, small, [dusk, noon, mended, dawn], tmp_path, report=said.append)
    assert {row["status"] for row in second} == {"finished"}
    assert by_name(second)["dawn"] == first["dawn"]
    assert [line for line in said if "nothing has changed" in line] == [
        "[4/4] dawn: kept, nothing has changed"
    ]
    assert (tmp_path / "noon.mp4").is_file()
    written = [json.loads(line)["name"] for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert written == ["dusk", "noon", "bad", "dawn"]


def test_the_command_makes_what_it_can_and_says_what_failed(server: ComfyServer, tmp_path: Path) -> None:
    graph, table, out = str(CLIENT.with_name("text_to_video.json")), tmp_path / "rows.csv", tmp_path / "out"
    table.write_text("name,Save Video.fps\nsound,\nbroken,-1\n")
    arguments = [graph, str(table), *in_words(SMALL), "--out", str(out)]
    ran = subprocess.run(
        command(server, *arguments, script=VARIANTS),
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        cwd=tmp_path,
    )
    assert ran.returncode == 1
    assert ran.stdout == f"{out / 'sound.mp4'}\n"
    *_, failed, see = ran.stderr.splitlines()
    assert failed.startswith("broken: failed: the server refuses the graph: Save Video (WanCore) (node 8): ")
    assert see == f"see {out / 'index.html'}"
    assert sorted(path.name for path in out.iterdir()) == [
        "index.html",
        "manifest.jsonl",
        "sound.jpg",
        "sound.mp4",
    ]


def test_a_look_is_said_in_the_prompt(client: Any, small: dict[str, Any]) -> None:
    graph = qv.graph_of(client, small, qv.Variant("a", "a blue star turns", ("Night time", "warm colors")))
    said = client.wait(client.queue(graph)).texts["look"]
    assert said.startswith("a blue star turns")
    assert "night time" in said
    assert "warm colors" in said
    several = ("night time", "warm colors", "side lighting", "wide shot", "center composition")
    with pytest.raises(qc.QueueError, match=r"at most (four|4)"):
        client.queue(qv.graph_of(client, small, qv.Variant("a", look=several)))


def test_an_interrupted_variant_is_taken_up_again(
    client: Any, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the client loses the server while it waits; then it is stopped; then the server forgets."""
    variant = qv.Variant("night", "a green square grows")

    def lost(*_: object) -> None:
        raise qc.UnreachableError("gone.")

    with monkeypatch.context() as patched:
        patched.setattr(client, "wait", lost)
        with pytest.raises(qc.UnreachableError):
            qv.run_variants(client, small, [variant], tmp_path)
    (row,) = rows_in(tmp_path)
    assert row["status"] == "queued"
    (again,) = qv.run_variants(client, small, [variant], tmp_path)
    assert (again["status"], again["prompt_id"]) == ("finished", row["prompt_id"])

    longer = qv.Variant("night", "a green square grows", settings={"Sampler.steps": 200})

    def stop(line: str) -> None:
        if "step 3 of 200" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qv.run_variants(client, small, [longer], tmp_path, report=stop)
    (row,) = rows_in(tmp_path)
    assert row["status"] == "cancelled"
    assert row["error"] == "cancelled from the keyboard"

    unknown = {**again, "status": "queued", "prompt_id": "c0ffee00-0000-4000-8000-000000000000"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(unknown) + "\n")
    (done,) = qv.run_variants(client, small, [variant], tmp_path)
    assert done["status"] == "finished"


def test_the_readmes_commands_are_sound(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is read as it would be run, up to the graphs that it would queue."""
    section = (ROOT / "README.md").read_text().split("## Queue it without a browser")[1].split("\n## ")[0]
    lines = section.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("python example_workflows")]
    assert len(commands) >= 3
    monkeypatch.chdir(ROOT)
    assert {Path(script).resolve() for script, *_ in commands} == {CLIENT, VARIANTS}
    for script, *arguments in commands:
        several = Path(script).resolve() == VARIANTS
        options = (qv if several else qc).options_parser().parse_args(arguments)
        graph, canvas = qc.graph_and_canvas(options, client)
        for variant in qv.read_variants(options.variants) if several else [qv.Variant("one")]:
            made = qv.graph_of(client, graph, variant)
            if canvas is not None:
                qc.filled_canvas(canvas, made, client.inputs)


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in rows}


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
