/**
 * What this pack's widgets share: nodes by id, values, links, elements on nodes, questions to the server.
 *
 * ComfyUI loads every `.js` by itself and no `.mjs`, so this file is here to be imported only.
 */

import { api } from "../../../../scripts/api.js";
import { app } from "../../../../scripts/app.js";

const MUTED = 2;
const BYPASSED = 4;
const WATCH_MS = 100;
const MARGIN = 8; // around an element on the classic canvas, in pixels
const SILENT = "ComfyUI does not answer; this is asked again once it does";

/**
 * The node an execution id stands for, through subgraphs.
 * @param {string | number} id "5", or "8:5" for node 5 inside the subgraph node 8
 * @returns {object | null}
 */
export function findNode(id) {
  let graph = app.rootGraph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part) ?? null;
    graph = node?.subgraph;
  }
  return node;
}

/**
 * A node's own widget, or null.
 * @param {object} node
 * @param {string} name
 */
export function widget(node, name) {
  return node.widgets?.find((one) => one.name === name) ?? null;
}

/**
 * What a widget is set to, where it may also be told by a subgraph's node or by a primitive node.
 * @param {object} node
 * @param {string} name
 * @returns {*} undefined where another node works the value out during the run
 */
export function valueOf(node, name) {
  return holder(node, name)?.value;
}

/**
 * Sets a widget, where the value is kept, as if the user had, and draws it anew.
 * @param {object} node
 * @param {string} name
 * @param {*} value
 */
export function setWidget(node, name, value) {
  const held = holder(node, name);
  if (!held || held.value === value) return;
  held.value = value;
  held.callback?.(value, app.canvas, node);
  app.canvas?.setDirty(true, true);
}

/**
 * Sets several widgets, as one step to undo; those that the node does not have are passed over.
 * @param {object} node
 * @param {Object<string, *>} values by widget
 * @returns {boolean} whether any was set to something else before
 */
export function fillWidgets(node, values) {
  const other = Object.entries(values).filter(
    ([name, value]) => widget(node, name) && valueOf(node, name) !== value,
  );
  for (const [name, value] of other) setWidget(node, name, value);
  forget(node); // even if set back at once
  app.extensionManager.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.();
  return other.length > 0;
}

/**
 * The node that feeds an input, through reroutes, bypassed nodes and the borders of subgraphs.
 * @param {object} node
 * @param {string} input the input's name
 * @returns {object | null} null where nothing does
 */
export function sourceOf(node, input) {
  return origin(node, slotOf(node, input), new Set());
}

/**
 * The nodes that an output feeds, the other way along the same ways.
 * @param {object} node
 * @param {string} output the output's name
 * @returns {object[]}
 */
export function targetsOf(node, output) {
  const slot = node.outputs?.findIndex((one) => one.name === output) ?? -1;
  return slot < 0 ? [] : fed(node, slot, new Set());
}

/**
 * Whether ComfyUI shows on a subgraph's node what a node inside it shows.
 * @param {object} node the subgraph's
 * @param {string} inside the other's id in the subgraph
 */
export function isExposed(node, inside) {
  const exposed = node.serialize().properties?.previewExposures ?? [];
  return exposed.some((one) => String(one.sourceNodeId) === inside);
}

/**
 * Puts an element on a node, below its widgets. Nothing of it is saved or sent.
 * @param {object} node
 * @param {string} name
 * @param {HTMLElement} element
 * @param {{height: number, width?: number, grows?: boolean}} options the height in pixels, the least if it
 * grows with the node; how wide a new node is at least
 * @returns {object} the widget
 */
export function addElement(node, name, element, { height, width = 0, grows = false }) {
  element.style.boxSizing = "border-box";
  element.style.minHeight = `${height}px`;
  element.dataset.wancore = name;
  const made = node.addDOMWidget(name, "wancore", element, {
    serialize: false, // not in what is queued
    margin: MARGIN,
    getMinHeight: () => height + 2 * MARGIN,
    getMaxHeight: () => (grows ? undefined : height + 2 * MARGIN),
  });
  made.serialize = false; // not in the saved graph
  // A saved graph gives its own size later; the classic canvas would let a new node's element hang out of it.
  growToFit(node, width);
  watch(node, () => element.isConnected, (connected) => connected || takePlace(node, name, element));
  leaveToCanvas(element);
  return made;
}

/**
 * Makes a node as high as what is on it; one that the user made larger stays so.
 * @param {object} node
 * @param {number} [width] how wide it is at least
 */
export function growToFit(node, width = 0) {
  const [wide, high] = node.size;
  const needed = node.computeSize()[1];
  if (wide < width || high < needed) node.setSize([Math.max(wide, width), Math.max(high, needed)]);
}

/**
 * Calls `action` with what each run of a node shows, after whatever else hears of it.
 * @param {object} node
 * @param {(output: object | undefined) => void} action
 */
export function afterRun(node, action) {
  const before = node.onExecuted;
  node.onExecuted = (output) => {
    before?.call(node, output);
    action(output);
  };
}

/**
 * Adds rules for this pack's elements to the page.
 * @param {string} rules CSS
 */
export function addStyle(rules) {
  const style = document.createElement("style");
  style.textContent = rules;
  document.head.append(style);
}

/**
 * For answers that may overtake each other.
 * @returns {() => () => boolean} to call at each question; what it gives says if that is still the last one
 */
export function lastOnly() {
  let last = 0;
  return () => {
    last += 1;
    const mine = last;
    return () => mine === last;
  };
}

/**
 * Asks the pack's server side a question.
 * @param {string} path what follows `/wancore/`
 * @param {Object<string, string | number>} query
 * @returns {Promise<object>} the answer; rejects with an Error that says in one line what is wrong
 */
export async function ask(path, query = {}) {
  const answer = await api.fetchApi(`/wancore/${path}?${new URLSearchParams(query)}`).catch(() => null);
  if (!answer) throw new Error(SILENT);
  const told = await answer.json().catch(() => null);
  if (answer.ok && told !== null) return told;
  throw new Error(told?.error ?? `ComfyUI answered /wancore/${path} with ${answer.status}; restart it`);
}

const watchers = new WeakMap(); // node -> what is watched on it
const partings = new WeakMap(); // node -> what is done once it is gone
const watched = new Set(); // weak references to those nodes
const open = new Set(); // those of them that are in the open workflow

/**
 * Calls `changed` with what `read` gives, at once and each time it gives something else, for as long as the
 * node is in the open workflow: by whatever way the change came about, a click, a link, undo, another pack.
 * @param {object} node
 * @param {() => *} read cheap; what it gives must fit JSON
 * @param {(value: *) => void} changed
 */
export function watch(node, read, changed) {
  begin(node);
  watchers.get(node).push({ read, changed, last: undefined });
}

/**
 * Calls `action` with a node once it is gone: deleted, undone, or its workflow closed, and so inside a
 * subgraph, whose nodes ComfyUI tells nothing then. The same action is kept once.
 * @param {object} node
 * @param {(node: object) => void} action
 */
export function whenGone(node, action) {
  begin(node);
  partings.get(node).add(action);
}

function begin(node) {
  if (watchers.has(node)) return;
  watchers.set(node, []);
  partings.set(node, new Set());
  watched.add(new WeakRef(node));
}

setInterval(() => {
  for (const reference of watched) {
    const node = reference.deref();
    if (!node) watched.delete(reference);
    else if (isOpen(node)) {
      open.add(node);
      watchers.get(node).forEach(look);
    } else if (open.delete(node)) {
      forget(node);
      for (const action of partings.get(node)) action(node);
    }
  }
}, WATCH_MS);

// What was asked while the server was away is asked again.
api.addEventListener("reconnected", () => open.forEach(forget));

/** Whether a node is in the open workflow; those of a closed one may still have their graph. */
function isOpen(node) {
  const { graph } = node;
  const isCurrent = graph && (graph === app.rootGraph || app.rootGraph.subgraphs.get(graph.id) === graph);
  return Boolean(isCurrent) && graph.getNodeById(node.id) === node;
}

/** Has all that is watched on a node told anew. */
function forget(node) {
  for (const watcher of watchers.get(node) ?? []) watcher.last = undefined;
}

function look(watcher) {
  const value = watcher.read();
  const text = JSON.stringify(value);
  if (text === watcher.last) return;
  watcher.last = text;
  watcher.changed(value);
}

/**
 * Over an element, too, the wheel zooms and the middle button moves the classic canvas, as in Nodes 2.0.
 * @param {HTMLElement} element
 */
export function leaveToCanvas(element) {
  const classic = () => !LiteGraph.vueNodesMode;
  element.addEventListener("wheel", (event) => classic() && app.canvas.processMouseWheel(event));
  for (const kind of ["Down", "Move", "Up"]) {
    element.addEventListener(`pointer${kind.toLowerCase()}`, (event) => {
      const middle = event.button === 1 || event.buttons & 4;
      if (middle && classic()) app.canvas[`processMouse${kind}`](event);
    });
  }
}

/**
 * Nodes 2.0 keeps a node's element on the page when undo or a reload makes the node anew: the old one goes.
 * Nothing to do where the node is not on the page at all.
 */
function takePlace(node, name, element) {
  if (node.graph !== app.canvas?.graph) return;
  document.querySelector(`[data-node-id="${node.id}"] [data-wancore="${name}"]`)?.replaceWith(element);
}

function slotOf(node, input) {
  return node.inputs?.findIndex((one) => one.name === input) ?? -1;
}

/** The widget that has the value: the node's own, or what an input in its place comes from. */
function holder(node, name) {
  const slot = node.inputs?.findIndex((one) => one.widget?.name === name) ?? -1;
  const link = linkInto(node, slot);
  if (!link) return widget(node, name);
  if (link.originIsIoNode) return atBorder(node.graph, link.origin_slot, widgetOfInput);
  const source = node.graph.getNodeById(link.origin_id);
  return source?.type?.startsWith("Primitive") ? (source.widgets?.[0] ?? null) : null;
}

function widgetOfInput(outer, slot) {
  const input = outer.inputs[slot];
  return input?.widget ? holder(outer, input.widget.name) : null;
}

function linkInto(node, slot) {
  return node.graph?.getLink(node.inputs?.[slot]?.link) ?? null;
}

/** The node at the other end of the link into an input. */
function origin(node, slot, seen) {
  const link = linkInto(node, slot);
  if (!link) return null;
  if (link.originIsIoNode) {
    return atBorder(node.graph, link.origin_slot, (outer, outside) => origin(outer, outside, seen));
  }
  return producer(node.graph.getNodeById(link.origin_id), link.origin_slot, seen);
}

/** The node that makes what leaves an output, looked for behind those that only pass it on. */
function producer(node, slot, seen) {
  if (!node || node.mode === MUTED || seen.has(node)) return null;
  seen.add(node);
  if (node.mode === BYPASSED) return origin(node, sameType(node.inputs, node.outputs[slot]), seen);
  if (node.isSubgraphNode?.()) {
    const inner = innerLink(node.subgraph.outputNode.slots[slot]?.linkIds, node.subgraph);
    return inner && producer(node.subgraph.getNodeById(inner.origin_id), inner.origin_slot, seen);
  }
  return node.isVirtualNode ? origin(node, 0, seen) : node;
}

function innerLink(ids, graph) {
  return ids?.length ? graph.getLink(ids[0]) : null;
}

function fed(node, slot, seen) {
  if (seen.has(node)) return [];
  seen.add(node);
  const links = (node.outputs[slot]?.links ?? []).map((id) => node.graph?.getLink(id));
  return links.filter(Boolean).flatMap((link) => consumers(node.graph, link, seen));
}

/** The nodes that take what goes along a link. */
function consumers(graph, link, seen) {
  if (link.targetIsIoNode) {
    return atBorder(graph, link.target_slot, (outer, slot) => fed(outer, slot, seen)) ?? [];
  }
  const node = graph.getNodeById(link.target_id);
  if (!node || node.mode === MUTED) return [];
  if (node.isSubgraphNode?.()) {
    const inside = (node.subgraph.inputNode.slots[link.target_slot]?.linkIds ?? []).map((id) =>
      node.subgraph.getLink(id),
    );
    return inside.filter(Boolean).flatMap((inner) => consumers(node.subgraph, inner, seen));
  }
  if (node.mode === BYPASSED) return fed(node, sameType(node.outputs, node.inputs[link.target_slot]), seen);
  return node.isVirtualNode ? fed(node, 0, seen) : [node];
}

function sameType(slots, slot) {
  return slots?.findIndex((one) => one.type === slot?.type) ?? -1;
}

/** What `answerOf` says of the first node that holds this subgraph and gives an answer. */
function atBorder(subgraph, slot, answerOf) {
  for (const graph of [app.rootGraph, ...app.rootGraph.subgraphs.values()]) {
    for (const node of graph.nodes) {
      if (node.subgraph !== subgraph) continue;
      const answer = answerOf(node, slot);
      if (answer) return answer;
    }
  }
  return null;
}
