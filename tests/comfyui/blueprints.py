"""The subgraph blueprints, each made of an example workflow: one node that does what the workflow does.

python -m tests.comfyui.blueprints     writes them again, after a workflow or a node has changed
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS, BLUEPRINTS = ROOT / "example_workflows", ROOT / "subgraphs"
IN, OUT, HOST = (
    -10,
    -20,
    100,
)  # the borders of a subgraph as the front end numbers them, and the node around it
NOT_INSIDE = ("MarkdownNote", "WanCoreExpertPlan", "WanCoreExampleImage")
PROMPT = [("WanCoreTextEncode", "positive", "prompt"), ("WanCoreTextEncode", "negative", None)]
SAMPLER = [("WanCoreSampler", name, None) for name in ("seed", "steps", "shift", "cfg_high", "cfg_low")]
FILES = [
    ("WanCoreLoadModel", "high_noise_model", None),
    ("WanCoreLoadModel", "low_noise_model", None),
    ("WanCoreLoadTextEncoder", "text_encoder_name", None),
    ("WanCoreLoadVAE", "vae_name", None),
    ("WanCoreSaveVideo", "fps", None),
    ("WanCoreSaveVideo", "filename_prefix", None),
]


@dataclass(frozen=True)
class Blueprint:
    """inputs: node type, its input, and what that is called outside where the name differs."""

    name: str
    workflow: str
    category: str
    description: str
    inputs: tuple[tuple[str, str, str | None], ...]

    @property
    def path(self) -> Path:
        return BLUEPRINTS / f"{self.name}.json"


def sizes(node: str) -> list[tuple[str, str, str | None]]:
    return [(node, name, None) for name in ("width", "height", "frames")]


ALL = (
    Blueprint(
        "Wan2.2 Text to Video (WanCore)",
        "text_to_video",
        "Video generation and editing/Text to video",
        "Makes a video from a sentence with both experts of Wan2.2 T2V-A14B, or with the built-in model, and "
        "saves it.",
        (*PROMPT, *sizes("WanCoreEmptyVideoLatent"), *SAMPLER, *FILES),
    ),
    Blueprint(
        "Wan2.2 Image to Video (WanCore)",
        "image_to_video",
        "Video generation and editing/Image to video",
        "Animates a start image, an end image or both with both experts of Wan2.2 I2V-A14B, or with the "
        "built-in model, and saves the video.",
        (
            ("WanCoreImageToVideo", "start_image", None),
            ("WanCoreImageToVideo", "end_image", None),
            *PROMPT,
            ("WanCoreImageToVideo", "size", None),
            *sizes("WanCoreImageToVideo"),
            *SAMPLER,
            *FILES,
        ),
    ),
)


def made(blueprint: Blueprint) -> dict[str, Any]:
    """The blueprint as the front end saves one: a graph of a single node, and the subgraph it stands for."""
    source = json.loads((WORKFLOWS / f"{blueprint.workflow}.json").read_text())
    nodes = {node["type"]: node for node in source["nodes"] if node["type"] not in NOT_INSIDE}
    inside = {node["id"] for node in nodes.values()}
    links = [dict(zip(LINK, link, strict=True)) for link in source["links"] if {link[1], link[3]} <= inside]
    _forget(nodes.values(), links)
    widgets: list[Any] = []
    inner, outer = [], []
    for index, (node_type, name, label) in enumerate(blueprint.inputs):
        node = nodes[node_type]
        slot = [socket["name"] for socket in node["inputs"]].index(name)
        socket = node["inputs"][slot]
        socket["link"] = 1000 + index
        links.append(_link(socket["link"], (IN, index), (node["id"], slot), socket["type"]))
        named = {"name": name, "type": socket["type"]} | ({"label": label} if label else {})
        inner.append({"id": _id(blueprint, name), **named, "linkIds": [socket["link"]]})
        outer.append({**named, "link": None})
        if "widget" in socket:
            outer[-1]["widget"] = {"name": name}
            widgets.append(_value(node, name))
    video = nodes["WanCoreSaveVideo"]
    video["outputs"][0]["links"] = [2000]
    links.append(_link(2000, (video["id"], 0), (OUT, 0), "VIDEO"))
    subgraph = {
        "id": _id(blueprint, "subgraph"),
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": HOST, "lastLinkId": 2000, "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "category": blueprint.category,
        "description": blueprint.description,
        "inputNode": {"id": IN, "bounding": [-200, 120, 160, 60 + 20 * len(inner)]},
        "outputNode": {"id": OUT, "bounding": [1880, 120, 120, 60]},
        "inputs": inner,
        "outputs": [{"id": _id(blueprint, "video"), "name": "video", "type": "VIDEO", "linkIds": [2000]}],
        "widgets": [],
        "nodes": list(nodes.values()),
        "groups": [],
        "links": links,
        "extra": {},
    }
    host = {
        "id": HOST,
        "type": subgraph["id"],
        "pos": [100, 100],
        "size": [440, 620],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": outer,
        "outputs": [{"name": "video", "type": "VIDEO", "links": None}],
        "title": blueprint.name,
        "properties": {"cnr_id": "wancore", "ver": "0.1.0", "previewExposures": []},
        "widgets_values": widgets,
    }
    return {
        "id": _id(blueprint, "workflow"),
        "revision": 0,
        "last_node_id": HOST,
        "last_link_id": 0,
        "nodes": [host],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [subgraph]},
        "config": {},
        "extra": {"BlueprintDescription": blueprint.description, "BlueprintSearchAliases": ["wan", "wan2.2"]},
        "version": 0.4,
    }


LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


def _link(number: int, origin: tuple[int, int], target: tuple[int, int], kind: str) -> dict[str, Any]:
    return dict(zip(LINK, (number, *origin, *target, kind), strict=True))


def _forget(nodes: Any, links: list[dict[str, Any]]) -> None:
    """Take out of the nodes the links to what is not inside."""
    kept = {link["id"] for link in links}
    for node in nodes:
        for socket in node["inputs"]:
            socket["link"] = socket["link"] if socket["link"] in kept else None
        for socket in node["outputs"]:
            socket["links"] = [link for link in socket["links"] or [] if link in kept] or None


def _value(node: dict[str, Any], name: str) -> Any:
    """What a widget is set to; a seed has a second value, what happens to it after a run."""
    values = iter(node["widgets_values"])
    for socket in node["inputs"]:
        if "widget" in socket:
            value = next(values)
            if socket["name"] == name:
                return value
            if socket["name"] == "seed":
                next(values)
    raise AssertionError(f"{node['type']} has no widget {name}")


def _id(blueprint: Blueprint, what: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"wancore {blueprint.name} {what}"))


if __name__ == "__main__":
    for one in ALL:
        one.path.write_text(json.dumps(made(one), indent=2) + "\n")
