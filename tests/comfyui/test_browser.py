"""The pack in the real front end, in the classic canvas and in Nodes 2.0, as a user sees it.

pytest tests/comfyui/test_browser.py --basetemp=out/browser     (keeps the screenshots)
"""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_local_names import CASES as FILE_NAMES
from tests.unit.test_local_names import FILES
from wan_core.aesthetic import compose, look_of

from .blueprints import ALL, made
from .canvas import STEP_MS, WIDGET_VALUES, Canvas
from .comfy_server import ROOT, ComfyServer
from .conftest import workflow

pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]

NAMES = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
(TEXT_TO_VIDEO,) = (one for one in ALL if one.workflow == "text_to_video")
FEW_STEPS = {"steps": 4}
EMPTY = {"width": 32, "height": 32, "frames": 5, "model": "T2V-A14B"}
VAE = {"vae_name": "wan_tiny_vae.safetensors", "precision": "float32, as released"}
FPS = 4
COMPARED = "[...document.querySelectorAll('.wancore-compare video')]"
# How many seconds the two are apart, at each of thirty looks while both run.
HOW_FAR_APART = f"""
() => new Promise((done) => {{
  const [left, right] = {COMPARED}, apart = [];
  const look = () => {{
    if (![left, right].some((video) => video.seeking || video.paused))
      apart.push(Math.abs(left.currentTime - right.currentTime));
    apart.length < 30 ? requestAnimationFrame(look) : done(apart);
  }};
  look();
}})
"""
# The help page of this title is shown, and its picture, too.
HELP = """
(title) => {
  const page = document.querySelector(".node-help-content");
  const pictures = [...(page?.querySelectorAll("img") ?? [])];
  return page?.querySelector("h1")?.textContent === title && pictures.some((picture) => picture.naturalWidth);
}
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_runs_and_plays(canvas: Canvas, name: str, tmp_path: Path) -> None:
    canvas.errors.clear()
    canvas.open_template(name)
    canvas.page.screenshot(path=str(tmp_path / "opened.png"))
    known = "n.type in LiteGraph.registered_node_types && !n.has_errors"
    assert canvas.page.evaluate(f"app.graph.nodes.filter(n => !({known})).map(n => n.type)") == []
    exported = canvas.page.evaluate("app.graphToPrompt().then(p => p.output)")
    assert {key: _plain(node) for key, node in exported.items()} == {
        key: _plain(node) for key, node in workflow(name).items()
    }
    assert _overlapping(canvas) == []
    canvas.set_widgets("WanCoreSampler", seed=_fresh_seed(canvas, name), **FEW_STEPS)
    before = canvas.page.evaluate(WIDGET_VALUES)
    end = canvas.run()
    assert end["kind"] == "execution_success", end
    assert canvas.playing_videos() >= 1
    canvas.page.screenshot(path=str(tmp_path / "ran.png"))
    assert canvas.errors == []
    # Pictures and lines of text on the nodes are no widgets to save.
    assert canvas.page.evaluate(WIDGET_VALUES) == before
    canvas.settle()
    assert _overlapping(canvas) == []


def test_a_look_is_drawn_and_told_while_it_is_chosen(canvas: Canvas) -> None:
    """The card has the node's own words at once, of a prompt from a primitive node too; and the fault."""
    canvas.open_template("aesthetic_sweep")
    prompt = workflow("aesthetic_sweep")["4"]["inputs"]["value"]
    told = "() => [...document.querySelectorAll('.wancore-look-prompt')].map((one) => one.textContent)"
    says = f"(words) => JSON.stringify(({told})()) === JSON.stringify(words)"
    looks = ({"color_tone": f"{tone} colors"} for tone in ("warm", "cool"))
    canvas.wait_for(says, [compose(prompt, look) for look in looks])
    drawn = "() => document.querySelector('.wancore-look-picture').innerHTML"
    before = canvas.page.evaluate(drawn)
    look = {"color_tone": "warm colors", "angle": "low angle shot", "style": "felt style"}
    canvas.set_widgets("WanCoreAesthetic", **look)
    canvas.wait_for(says, [compose(prompt, look)] * 2)
    assert canvas.page.evaluate(drawn) != before
    canvas.set_widgets("WanCoreAesthetic", style="pixel art style")
    canvas.wait_for(says, [look_of({**look, "style": "pixel art style"}).fault] * 2)
    over = canvas.page.evaluate(
        "[...document.querySelectorAll('.wancore-look-chips span.over')].map((one) => one.textContent)"
    )
    assert over == ["warm colors", "low angle shot"] * 2


def test_a_dropped_video_brings_its_graph_back(canvas: Canvas) -> None:
    canvas.open_template("text_to_video")
    canvas.set_widgets("WanCoreSampler", seed=_fresh_seed(canvas, "dropped"), **FEW_STEPS)
    canvas.set_widgets("WanCoreTextEncode", positive='a blue star {turns} | (grows), \\ "quoted", 星')
    queued = canvas.page.evaluate("app.graphToPrompt().then(p => p.output)")
    assert canvas.run()["kind"] == "execution_success"
    shown = canvas.page.evaluate("app.nodeOutputs['8'].images[0]")
    canvas.open_template("lora")
    canvas.drop_video(shown)
    canvas.wait_for("() => !app.graph.nodes.some((node) => node.type === 'WanCoreLoadLora')")
    canvas.settle()
    assert canvas.page.evaluate("app.graphToPrompt().then(p => p.output)") == queued


def test_a_video_queued_headlessly_brings_its_graph_back(canvas: Canvas, server: ComfyServer) -> None:
    """There is only the prompt then: whatever is in it, whoever saved it and however long the video is."""
    graph = _quick_graph()
    # as core notes it for nodes that are never to be cached; no other JSON has a NaN
    run = server.run({**graph, "6": {**graph["6"], "is_changed": [math.nan]}})
    ours, core = (run.outputs[key]["images"][0] for key in ("4", "5"))
    for shown, more in ((ours, 0), (ours, 70 << 20), (core, 0)):
        assert _dropped(canvas, shown, more) == graph
    file = "carries_a_graph.mp4"
    (server.base / "input").mkdir(exist_ok=True)
    (server.base / "input" / file).write_bytes(server.view(ours))
    save = {"images": ["1", 0], "fps": 16, "filename_prefix": "again", "contact_sheet": "none"}
    again = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": file}},
        "2": {"class_type": "WanCoreSaveVideo", "inputs": save},
    }
    assert set(_dropped(canvas, server.run(again).outputs["2"]["images"][0])) == {"1", "2"}


def test_two_videos_are_compared_by_one_clock(canvas: Canvas, tmp_path: Path) -> None:
    canvas.page.evaluate("(graph) => app.loadApiJson(graph, 'compare')", _two_videos())
    canvas.settle()
    before = canvas.page.evaluate(WIDGET_VALUES)
    assert canvas.run()["kind"] == "execution_success"
    canvas.wait_for(
        f"() => {COMPARED}.length === 2 && {COMPARED}.every((v) => v.currentTime > 0 && !v.paused)"
    )
    apart = canvas.page.evaluate(HOW_FAR_APART)
    assert sorted(apart)[len(apart) // 2] < 1 / FPS / 2, apart
    slider = canvas.page.locator(".wancore-compare input")
    slider.evaluate("(slider) => { slider.value = 1.75; slider.dispatchEvent(new Event('input')); }")
    canvas.wait_for(f"() => {COMPARED}.every((video) => video.paused && !video.seeking)")
    # frame 7 of 9, and the last of the other's 5
    assert canvas.page.evaluate(f"{COMPARED}.map((video) => video.currentTime)") == [7.5 / FPS, 4.5 / FPS]
    canvas.page.get_by_role("button", name="wipe").click()
    frame = canvas.page.locator(".wancore-compare .frame").bounding_box()
    canvas.page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
    canvas.page.mouse.down()
    canvas.page.mouse.move(frame["x"] + frame["width"] / 4, frame["y"] + frame["height"] / 2)
    canvas.page.mouse.up()
    shown = canvas.page.evaluate(f"getComputedStyle({COMPARED}[1]).clipPath")
    assert float(shown.split()[-1].rstrip("%)")) == pytest.approx(25, abs=2), shown
    canvas.page.screenshot(path=str(tmp_path / "compared.png"))
    saved = canvas.page.evaluate("app.graph.serialize().nodes.find((n) => n.type === 'WanCoreCompare')")
    assert saved["properties"]["view"] == "wipe"
    assert sorted(canvas.page.evaluate(WIDGET_VALUES)) == sorted(before)
    assert canvas.errors == []


def test_stopping_takes_effect(canvas: Canvas) -> None:
    canvas.errors.clear()
    canvas.open_template("text_to_video")
    # Long steps, as of a real model: in Nodes 2.0 a hundred short ones a second leave no time for a click.
    canvas.set_widgets("WanCoreEmptyVideoLatent", width=256, height=256, frames=33)
    canvas.set_widgets("WanCoreSampler", seed=_fresh_seed(canvas, "stopped"), steps=50)
    canvas.queue()
    canvas.wait_for("() => told.marks.length > 1")
    canvas.page.get_by_role("button", name="Interrupt").click(timeout=STEP_MS)
    assert canvas.end()["kind"] == "execution_interrupted"
    canvas.wait_for("() => told.marks.at(-1).length === 0")
    assert canvas.errors == []


def test_the_marker_follows_the_run_and_the_preview_moves(canvas: Canvas) -> None:
    canvas.errors.clear()
    canvas.open_template("text_to_video")
    canvas.set_widgets("WanCoreExpertPlan", steps=7)
    canvas.set_widgets("WanCoreSampler", seed=_fresh_seed(canvas, "marked"), steps=7)
    drawn = "[...document.querySelectorAll('[data-wancore=plan]')]"
    canvas.wait_for(f"() => {drawn}.every((plan) => plan.querySelectorAll('[data-step]').length === 7)")
    assert canvas.run()["kind"] == "execution_success"
    canvas.wait_for("() => told.marks.at(-1).length === 0")  # it goes when the run ends
    assert canvas.page.evaluate("told.marks") == [*([step] for step in range(8)), []]
    assert canvas.preview_moves()
    assert canvas.errors == []


def test_every_help_page_opens(canvas: Canvas, server: ComfyServer) -> None:
    canvas.open_template("text_to_video")
    pages = {path.stem: path.read_text() for path in (ROOT / "web" / "docs").glob("WanCore*.md")}
    assert set(pages) == {name for name in server.get("/object_info") if name.startswith("WanCore")}
    canvas.page.evaluate("app.canvas.selectNode(app.graph.getNodeById(6))")
    canvas.page.get_by_test_id("info-button").click(timeout=STEP_MS)
    for node_type, text in pages.items():
        canvas.select_new(node_type)
        canvas.wait_for(HELP, text.splitlines()[0].removeprefix("# "))


def test_files_named_on_another_machine_are_found(canvas: Canvas) -> None:
    graph = json.loads((ROOT / "example_workflows" / "lora.json").read_text())
    for node in graph["nodes"]:
        if node["type"].startswith("WanCoreLoad"):
            node["widgets_values"] = [_elsewhere(value) for value in node["widgets_values"]]
    blueprint = made(TEXT_TO_VIDEO)
    host = blueprint["nodes"][0]
    host["widgets_values"] = [_elsewhere(value) for value in host["widgets_values"]]
    before = made(TEXT_TO_VIDEO)["nodes"][0]["widgets_values"]
    canvas.open_graph(blueprint)
    assert canvas.page.evaluate("app.graph.serialize().nodes[0].widgets_values") == before
    canvas.open_graph(graph)
    exported = canvas.page.evaluate("app.graphToPrompt().then(p => p.output)")
    assert {key: _plain(node) for key, node in exported.items()} == {
        key: _plain(node) for key, node in workflow("lora").items()
    }
    assert not canvas.page.get_by_text("is missing").count()
    graph["nodes"][0]["widgets_values"][0] = "elsewhere\\nowhere.safetensors"  # what is missing is reported
    canvas.open_graph(graph)
    canvas.page.get_by_text("nowhere.safetensors is missing").first.wait_for(timeout=STEP_MS)
    canvas.open_template("text_to_video")  # the report goes


def test_names_mean_in_the_browser_what_they_mean_in_python(canvas: Canvas) -> None:
    found = canvas.page.evaluate(
        """([names, files]) => import("/extensions/wancore/js/file_names.js").then(({ localName }) =>
             names.map((name) => localName(name, files)))""",
        [[name for name, _ in FILE_NAMES], FILES],
    )
    assert found == [meant[0] if len(meant) == 1 else None for _, meant in FILE_NAMES]


def test_a_blueprint_runs_to_a_video(canvas: Canvas) -> None:
    canvas.errors.clear()
    canvas.open_graph(made(TEXT_TO_VIDEO))
    values = {"seed": _fresh_seed(canvas, "blueprint"), **FEW_STEPS}
    canvas.set_widgets(canvas.page.evaluate("app.graph.nodes[0].type"), **values)
    before = canvas.page.evaluate(WIDGET_VALUES)
    end = canvas.run()
    assert end["kind"] == "execution_success", end
    assert canvas.playing_videos() == 1
    assert canvas.page.evaluate(WIDGET_VALUES) == before
    assert canvas.errors == []


def _elsewhere(value: Any) -> Any:
    """A file's name as a machine with other folders and the other slash has it."""
    return f"Wan2.2\\theirs\\{value}" if str(value).endswith(".safetensors") else value


def _two_videos() -> dict[str, Any]:
    """Nine frames and five, from empty latents, into Compare."""
    nodes = [
        ("WanCoreLoadVAE", VAE),
        ("WanCoreEmptyVideoLatent", EMPTY | {"frames": 9}),
        ("WanCoreEmptyVideoLatent", EMPTY),
        ("WanCoreDecodeToVideo", {"samples": ["2", 0], "vae": ["1", 0], "fps": FPS}),
        ("WanCoreDecodeToVideo", {"samples": ["3", 0], "vae": ["1", 0], "fps": FPS}),
        ("WanCoreCompare", {"left": ["4", 0], "right": ["5", 0], "fps": FPS, "left_label": "nine"}),
    ]
    return _numbered(nodes)


def _quick_graph() -> dict[str, Any]:
    """An empty latent decoded while it is saved, by our node and by core's; and a text with many signs."""
    ours = {"images": ["3", 0], "fps": 16, "filename_prefix": "ours", "contact_sheet": "none"}
    core = {"video": ["3", 0], "filename_prefix": "core"}
    core |= dict.fromkeys(("format", "format.codec", "codec"), "auto")
    nodes = [
        ("WanCoreEmptyVideoLatent", EMPTY),
        ("WanCoreLoadVAE", VAE),
        ("WanCoreDecodeToVideo", {"samples": ["1", 0], "vae": ["2", 0], "fps": 16}),
        ("WanCoreSaveVideo", ours),
        ("SaveVideo", core),
        ("PrimitiveStringMultiline", {"value": 'NaN } {turns | {-Infinity: NaN, "x"} \\ 星'}),
    ]
    return _numbered(nodes)


def _numbered(nodes: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    return {str(key): {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in enumerate(nodes, 1)}


def _dropped(canvas: Canvas, shown: dict[str, str], more: int = 0) -> dict[str, Any]:
    """The graph that comes of dropping a file, API format."""
    canvas.page.evaluate("app.graph.clear()")
    canvas.drop_video(shown, more)
    canvas.wait_for("() => app.graph.nodes.length > 1")
    canvas.settle()
    exported = canvas.page.evaluate("app.graphToPrompt().then(p => p.output)")
    return {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in exported.items()
    }


def _overlapping(canvas: Canvas) -> list[tuple[str, str]]:
    """The pairs of nodes of which one covers the other."""
    return [
        (one, other)
        for (_, (one, *a)), (_, (other, *b)) in combinations(canvas.boxes().items(), 2)
        if not (a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1])
    ]


def _fresh_seed(canvas: Canvas, name: str) -> int:
    """A seed of its own for each run, so that nothing is answered from the cache."""
    return sum(f"{canvas.renderer} {name}".encode())


def _plain(node: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return node["class_type"], node["inputs"]
