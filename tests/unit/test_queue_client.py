"""The queue client without a server: names, variants, seeds, canvases and the page.

pytest tests/unit/test_queue_client.py
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import ClassVar

import pytest

from example_workflows.api import queue_client as qc

ROOT = Path(__file__).resolve().parents[2]
API = ROOT / "example_workflows" / "api"
EXAMPLES = ("text_to_video", "image_to_video", "first_last_frame", "ti2v_text_to_video", "lora")


class Server:
    """As much of a server as a graph is changed by: what nodes it has."""

    nodes: ClassVar = {
        "WanCoreAesthetic": {
            "prompt": ["STRING", {"multiline": True}],
            "time": ["COMBO", {"options": ["none", "day", "night"]}],
            "colour": [["none", "warm colors", "cool colors"], {}],
        },
        "WanCoreSampler": {"steps": ["INT", {}], "seed": ["INT", {"control_after_generate": True}]},
        "WanCoreSaveVideo": {"contact_sheet": ["COMBO", {"options": ["none", "beside the video"]}]},
    }

    def inputs(self, class_type):
        return self.nodes.get(class_type, {})

    change = qc.Client.change
    _uploaded = qc.Client._uploaded


@pytest.fixture
def graph():
    return qc.read_graph(API / "text_to_video.json")


@pytest.mark.parametrize(
    "name", ["6.seed", "Sampler.seed", "sampler.seed", "WanCoreSampler.seed", "Sampler (WanCore).seed"]
)
def test_a_node_is_named_by_id_title_or_class(graph, name):
    assert qc.find_input(graph, name) == ("6", "seed")


def test_a_title_may_hold_dots_and_an_input_too(graph):
    graph["6"]["_meta"]["title"] = "Sampler v1.2"
    assert qc.find_input(graph, "Sampler v1.2.seed") == ("6", "seed")
    assert qc.find_input(graph, "6.schedule.boundary") == ("6", "schedule.boundary")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Sampler.seed", "2 nodes are called so, 6: Sampler (WanCore), 60: Sampler (WanCore); name one by"),
        ("Loader.seed", "no node is called so; there are 1: Load Model (WanCore), 2: Load Text Encoder"),
        ("seed", "say NODE.INPUT"),
    ],
)
def test_a_name_for_none_or_several_is_refused(graph, name, says):
    graph["60"] = copy.deepcopy(graph["6"])
    with pytest.raises(qc.QueueError, match=re.escape(says)):
        qc.find_input(graph, name)


def test_an_unknown_input_is_refused_and_the_graph_left_alone(graph):
    before = copy.deepcopy(graph)
    with pytest.raises(qc.QueueError, match=r"Sampler\.stepps: .* has the inputs steps, seed"):
        Server().change(graph, {"Sampler.stepps": 3})
    assert Server().change(graph, {"Sampler.steps": 3})["6"]["inputs"]["steps"] == 3
    assert graph == before


def test_text_stays_text_where_the_graph_has_text(graph):
    given = {"Sampler.seed": "7", "Text Encode.positive": "7", "Sampler.cfg_low": "2.5", "4.new": "[1]"}
    assert list(qc._typed(graph, given).values()) == [7, "7", 2.5, [1]]


def test_a_canvas_file_is_no_graph():
    with pytest.raises(qc.QueueError, match=r"is a canvas file: export it with File > Export \(API\)"):
        qc.read_graph(ROOT / "example_workflows" / "text_to_video.json")


# ------------------------------------------------------------------------------------------------ variants


def test_a_seed_follows_from_the_name_alone(graph):
    # echo -n dawn | sha256sum
    assert qc.seed_of("dawn") == 0x8326E09CE4E9
    assert qc.seed_of("dawn") != qc.seed_of("dusk")
    assert seed_in(variant_graph(graph, name="dawn")) == 0x8326E09CE4E9
    assert seed_in(variant_graph(graph, name="dawn", seed=5)) == 5
    assert seed_in(variant_graph(graph, name="dawn", seed=5, settings={"Sampler.seed": "6"})) == 6


@pytest.mark.parametrize("name", EXAMPLES)
def test_prompt_and_seed_are_found_in_the_examples(name):
    made = variant_graph(qc.read_graph(API / f"{name}.json"), name="a", prompt="a pink star", seed=5)
    assert qc.the_prompt(made) == ("4", "positive")
    assert made["4"]["inputs"]["positive"] == "a pink star"
    assert seed_in(made) == 5
    assert made["8"]["inputs"]["contact_sheet"] == "beside the video"


def test_prompt_and_seed_are_found_through_links(graph):
    graph |= {
        "30": {"class_type": "PrimitiveInt", "inputs": {"value": 1}},
        "31": {"class_type": "CLIPTextEncode", "inputs": {"text": ["32", 0], "clip": ["2", 0]}},
        "32": {"class_type": "PrimitiveString", "inputs": {"value": "words"}},
        "60": copy.deepcopy(graph["6"]),
    }
    for sampler in ("6", "60"):
        graph[sampler]["inputs"] |= {"seed": ["30", 0], "positive": ["31", 0]}
    made = variant_graph(graph, name="a", prompt="a pink star", seed=5)
    assert (made["32"]["inputs"]["value"], made["30"]["inputs"]["value"]) == ("a pink star", 5)
    assert made["60"]["inputs"]["seed"] == ["30", 0]


def test_a_seed_is_for_every_sampler(graph):
    graph["60"] = copy.deepcopy(graph["6"])
    made = variant_graph(graph, name="a", seed=5, settings={"60.seed": 6})
    assert (seed_in(made), made["60"]["inputs"]["seed"]) == (5, 6)
    assert seed_in(variant_graph(graph, name="a")) == qc.seed_of("a")


def test_two_prompts_must_be_named(graph):
    graph |= {"40": copy.deepcopy(graph["4"]), "60": copy.deepcopy(graph["6"])}
    graph["60"]["inputs"]["positive"] = ["40", 0]
    with pytest.raises(qc.QueueError, match=r"variant 'a': prompt: the graph has Text .*\.positive, Text"):
        variant_graph(graph, name="a", prompt="a star")


def test_a_look_goes_before_the_prompt(graph):
    made = variant_graph(graph, name="a", look=("Night", "warm colors"))
    assert made["4"]["inputs"]["positive"] == ["look", 0]
    words = graph["4"]["inputs"]["positive"]
    assert made["look"]["inputs"] == {"prompt": words, "time": "night", "colour": "warm colors"}
    # A graph with the node gets its choices, and none of the former.
    again = variant_graph(made, name="a", prompt="a pink star", look=("cool colors",))
    assert again["look"]["inputs"] == {"prompt": "a pink star", "time": "none", "colour": "cool colors"}
    for look, says in (("foggy",), "'foggy' is no term"), (("none",), "'none' is in time, colour"):
        with pytest.raises(qc.QueueError, match=says):
            variant_graph(graph, name="a", look=look)


def test_rows_of_a_table_and_of_a_list_mean_the_same(tmp_path):
    table, listed = tmp_path / "v.csv", tmp_path / "v.json"
    table.write_text('name,prompt,look,seed,Sampler.steps\ndawn,a star,"day, warm colors",5,6\nplain,,,,\n')
    row = {"name": "dawn", "prompt": "a star", "look": ["day", "warm colors"], "seed": 5}
    listed.write_text(json.dumps([{**row, "set": {"Sampler.steps": "6"}}, {"name": "plain"}]))
    assert qc.read_variants(table) == qc.read_variants(listed)
    dawn, plain = qc.read_variants(table)
    assert dawn == qc.Variant("dawn", "a star", ("day", "warm colors"), 5, {"Sampler.steps": "6"})
    assert plain == qc.Variant("plain")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no variants"),
        ([{"prompt": "a"}], "variant 1: it has no name"),
        ([{"name": "a"}, {"name": "a", "promt": "b"}], "variant 2: 'promt' is neither"),
        ([{"name": "a", "seed": "x"}], "variant 1: seed must be a whole number"),
        ([{"name": "a", "look": [1]}], "variant 1: seed must be a whole number"),
        (["a"], "variant 1"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, rows, says):
    path = tmp_path / "v.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(qc.QueueError, match=re.escape(says)):
        qc.read_variants(path)


def test_two_variants_of_one_file_name_are_refused(tmp_path):
    alike = [qc.Variant("a/b"), qc.Variant("A b")]
    with pytest.raises(qc.QueueError, match="'a/b': the name is there twice, or too like another"):
        qc.run_variants(Server(), {}, alike, tmp_path)


def test_the_example_table_fits_the_example(graph):
    variants = qc.read_variants(API / "variants.csv")
    assert len({json.dumps(qc.graph_of(Server(), graph, variant)) for variant in variants}) == len(variants)


def test_the_page_shows_what_was_asked_and_what_came_of_it():
    row = {"name": "<dawn>", "prompt": "a & b", "look": ["night"], "seed": 5, "set": {"6.steps": 4}}
    done = {"status": "finished", "file": "a b.mp4", "contact_sheet": "a b.jpg", "seconds": 2.5}
    page = qc.page_of(
        [
            {**row, **done, "files": ["a b.mp4", "a b.jpg", "more.mp4"]},
            {**row, "name": "lost", "status": "failed", "error": "no <model>"},
        ]
    )
    assert "1 of 2 variants finished" in page
    assert '<a href="a%20b.mp4"><img src="a%20b.jpg"' in page
    assert '<a href="more.mp4">' in page
    assert "&lt;dawn&gt;" in page
    assert "a &amp; b" in page
    assert "seed 5 \u00b7 night \u00b7 6.steps = 4 \u00b7 2.5 s" in page
    assert "<em>failed</em> no &lt;model&gt;" in page


# -------------------------------------------------------------------------------------------------- canvas


def test_the_canvas_gets_the_graphs_values(graph):
    canvas = json.loads((ROOT / "example_workflows" / "text_to_video.json").read_text())
    graph["6"]["inputs"] |= {"seed": 99, "steps": 5}
    filled = qc.filled_canvas(canvas, graph, Server().inputs)
    sampler = next(node for node in filled["nodes"] if node["id"] == 6)
    drawn = next(node for node in canvas["nodes"] if node["id"] == 6)
    # Between seed and steps stands what becomes of the seed after a run.
    assert sampler["widgets_values"] == [99, "fixed", 5, *drawn["widgets_values"][3:]]
    sampler["widgets_values"] = drawn["widgets_values"]
    assert filled == canvas


def test_another_graphs_canvas_is_refused(graph):
    canvas = json.loads((ROOT / "example_workflows" / "image_to_video.json").read_text())
    with pytest.raises(qc.QueueError, match="canvas: it has no Empty Video Latent"):
        qc.filled_canvas(canvas, graph, Server().inputs)
    graph["4"]["inputs"]["text_encoder"] = "typed in"
    canvas = json.loads((ROOT / "example_workflows" / "text_to_video.json").read_text())
    with pytest.raises(qc.QueueError, match="is linked in one of the two graphs only"):
        qc.filled_canvas(canvas, graph, Server().inputs)


# ------------------------------------------------------------------------------------------------- the pack


def test_the_client_is_not_shipped():
    """It opens connections, for which the registry would flag the pack."""
    ignored = (ROOT / ".comfyignore").read_text().splitlines()
    left_out = [path for path in ignored if (ROOT / path).is_file()]
    assert "example_workflows/api/queue_client.py" in left_out


def seed_in(graph):
    return graph["6"]["inputs"]["seed"]


def variant_graph(graph, **given):
    return qc.graph_of(Server(), graph, qc.Variant(**given))
