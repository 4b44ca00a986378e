"""The panels on the nodes, in both renderers: the expert plan, the presets, the sizes. Nothing is run here.

pytest tests/comfyui/test_panels.py
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from wan_core.presets import find_preset
from wan_core.sampling.plan import plan

from .canvas import Canvas
from .comfy_server import ROOT

pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]

SAMPLER, LOADER, LATENT = "WanCoreSampler", "WanCoreLoadModel", "WanCoreEmptyVideoLatent"
T2V, I2V, TI2V = (f"wan_tiny_{name}.safetensors" for name in ("t2v_high_noise", "i2v_high_noise", "ti2v"))
OPEN = "(graph) => app.loadGraphData(graph, true, true, 'panels')"
# How the tests find nodes, panels and values; `here` is the last node of a type in the graph on the screen.
TOOLS = """
() => {
  window.here = (type) => app.canvas.graph.nodes.filter((node) => node.type === type).at(-1);
  window.panel = (type, name) => here(type).widgets.find((widget) => widget.name === name).element;
  window.values = (type, names) => names.map((name) => here(type).widgets.find((w) => w.name === name).value);
  window.drawn = () => [...panel("WanCoreSampler", "plan").querySelectorAll("circle[data-step]")].map(
    ({ dataset: { timestep, sigma, expert } }) => ({ timestep: +timestep, sigma: +sigma, expert }),
  );
  window.preset = () => panel("WanCoreSampler", "plan").querySelector("select").value;
}
"""
# A preview on the last node of a type, in a subgraph made of it; gives the outer picture's address.
PREVIEW_INSIDE = """
async (type) => {
  const { node } = app.graph.convertToSubgraph(new Set([here(type)]));
  const id = `${node.id}:${node.subgraph.nodes[0].id}`;
  const blob = await new Promise((done) => document.createElement("canvas").toBlob(done));
  const place = { nodeId: id, displayNodeId: id, realNodeId: id, parentNodeId: id };
  app.api.dispatchCustomEvent("b_preview_with_metadata", { blob, ...place, jobId: "job" });
  return node.widgets.find((one) => one.name === "wancore preview").element.querySelector("img").src;
}
"""
IS_THERE = """
(address) => new Promise((done) => {
  const image = new Image();
  Object.assign(image, { onload: () => done(true), onerror: () => done(false), src: address });
})
"""
NUMBERS = ["steps", "shift", "boundary", "cfg_high", "cfg_low", "scheduler", "cfg_steps"]


@pytest.fixture
def graph(canvas: Canvas) -> Canvas:
    """The page with the workflow for text to video, wan-tiny in its loader."""
    canvas.page.evaluate(TOOLS)
    canvas.errors.clear()
    canvas.page.evaluate(OPEN, json.loads((ROOT / "example_workflows" / "text_to_video.json").read_text()))
    canvas.wait_for("() => drawn().length === 20")
    yield canvas
    assert canvas.errors == []


@pytest.mark.parametrize(
    "numbers",
    [
        {"steps": 12, "shift": 8.0, "boundary": 0.875, "scheduler": "unipc"},
        # where float32 would say 875 and with it the other expert
        {"steps": 10, "shift": 3.0, "boundary": 0.875, "scheduler": "dpm++"},
        {"steps": 7, "shift": 5.5, "boundary": 0.6, "scheduler": "euler"},
        {"steps": 4, "shift": 5.0, "boundary": 0.9, "scheduler": "flowmatch_euler"},
    ],
)
def test_the_plan_on_the_node_is_the_one_of_python(graph: Canvas, numbers: dict[str, Any]) -> None:
    graph.set_widgets(SAMPLER, **numbers)
    expected = plan("t2v", **numbers)["steps"]
    graph.wait_for(f"() => drawn().length === {len(expected)}")
    assert graph.page.evaluate("drawn()") == expected


def test_a_marker_goes_along_the_plan_until_the_run_ends(graph: Canvas) -> None:
    tell = "(step) => app.api.dispatchCustomEvent('wancore.step', {...step, node: String(here('%s').id)})"
    done = f"() => panel('{SAMPLER}', 'plan').querySelector('.marker')?.dataset.done"
    for index in (-1, 6, 19):
        step = {"index": index, "total": 20, "expert": "high_noise", "timestep": 900, "sigma": 0.9}
        graph.page.evaluate(tell % SAMPLER, step)
        assert graph.page.evaluate(done) == str(index + 1)
    graph.page.evaluate("app.api.dispatchCustomEvent('execution_success', {})")
    assert graph.page.evaluate(done) is None


def test_a_preset_fills_the_widgets_and_is_named_until_they_change(graph: Canvas) -> None:
    assert graph.page.evaluate("preset()") == "custom"
    before = values(graph)
    choose(graph, SAMPLER, "plan", "three-phase")
    assert values(graph) == preset_values("t2v", "three-phase")
    graph.wait_for("() => preset() === 'three-phase'")
    graph.page.keyboard.press("Control+z")
    graph.wait_for("() => preset() === 'custom' && drawn().length === 20")
    assert values(graph) == before
    graph.set_widgets(SAMPLER, steps=40)
    graph.wait_for("() => preset() === 'released'")


def test_a_run_without_preview_takes_the_last_ones_picture_off(graph: Canvas) -> None:
    graph.page.evaluate(PREVIEW_INSIDE, SAMPLER)
    shown = (
        "() => app.graph.nodes.some((node) => node.widgets?.some((one) => one.name === 'wancore preview'))"
    )
    assert graph.page.evaluate(shown)
    told = """
    (preview) => {
      const host = app.graph.nodes.find((node) => node.isSubgraphNode());
      const [sampler] = host.subgraph.nodes;
      sampler.widgets.find((one) => one.name === "preview").value = preview;
      const node = `${host.id}:${sampler.id}`;
      app.api.dispatchCustomEvent("wancore.step", { node, index: -1, total: 4, sigma: 1 });
    }
    """
    graph.page.evaluate(told, "animated")
    assert graph.page.evaluate(shown)
    graph.page.evaluate(told, "none")
    assert not graph.page.evaluate(shown)


def test_keys_pressed_in_a_panels_select_are_no_shortcuts(graph: Canvas) -> None:
    graph.page.evaluate("(type) => app.canvas.selectNode(here(type))", SAMPLER)
    graph.page.evaluate("(type) => panel(type, 'plan').querySelector('select').focus()", SAMPLER)
    graph.page.keyboard.press("Delete")
    graph.page.keyboard.press("d")
    graph.wait_for("() => preset() === 'distilled-4'")
    graph.page.keyboard.press("Control+z")
    graph.wait_for("() => preset() === 'custom'")


def test_a_presets_numbers_follow_the_model_and_the_users_stay(graph: Canvas) -> None:
    graph.set_widgets(SAMPLER, **dict(zip(NUMBERS, preset_values("t2v", "draft"), strict=True)))
    graph.wait_for("() => preset() === 'draft'")
    graph.set_widgets(LOADER, high_noise_model=I2V)
    graph.wait_for("() => values('WanCoreSampler', ['shift'])[0] === 5")
    assert values(graph) == preset_values("i2v", "draft")
    graph.set_widgets(SAMPLER, cfg_low=2.5)
    graph.wait_for("() => preset() === 'custom'")
    changed = values(graph)
    graph.set_widgets(LOADER, high_noise_model=TI2V)
    graph.wait_for("() => drawn().every((step) => step.expert === 'dense')")
    assert values(graph) == changed


def test_a_new_sampler_takes_its_models_numbers_and_a_loaded_graph_keeps_its_own(graph: Canvas) -> None:
    graph.page.evaluate("(type) => app.graph.add(LiteGraph.createNode(type))", LOADER)
    graph.page.evaluate("(file) => { here('WanCoreLoadModel').widgets[0].value = file; }", I2V)
    graph.page.evaluate("(type) => app.graph.add(LiteGraph.createNode(type))", SAMPLER)
    graph.page.evaluate("here('WanCoreLoadModel').connect(0, here('WanCoreSampler'), 0)")
    graph.wait_for("() => preset() === 'released' && values('WanCoreSampler', ['shift'])[0] === 5")
    assert values(graph) == preset_values("i2v", "released")
    # T2V's released numbers with the I2V model, as somebody may have saved them.
    graph.set_widgets(SAMPLER, **dict(zip(NUMBERS, preset_values("t2v", "released"), strict=True)))
    graph.wait_for("() => preset() === 'custom'")
    saved = graph.page.evaluate("app.graph.serialize()")
    graph.page.evaluate(OPEN, saved)
    graph.wait_for("() => drawn().length === 40 && preset() === 'custom'")
    assert values(graph) == preset_values("t2v", "released")
    assert graph.page.evaluate("app.graph.serialize().nodes.map((n) => n.widgets_values)") == [
        node.get("widgets_values") for node in saved["nodes"]
    ]


def test_an_api_file_keeps_its_numbers(graph: Canvas) -> None:
    prompt = json.loads((ROOT / "example_workflows" / "api" / "image_to_video.json").read_text())
    odd = dict(zip(NUMBERS, preset_values("t2v", "released"), strict=True))
    sampler = next(node for node in prompt.values() if node["class_type"] == SAMPLER)
    sampler["inputs"] |= odd
    graph.page.evaluate("(prompt) => app.loadApiJson(prompt, 'numbers')", prompt)
    graph.wait_for("() => drawn().length === 40 && preset() === 'custom'")
    assert values(graph) == list(odd.values())


def test_inside_a_subgraph_the_outer_nodes_widgets_count(graph: Canvas) -> None:
    outer = graph.page.evaluate(
        """([sampler, loader]) => {
          const { node } = app.graph.convertToSubgraph(new Set([here(sampler), here(loader)]));
          app.canvas.setGraph(node.subgraph);
          const promote = (inner, name) => {
            const input = inner.inputs.find((one) => one.widget?.name === name);
            node.subgraph.addInput(name, input.type).connect(input, inner);
          };
          promote(here(sampler), "steps");
          promote(here(loader), "high_noise_model");
          const told = { steps: 9, high_noise_model: "wan_tiny_ti2v.safetensors" };
          for (const widget of node.widgets) if (widget.name in told) widget.callback(told[widget.name]);
          return node.widgets.map((widget) => widget.name);
        }""",
        [SAMPLER, LOADER],
    )
    assert {"steps", "high_noise_model"} <= set(outer)
    graph.wait_for("() => drawn().length === 9")
    assert graph.page.evaluate("drawn()") == plan("ti2v", 9, 12.0)["steps"]
    graph.page.evaluate("app.canvas.setGraph(app.graph)")


def test_the_models_sizes_are_offered_and_a_size_is_explained(graph: Canvas) -> None:
    sizes = f"[...panel('{LATENT}', 'trained_sizes').querySelectorAll('option')].map((one) => one.value)"
    assert graph.page.evaluate(sizes) == ["96 x 96"]  # the model it goes to is wan-tiny
    graph.page.evaluate(f"here('{SAMPLER}').disconnectInput(0)")
    graph.wait_for(f"() => {sizes}.includes('832 x 480')")
    choose(graph, LATENT, "trained_sizes", "832 x 480")
    assert graph.page.evaluate(f"values('{LATENT}', ['width', 'height'])") == [832, 480]
    graph.set_widgets(LATENT, frames=81)
    words = "81 frames, 5.1 s at 16 fps, latent 16 x 21 x 60 x 104"
    graph.wait_for(f"(words) => panel('{LATENT}', 'trained_sizes').innerText.includes(words)", words)


def test_over_a_panel_the_wheel_zooms_and_the_middle_button_moves_the_canvas(graph: Canvas) -> None:
    mouse, view = graph.page.mouse, "[app.canvas.ds.scale, ...app.canvas.ds.offset]"
    graph.page.evaluate(
        """(type) => {
          const [x, y] = here(type).pos;
          Object.assign(app.canvas.ds, { scale: 1, offset: [500 - x, 100 - y] });
          app.canvas.setDirty(true, true);
        }""",
        SAMPLER,
    )
    graph.settle()
    svg = graph.page.evaluate_handle(f"panel('{SAMPLER}', 'plan').querySelector('svg')").as_element()
    box = svg.bounding_box()
    place = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse.move(*place)
    before = graph.page.evaluate(view)
    mouse.down(button="middle")
    mouse.move(place[0] + 40, place[1] + 20, steps=4)
    mouse.up(button="middle")
    graph.wait_for(f"(x) => {view}[1] >= x + 30", before[1])
    mouse.wheel(0, -120)
    graph.wait_for(f"() => {view}[0] > 1.01")


def test_a_server_that_is_away_is_said_and_asked_again_when_it_is_back(graph: Canvas) -> None:
    lines = "[...document.querySelectorAll('.wancore-panel .line')].map((line) => line.innerText)"
    silent = (
        f"(count) => {lines}.filter((line) => line.startsWith('ComfyUI does not answer')).length === count"
    )
    graph.page.route("**/wancore/**", lambda route: route.abort())
    graph.set_widgets(SAMPLER, steps=31)
    graph.set_widgets(LATENT, frames=81)
    graph.wait_for(silent, 2)
    graph.page.unroute("**/wancore/**")
    graph.page.evaluate("app.api.dispatchCustomEvent('reconnected', {})")
    graph.wait_for("() => drawn().length === 31")
    graph.wait_for(silent, 0)


def test_a_closed_workflow_lets_go_of_its_previews(graph: Canvas) -> None:
    """Inside a subgraph as well, whose nodes the front end tells nothing when their workflow is closed."""
    address = graph.page.evaluate(PREVIEW_INSIDE, SAMPLER)
    assert graph.page.evaluate(IS_THERE, address)
    graph.page.evaluate(OPEN, json.loads((ROOT / "example_workflows" / "lora.json").read_text()))
    graph.wait_for(f"(address) => ({IS_THERE})(address).then((there) => !there)", address)


def choose(graph: Canvas, node_type: str, panel: str, option: str) -> None:
    """What a user selects in a panel."""
    graph.page.evaluate(
        """([type, name, option]) => {
          const select = panel(type, name).querySelector("select");
          select.value = option;
          select.dispatchEvent(new Event("change"));
        }""",
        [node_type, panel, option],
    )


def values(graph: Canvas) -> list[Any]:
    """The Sampler's numbers."""
    return graph.page.evaluate("(names) => values('WanCoreSampler', names)", NUMBERS)


def preset_values(task: str, name: str) -> list[Any]:
    """The same as a preset has them."""
    settings = find_preset(task, name).settings
    settings["cfg_high"] = settings.pop("guidance_scale_high")
    settings["cfg_low"] = settings.pop("guidance_scale_low")
    return [settings[number] for number in NUMBERS]
