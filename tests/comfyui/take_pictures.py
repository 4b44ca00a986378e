"""Takes the pictures of README.md and of the help pages anew, by hand, after a change that shows:

python -m tests.comfyui.take_pictures [NodeId ...]     (all without names; some minutes)

Starts a ComfyUI, opens and runs the example workflows, and writes `web/docs/pictures/<NodeId>.jpg` for every
node, as it is after a run, and the README's picture of a whole canvas beside them.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from playwright import sync_api

from .canvas import CLASSIC, NODES_2, Canvas, find_chromium, open_browser
from .comfy_server import ROOT, ComfyServer, find_comfyui

log = logging.getLogger("wancore.pictures")

PICTURES = ROOT / "web" / "docs" / "pictures"
# In the order in which they are asked for nodes; what is in none of them is taken as it is when added.
WORKFLOWS = ["text_to_video", "image_to_video", "lora", "aesthetic_sweep"]
WHOLE = "text_to_video"
CORNER = (420, 190)  # of a node on the screen, clear of the bars
MARGIN = 14
NODE_QUALITY, WHOLE_QUALITY = 80, 72
# Puts a node's corner at a place on the screen in its own size, and says how large it is with its title.
SHOW = """
([id, x, y]) => {
  const [left, top, width, height] = app.graph.getNodeById(id).boundingRect;
  app.canvas.deselectAll();
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [x - left, y - top];
  app.canvas.setDirty(true, true);
  return [width, height];
}
"""
TYPES = "() => Object.fromEntries(app.graph.nodes.map((node) => [node.type, node.id]))"
ADD = """
(type) => {
  app.graph.clear();
  const node = LiteGraph.createNode(type);
  app.graph.add(node);
  return node.id;
}
"""


def main() -> None:
    """Take the pictures of the nodes named on the command line, or all."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    PICTURES.mkdir(exist_ok=True)
    wanted = sys.argv[1:] or sorted(path.stem for path in (ROOT / "web" / "docs").glob("WanCore*.md"))
    with tempfile.TemporaryDirectory() as folder:
        server = ComfyServer(find_comfyui(), Path(folder) / "comfyui")
        try:
            server.start()
            with open_browser(sync_api, find_chromium()) as browser:
                take_nodes(opened(browser, server, CLASSIC), wanted)
                if not sys.argv[1:]:
                    take_whole(opened(browser, server, NODES_2))
        finally:
            server.stop()


def take_nodes(canvas: Canvas, wanted: list[str]) -> None:
    """A picture of each node, of the first workflow that has it, after a run."""
    left = list(wanted)
    for name in WORKFLOWS:
        canvas.open_template(name)
        here = {
            node_type: node for node_type, node in canvas.page.evaluate(TYPES).items() if node_type in left
        }
        if not here:
            continue
        run(canvas)
        for node_type, node in here.items():
            take_node(canvas, node_type, node)
            left.remove(node_type)
    for node_type in left:
        take_node(canvas, node_type, canvas.page.evaluate(ADD, node_type))


def take_node(canvas: Canvas, node_type: str, node: int) -> None:
    """The picture of one node in its own size."""
    canvas.settle()
    width, height = canvas.page.evaluate(SHOW, [node, *CORNER])
    canvas.page.wait_for_timeout(700)  # what is on the node follows the canvas some frames later
    x, y = CORNER
    canvas_top = canvas.page.evaluate("app.canvas.canvas.getBoundingClientRect().top")
    clip = {
        "x": x - MARGIN,
        "y": y + canvas_top - MARGIN,
        "width": width + 2 * MARGIN,
        "height": height + 2 * MARGIN,
    }
    save(canvas, node_type, NODE_QUALITY, clip)


def take_whole(canvas: Canvas) -> None:
    """A whole canvas after a run, for the README. Nodes 2.0 shows its words at any distance."""
    canvas.open_template(WHOLE)
    run(canvas)
    canvas.page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    canvas.page.wait_for_timeout(2000)  # the view glides there
    save(canvas, f"{WHOLE}_{NODES_2}", WHOLE_QUALITY, around_all(canvas))


def around_all(canvas: Canvas) -> dict[str, float]:
    """Where all nodes are on the screen."""
    boxes = [box[1:] for box in canvas.boxes().values()]
    scale, (dx, dy) = canvas.page.evaluate("[app.canvas.ds.scale, [...app.canvas.ds.offset]]")
    left, top = (min(box[side] for box in boxes) for side in (0, 1))
    right, bottom = (max(box[side] for box in boxes) for side in (2, 3))
    return {
        "x": (left + dx) * scale - MARGIN,
        "y": (top + dy) * scale - MARGIN,
        "width": (right - left) * scale + 2 * MARGIN,
        "height": (bottom - top) * scale + 2 * MARGIN,
    }


def opened(browser: sync_api.Browser, server: ComfyServer, renderer: str) -> Canvas:
    server.post("/api/settings/Comfy.NodeBadge.NodeSourceBadgeMode", "None")  # all are of this pack
    canvas = Canvas(browser.new_page(viewport={"width": 1920, "height": 1080}), renderer)
    canvas.open(server)
    return canvas


def run(canvas: Canvas) -> None:
    """Run the graph as it is, and wait until its videos play."""
    end = canvas.run()
    if end["kind"] != "execution_success":
        raise SystemExit(f"the run failed: {end}")
    canvas.playing_videos()


def save(canvas: Canvas, name: str, quality: int, clip: dict[str, float] | None = None) -> None:
    path = PICTURES / f"{name}.jpg"
    canvas.page.screenshot(path=str(path), type="jpeg", quality=quality, clip=clip, timeout=120_000)
    log.info("%s: %.0f KB", path.relative_to(ROOT), path.stat().st_size / 1000)


if __name__ == "__main__":
    main()
