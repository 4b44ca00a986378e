"""The queue client without a server: names, variants, seeds, canvases and the page.

pytest tests/unit/test_queue_client.py
"""

from __future__ import annotations

import copy
import http.server
import json
import re
import threading
from pathlib import Path
from typing import ClassVar

import pytest
import queue_client as qc
import queue_variants as qv

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
    _value = qc.Client._value


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


def test_a_full_title_goes_before_a_short_one(graph):
    graph["80"] = {"class_type": "SaveVideo", "inputs": {"fps": 8}, "_meta": {"title": "Save Video"}}
    assert qc.find_input(graph, "Save Video (WanCore).fps") == ("8", "fps")
    assert qc.find_input(graph, "save video.fps") == ("80", "fps")


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
    del graph["6"]["inputs"]["steps"]
    given = {"6.seed": "7", "4.positive": "7", "6.cfg_low": "2.5", "6.steps": "[1]", "6.shift": "auto"}
    made = Server().change(graph, given)
    assert [made[name[0]]["inputs"][name[2:]] for name in given] == [7, "7", 2.5, [1], "auto"]


def test_a_canvas_file_is_no_graph():
    with pytest.raises(qc.QueueError, match=r"is no graph in API format: export it with File"):
        qc.read_graph(ROOT / "example_workflows" / "text_to_video.json")


def test_a_lost_connection_is_no_end_of_a_file(tmp_path):
    class Cut(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"four")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Cut) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = qc.Client(f"127.0.0.1:{server.server_port}")
        with pytest.raises(qc.UnreachableError, match="the connection was lost 6 bytes before its end"):
            client.download(qc.File("8", "a.mp4", "", "output"), tmp_path / "a.part")
        server.shutdown()
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ variants


def test_a_seed_follows_from_the_name_alone(graph):
    # echo -n dawn | sha256sum
    assert qv.seed_of("dawn") == 0x8326E09CE4E9
    assert qv.seed_of("dawn") != qv.seed_of("dusk")
    assert seed_in(variant_graph(graph, name="dawn")) == 0x8326E09CE4E9
    assert seed_in(variant_graph(graph, name="dawn", seed=5)) == 5
    assert seed_in(variant_graph(graph, name="dawn", seed=5, settings={"Sampler.seed": "6"})) == 6


@pytest.mark.parametrize("name", EXAMPLES)
def test_prompt_and_seed_are_found_in_the_examples(name):
    made = variant_graph(qc.read_graph(API / f"{name}.json"), name="a", prompt="a pink star", seed=5)
    assert qv.the_prompt(made) == ("4", "positive")
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
    assert seed_in(variant_graph(graph, name="a")) == qv.seed_of("a")


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
    assert qv.read_variants(table) == qv.read_variants(listed)
    dawn, plain = qv.read_variants(table)
    assert dawn == qv.Variant("dawn", "a star", ("day", "warm colors"), 5, {"Sampler.steps": "6"})
    assert plain == qv.Variant("plain")


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
        qv.read_variants(path)


def test_two_variants_of_one_file_name_are_refused(tmp_path):
    alike = [qv.Variant("a/b"), qv.Variant("A b")]
    with pytest.raises(qc.QueueError, match="'a/b': the name is there twice, or too like another"):
        qv.run_variants(Server(), {}, alike, tmp_path)


def test_the_example_table_fits_the_example(graph):
    variants = qv.read_variants(API / "variants.csv")
    assert len({json.dumps(qv.graph_of(Server(), graph, variant)) for variant in variants}) == len(variants)


def test_the_page_shows_what_was_asked_and_what_came_of_it():
    row = {"name": "<dawn>", "prompt": "a & b", "look": ["night"], "seed": 5, "set": {"6.steps": 4}}
    done = {"status": "finished", "file": "a b.mp4", "contact_sheet": "a b.jpg", "seconds": 2.5}
    page = qv.page_of(
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


def test_a_canvas_of_older_nodes_is_filled_as_far_as_it_goes():
    """A seed has its control also where its node does not say so, and a later widget goes behind no gap."""
    sockets = [{"name": name, "widget": {}} for name in ("noise_seed", "steps", "skipped", "later")]
    canvas = {"nodes": [{"id": 1, "type": "Old", "inputs": sockets, "widgets_values": [1, "fixed", 2]}]}
    graph = {"1": {"class_type": "Old", "inputs": {"noise_seed": 7, "steps": 8, "later": 9}}}
    filled = qc.filled_canvas(canvas, graph, lambda _: {"noise_seed": ["INT", {}]})
    assert filled["nodes"][0]["widgets_values"] == [7, "fixed", 8]


def test_another_graphs_canvas_is_refused(graph):
    canvas = json.loads((ROOT / "example_workflows" / "image_to_video.json").read_text())
    with pytest.raises(qc.QueueError, match="canvas: it has no Empty Video Latent"):
        qc.filled_canvas(canvas, graph, Server().inputs)
    graph["4"]["inputs"]["text_encoder"] = "typed in"
    canvas = json.loads((ROOT / "example_workflows" / "text_to_video.json").read_text())
    with pytest.raises(qc.QueueError, match="is linked in one of the two graphs only"):
        qc.filled_canvas(canvas, graph, Server().inputs)


# ------------------------------------------------------------------------------------------------- the pack


def test_the_clients_are_not_shipped():
    """They open connections, for which the registry would flag the pack."""
    ignored = (ROOT / ".comfyignore").read_text().splitlines()
    left_out = [path for path in ignored if (ROOT / path).is_file()]
    assert {f"example_workflows/api/queue_{name}.py" for name in ("client", "variants")} <= set(left_out)


def seed_in(graph):
    return graph["6"]["inputs"]["seed"]


def variant_graph(graph, **given):
    return qv.graph_of(Server(), graph, qv.Variant(**given))
