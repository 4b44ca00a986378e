/**
 * The Sampler's moving preview where ComfyUI itself shows a still or nothing: on the classic canvas, and on
 * the node of a subgraph with a Sampler inside. There it also says what the nodes inside say on themselves.
 */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { addStyle, findNode, growToFit, isExposed, leaveToCanvas, valueOf, whenGone } from "./shared/graph.mjs";

const SAMPLER = "WanCoreSampler";
const OURS = "WanCore";
const NONE = "none"; // of the Sampler's `preview`
const WIDGET = "wancore preview";
const CORE_WIDGET = "$$canvas-image-preview";
const LEAST = 120; // pixels high
const MOST = 280;
const LINES = 34; // what two lines of text take
const MARGIN = 20; // what a node keeps free left and right of an element, together, and above and below it
const WAITING = "0.35"; // how much is seen of the last run's picture before the first of this one
const STYLE = `
  .wancore-preview { display: flex; flex-direction: column; overflow: hidden; }
  .wancore-preview img { flex: 1; min-height: 0; width: 100%; object-fit: contain; border-radius: 6px;
    pointer-events: none; }
  .wancore-preview div { flex: none; height: ${LINES}px; padding-top: 4px; box-sizing: border-box;
    overflow: hidden; color: var(--input-text, #d7dae0); font: 11px/15px Inter, Arial, sans-serif;
    text-align: center; }
  .wancore-preview [hidden] { display: none; }
`;

const places = new WeakMap(); // node -> its Place

addStyle(STYLE);

/** An empty place on a node, below its widgets, for a picture and a line. Nothing of it is saved or sent. */
class Place {
  constructor(node) {
    this.node = node;
    this.element = document.createElement("div");
    this.element.className = "wancore-preview";
    this.element.innerHTML = '<img alt="" hidden><div hidden></div>';
    [this.image, this.line] = this.element.children;
    this.image.addEventListener("load", () => this.grow());
    const options = { serialize: false, getMinHeight: () => this.height() };
    this.widget = node.addDOMWidget(WIDGET, "wancore", this.element, options);
    this.widget.serialize = false; // not in the saved graph
    leaveToCanvas(this.element);
    whenGone(node, release);
  }

  height() {
    const line = this.line.hidden ? 0 : LINES;
    if (this.image.hidden) return line + MARGIN;
    const ratio = this.image.naturalWidth ? this.image.naturalHeight / this.image.naturalWidth : 9 / 16;
    const picture = Math.min(MOST, Math.max(LEAST, (this.node.size[0] - MARGIN) * ratio));
    return Math.round(picture + line + MARGIN);
  }

  /** Shows a picture in place of the one before. */
  show(blob) {
    this.release();
    this.image.hidden = false;
    this.image.style.opacity = "1";
    // The classic canvas gives it a place of its height; Nodes 2.0 as much as it takes.
    this.image.style.maxHeight = LiteGraph.vueNodesMode ? `${MOST}px` : "";
    this.image.src = URL.createObjectURL(blob);
  }

  /** Gives the picture's memory back. */
  release() {
    if (this.image.src) URL.revokeObjectURL(this.image.src);
  }

  say(text) {
    this.line.hidden = false;
    this.line.textContent = text;
    this.grow();
  }

  /** Makes the node as high as what is on it; one that the user made higher stays so. */
  grow() {
    growToFit(this.node);
    app.canvas?.setDirty(true, true);
  }
}

function placeOn(node) {
  if (!places.has(node)) places.set(node, new Place(node));
  return places.get(node);
}

function release(node) {
  places.get(node)?.release();
}

/**
 * Takes the preview off a node, until there is a next one.
 * @param {object} node
 */
export function remove(node) {
  const place = places.get(node);
  if (!place) return;
  places.delete(node);
  place.release();
  node.removeWidget(place.widget);
}

/** Takes the still that ComfyUI draws of the same picture off a node of the classic canvas. */
function withoutStill(node) {
  const key = node.graph.isRootGraph ? String(node.id) : `${node.graph.id}:${node.id}`;
  node.preview = app.nodePreviewImages?.[key]; // as if it were drawn already
  node.imgs = undefined;
  const still = node.widgets?.find((one) => one.name === CORE_WIDGET);
  if (still) node.removeWidget(still);
}

/** The nodes from the outermost subgraph's down to one inside, for "8:5" the nodes "8" and "8:5". */
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
      placeOn(node).show(detail.blob);
      queueMicrotask(() => withoutStill(node)); // once ComfyUI has heard of it, too
    } else if (inside === undefined) {
      remove(node); // ComfyUI shows it
    } else if (isExposed(node, inside)) {
      if (places.has(node)) places.get(node).image.hidden = true;
    } else {
      placeOn(node).show(detail.blob);
    }
  }
}

function onText({ detail }) {
  const way = onTheWay(detail.nodeId);
  if (!way.at(-1).node?.type?.startsWith(OURS)) return;
  for (const { node } of way.slice(0, -1)) placeOn(node).say(detail.text.split("\n")[0]);
}

/** A new run dims the last one's picture, and takes it off where no other will come. */
function onStep({ detail }) {
  if (detail.index >= 0) return;
  const way = onTheWay(detail.node);
  const sampler = way.at(-1).node;
  const comes = sampler && valueOf(sampler, "preview") !== NONE;
  for (const { node } of way) {
    if (!comes) remove(node);
    else if (places.has(node)) places.get(node).image.style.opacity = WAITING;
  }
}

app.registerExtension({
  name: "WanCore.Preview",
  setup() {
    api.addEventListener("b_preview_with_metadata", onPreview);
    api.addEventListener("progress_text", onText);
    api.addEventListener("wancore.step", onStep);
  },
});
