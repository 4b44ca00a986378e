/**
 * A graph from another machine names its files with other folders or the other slash. While it is loaded the
 * loaders get this machine's names, so that ComfyUI reports none of them missing. Python does the same when a
 * graph is queued (`wan_core/checkpoints/local_names.py`).
 */

import { app } from "../../../scripts/app.js";

const LOADERS = /^WanCoreLoad/;

/**
 * The listed file that a name means: itself, with either slash, else the only one of its base name.
 * @param {string} name
 * @param {string[]} files relative names, with / or \ between folders
 * @returns {string | null} null where none or several are called so
 */
export function localName(name, files) {
  if (files.includes(name)) return name;
  const wanted = parts(name);
  const calledSo = files.filter((file) => parts(file).at(-1) === wanted.at(-1));
  const same = calledSo.filter((file) => parts(file).join("/") === wanted.join("/"));
  const found = same.length ? same : calledSo;
  return found.length === 1 ? found[0] : null;
}

app.registerExtension({
  name: "wancore.fileNames",
  loadedGraphNode(node) {
    for (const widget of node.widgets ?? []) {
      if (widget.type === "combo" && LOADERS.test(owner(node, widget)?.type)) settle(node, widget);
    }
  },
});

function parts(name) {
  return name.split(/[\\/]/);
}

/** The node that a widget belongs to: of one shown on a subgraph's node, the node inside. */
function owner(node, widget) {
  if (!node.isSubgraphNode?.()) return node;
  const input = node.inputs.find((one) => one.widget?.name === widget.name);
  const link = node.subgraph.getLink(node.subgraph.inputNode.slots[node.inputs.indexOf(input)]?.linkIds[0]);
  const inner = link && node.subgraph.getNodeById(link.target_id);
  const slot = inner?.inputs[link.target_slot];
  return slot?.widget ? owner(inner, { name: slot.widget.name }) : null;
}

function settle(node, widget) {
  const files = typeof widget.options.values === "function" ? widget.options.values() : widget.options.values;
  const name = widget.value;
  if (typeof name !== "string" || !Array.isArray(files)) return;
  const local = localName(name, files);
  if (local === null || local === name) return;
  widget.value = local;
  console.info(`WanCore: ${node.title}, ${widget.name}: took ${local} for ${name}`);
}
