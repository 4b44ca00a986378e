/**
 * The Sampler's moving preview where ComfyUI itself shows a still or none: on the classic canvas, and on the
 * node of a subgraph that has a Sampler inside. Everywhere else Nodes 2.0 plays it by itself.
 */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { findNode, isExposed } from "./shared/graph.mjs";

const SAMPLER = "WanCoreSampler";
const WIDGET = "wancore preview";
const CORE_WIDGET = "$$canvas-image-preview";
const LEAST = 120; // pixels high
const MOST = 280;
const MARGIN = 20; // what a node keeps free left and right of an element, together
const WAITING = "0.35"; // how much is seen of the last run's picture before the first of this one

const places = new WeakMap(); // node -> its image and the widget that holds it

/** Shows a picture on a node in place of the one before. */
function show(node, blob) {
  if (!places.has(node)) places.set(node, placed(node));
  const { image } = places.get(node);
  const old = image.src;
  image.src = URL.createObjectURL(blob);
  image.style.opacity = "1";
  if (old) URL.revokeObjectURL(old);
}

/** An empty place for pictures on a node, below its widgets. Nothing of it is saved or sent. */
function placed(node) {
  const image = document.createElement("img");
  image.alt = "";
  image.draggable = false;
  Object.assign(image.style, {
    width: "100%",
    height: "100%",
    objectFit: "contain",
    borderRadius: "6px",
    pointerEvents: "none", // the node is dragged by it
  });
  const height = () => {
    const ratio = image.naturalWidth ? image.naturalHeight / image.naturalWidth : 9 / 16;
    return Math.round(Math.min(MOST, Math.max(LEAST, (node.size[0] - MARGIN) * ratio)));
  };
  const made = node.addDOMWidget(WIDGET, "wancore", image, { serialize: false, getMinHeight: height });
  made.serialize = false; // not in the saved graph
  image.addEventListener("load", () => grow(node));
  return { image, made };
}

/** Makes a node as high as what is on it; one that the user made higher stays so. */
function grow(node) {
  const [, needed] = node.computeSize();
  if (node.size[1] < needed) node.setSize([node.size[0], needed]);
  app.canvas?.setDirty(true, true);
}

/**
 * Takes the preview off a node, until there is a next one.
 * @param {object} node
 */
export function remove(node) {
  if (!places.has(node)) return;
  const { image, made } = places.get(node);
  URL.revokeObjectURL(image.src);
  places.delete(node);
  node.removeWidget(made);
}

/** Takes the still that ComfyUI draws of the same picture off a node of the classic canvas. */
function withoutStill(node) {
  const place = node.graph.isRootGraph ? String(node.id) : `${node.graph.id}:${node.id}`;
  node.preview = app.nodePreviewImages?.[place]; // as if it were drawn already
  node.imgs = undefined;
  const still = node.widgets?.find((one) => one.name === CORE_WIDGET);
  if (still) node.removeWidget(still);
}

/** The nodes from the outermost subgraph's down to the Sampler, for "8:5" the nodes "8" and "8:5". */
function onTheWay(id) {
  const parts = String(id).split(":");
  return parts.map((_, last) => ({
    node: findNode(parts.slice(0, last + 1).join(":")),
    inside: parts[last + 1],
  }));
}

function onPreview({ detail }) {
  const way = onTheWay(detail.displayNodeId);
  if (way.at(-1).node?.type !== SAMPLER) return;
  for (const { node, inside } of way) {
    if (!LiteGraph.vueNodesMode) {
      show(node, detail.blob);
      queueMicrotask(() => withoutStill(node)); // once ComfyUI has heard of it, too
    } else if (inside === undefined || isExposed(node, inside)) {
      remove(node);
    } else {
      show(node, detail.blob);
    }
  }
}

function onStep({ detail }) {
  if (detail.index >= 0) return;
  for (const { node } of onTheWay(detail.node)) {
    if (places.has(node)) places.get(node).image.style.opacity = WAITING;
  }
}

app.registerExtension({
  name: "WanCore.Preview",
  setup() {
    api.addEventListener("b_preview_with_metadata", onPreview);
    api.addEventListener("wancore.step", onStep);
  },
});
