"""The subgraph blueprints say what the example workflows say, and ComfyUI offers them.

pytest tests/comfyui/test_blueprints.py
"""

from __future__ import annotations

import json

import pytest

from .blueprints import ALL, BLUEPRINTS, Blueprint, made
from .comfy_server import ComfyServer

IDS = [one.workflow for one in ALL]


def test_the_folder_holds_them_and_nothing_else() -> None:
    """ComfyUI takes every .json there for a blueprint."""
    assert sorted(BLUEPRINTS.iterdir()) == sorted(one.path for one in ALL)


@pytest.mark.parametrize("blueprint", ALL, ids=IDS)
def test_it_is_made_of_its_workflow(blueprint: Blueprint) -> None:
    written = json.loads(blueprint.path.read_text())
    assert written == made(blueprint), "python -m tests.comfyui.blueprints writes them again"


@pytest.mark.parametrize("blueprint", ALL, ids=IDS)
def test_every_widget_outside_has_the_value_of_the_one_inside(blueprint: Blueprint) -> None:
    graph = made(blueprint)
    (host,) = graph["nodes"]
    shown = [socket["name"] for socket in host["inputs"] if "widget" in socket]
    assert len(shown) == len(host["widgets_values"]) == len(set(shown))
    values = dict(zip(shown, host["widgets_values"], strict=True))
    assert values["positive"].startswith("a red circle")
    assert values["steps"] == 20
    assert values["filename_prefix"].startswith("video/")
    (subgraph,) = graph["definitions"]["subgraphs"]
    ids = {node["id"] for node in subgraph["nodes"]}
    ends = {end for link in subgraph["links"] for end in (link["origin_id"], link["target_id"])}
    assert ends == ids | {subgraph["inputNode"]["id"], subgraph["outputNode"]["id"]}


@pytest.mark.comfy
@pytest.mark.parametrize("blueprint", ALL, ids=IDS)
def test_comfyui_offers_it(server: ComfyServer, blueprint: Blueprint) -> None:
    offered = {entry["name"]: number for number, entry in server.get("/global_subgraphs").items()}
    served = server.get(f"/global_subgraphs/{offered[blueprint.name]}")["data"]
    assert json.loads(served) == made(blueprint)
