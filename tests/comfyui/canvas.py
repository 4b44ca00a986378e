"""ComfyUI's front end in headless Chromium: one page per renderer, and what a user does and sees there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .comfy_server import ComfyServer

CLASSIC, NODES_2 = "classic", "nodes_2"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# So that no dialog covers the canvas; the map of it is drawn anew all the time, which costs.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.49.6",
    "Comfy.Minimap.Visible": False,
}
# What the front end itself logs where there is no internet: pictures, fonts and lists it cannot fetch.
TOLERATED = ("404", "ERR_NAME_NOT_RESOLVED", "Failed to load resource")
START_MS, RUN_MS, STEP_MS = 180_000, 300_000, 60_000
# Fades and spinners are painted sixty times a second, by the processor here.
STILL = "*, ::before, ::after { animation: none !important; transition: none !important; }"
READY = """
window.app?.extensionManager && "WanCoreSampler" in LiteGraph.registered_node_types &&
(() => { try { return !!app.graph && !!app.canvas; } catch { return false; } })()
"""
# What the page remembers of its runs: the last word, and where the plan's marker was.
RECORD = """
() => {
  window.told = { ended: null, marks: [] };
  for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
    app.api.addEventListener(kind, (event) => (told.ended = { kind, ...event.detail }));
  const look = () => {
    const marks = [...document.querySelectorAll(".marker")].map((marker) => Number(marker.dataset.done));
    if (String(marks) !== String(told.marks.at(-1) ?? "")) told.marks.push(marks);
  };
  new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
}
"""
# Every node as it stands on the screen, in the graph's units: [id, type, left, top, right, bottom].
BOXES = """
() => app.graph.nodes.map((node) => {
  const drawn = document.querySelector(`[data-node-id="${node.id}"]`);
  if (!LiteGraph.vueNodesMode || !drawn) {
    const [x, y, width, height] = node.boundingRect;
    return [String(node.id), node.type, x, y, x + width, y + height];
  }
  const { scale, offset } = app.canvas.ds;
  const canvas = app.canvas.canvas.getBoundingClientRect();
  const box = drawn.getBoundingClientRect();
  const x = (box.left - canvas.left) / scale - offset[0], y = (box.top - canvas.top) / scale - offset[1];
  return [String(node.id), node.type, x, y, x + box.width / scale, y + box.height / scale];
})
"""
SET_WIDGETS = """
([type, values]) => {
  for (const node of app.graph.nodes.filter((node) => node.type === type)) {
    for (const [name, value] of Object.entries(values)) {
      const widget = node.widgets.find((widget) => widget.name === name);
      widget.value = value;
      widget.callback?.(value, app.canvas, node);
    }
  }
}
"""
# The picture that a node shows of its run: its address and place on the screen.
PREVIEW = """
() => {
  const shown = [...document.images].find(
    (image) => image.src.startsWith("blob:") && image.naturalWidth && image.checkVisibility());
  if (!shown) return null;
  const { x, y, width, height } = shown.getBoundingClientRect();
  return { src: shown.src, clip: { x, y, width, height } };
}
"""
SELECT_NEW = """
(type) => {
  const node = LiteGraph.createNode(type);
  app.graph.add(node);
  app.canvas.deselectAll();
  app.canvas.selectNode(node);
}
"""
# A node without widgets saves none; one that shows a line of text saves an empty list, which is the same.
WIDGET_VALUES = "app.graph.serialize().nodes.map(n => [n.id, n.widgets_values ?? []])"
FRAMES_LATER = """
() => new Promise((done) => {
  let left = 12;
  const next = () => (left-- ? requestAnimationFrame(next) : done());
  next();
})
"""
# `more` bytes make the box with the pictures, an mp4's last, as large as a long video's.
DROP = """
async ([url, name, more]) => {
  const bytes = await (await fetch(url)).arrayBuffer();
  const view = new DataView(bytes);
  let box = 0;
  while (box + view.getUint32(box) < bytes.byteLength) box += view.getUint32(box);
  view.setUint32(box, view.getUint32(box) + more);
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes, new Uint8Array(more)], name, { type: "video/mp4" }));
  const place = { bubbles: true, cancelable: true, clientX: innerWidth / 2, clientY: innerHeight / 2 };
  document.dispatchEvent(new DragEvent("drop", { dataTransfer, ...place }));
}
"""


class Canvas:
    """One page of the front end in one renderer."""

    def __init__(self, page: Any, renderer: str) -> None:
        self.page, self.renderer = page, renderer
        self.errors: list[str] = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, server: ComfyServer) -> None:
        """Load the front end and wait until nodes can be placed."""
        for name, value in {**SETTINGS, "Comfy.VueNodes.Enabled": self.renderer == NODES_2}.items():
            server.post(f"/api/settings/{name}", value)
        # Core's hundreds of templates with pictures from the internet cost seconds each time they are listed.
        self.page.route("**/templates/index*.json", lambda route: route.fulfill(json=[]))
        self.page.goto(server.url)
        self.page.wait_for_function(READY, timeout=START_MS)
        self.page.add_style_tag(content=STILL)
        self.page.evaluate(RECORD)
        self.errors.clear()  # the front end has some of its own while it starts

    def open_template(self, name: str) -> None:
        """Choose one of our workflows in the template browser."""
        self.page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        browser = self.page.get_by_role("dialog")
        browser.get_by_text("wancore", exact=True).first.click(timeout=STEP_MS)
        browser.get_by_test_id(f"template-workflow-{name}").click(timeout=STEP_MS)
        browser.wait_for(state="detached", timeout=STEP_MS)
        self.wait_for("(name) => app.extensionManager.workflow.activeWorkflow?.path.includes(name)", name)
        self.settle()

    def open_graph(self, graph: dict[str, Any]) -> None:
        """Load a canvas graph, as a file dropped on the canvas is."""
        self.page.evaluate("(graph) => app.loadGraphData(graph)", graph)
        self.settle()

    def preview_moves(self) -> bool:
        """Whether one and the same preview changes on the screen by itself."""
        seen: dict[str, set[bytes]] = {}
        ends = time.monotonic() + STEP_MS / 1000
        while time.monotonic() < ends and not any(len(pictures) > 1 for pictures in seen.values()):
            shown = self.page.wait_for_function(PREVIEW, timeout=STEP_MS).json_value()
            picture = self.page.screenshot(clip=shown["clip"], timeout=STEP_MS)
            if self.page.evaluate(PREVIEW) == shown:
                seen.setdefault(shown["src"], set()).add(picture)
        return any(len(pictures) > 1 for pictures in seen.values())

    def select_new(self, node_type: str) -> None:
        """Put a node of a type on the canvas and select it alone."""
        self.page.evaluate(SELECT_NEW, node_type)

    def set_widgets(self, node_type: str, **values: Any) -> None:
        """Type values into every node of a type."""
        self.page.evaluate(SET_WIDGETS, [node_type, values])

    def queue(self) -> None:
        """Press Run."""
        self.page.evaluate("told.ended = null; told.marks = []")
        self.page.get_by_test_id("queue-button").click(timeout=STEP_MS)

    def run(self) -> dict[str, Any]:
        """Press Run and wait for the run's last word."""
        self.queue()
        return self.end()

    def end(self) -> dict[str, Any]:
        """The last word of the queued run: its kind and details."""
        self.wait_for("() => told.ended", timeout=RUN_MS)
        return self.page.evaluate("told.ended")

    def playing_videos(self) -> int:
        """Wait until every video shown plays by itself; returns how many there are."""
        self.wait_for("() => document.querySelector('video')")
        shown = "[...document.querySelectorAll('video')]"
        self.wait_for(f"() => {shown}.every((video) => video.readyState >= 3 && video.currentTime > 0)")
        return self.page.evaluate(f"{shown}.length")

    def drop_video(self, shown: dict[str, str], more: int = 0) -> None:
        """Drop an mp4 that a node showed on the canvas, `more` bytes longer than it is."""
        query = "&".join(f"{key}={shown[key]}" for key in ("filename", "subfolder", "type"))
        self.page.evaluate(DROP, [f"/view?{query}", shown["filename"], more])

    def boxes(self) -> dict[str, tuple[str, float, float, float, float]]:
        """Every node's type and left, top, right, bottom as it is drawn."""
        return {box[0]: tuple(box[1:]) for box in self.page.evaluate(BOXES)}

    def settle(self) -> None:
        """Wait until two looks at the nodes in a row, some frames apart, are the same."""
        last: Any = None
        for _ in range(40):
            now = json.dumps(self.page.evaluate(BOXES))
            if now == last:
                return
            last = now
            self.page.evaluate(FRAMES_LATER)
        raise AssertionError("the nodes never come to rest")

    def wait_for(self, condition: str, argument: Any = None, timeout: int = STEP_MS) -> None:
        """Wait until a JavaScript function of the argument says yes."""
        self.page.wait_for_function(condition, arg=argument, timeout=timeout)

    def _note(self, message: Any) -> None:
        if message.type == "error" and not any(word in message.text for word in TOLERATED):
            self.errors.append(message.text)


def find_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def open_browser(playwright: Any, chromium: str) -> Iterator[Any]:
    """A headless browser of the system's, its pages as large as a usual screen."""
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()
