/**
 * The video that a Save Video inside a subgraph wrote, on the node of the subgraph: ComfyUI's own player is
 * on the node inside, and on the outer one only in Nodes 2.0 and where the user asked for it.
 */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { remove as removePreview } from "./preview.js";
import { addElement, findNode, growToFit, isExposed, whenGone } from "./shared/graph.mjs";
import { empty } from "./shared/playback.mjs";

const SAVE_VIDEO = "WanCoreSaveVideo";
const WIDGET = "wancore video";
const HEIGHT = 260; // pixels

const players = new WeakMap(); // subgraph's node -> its <video>

app.registerExtension({
  name: "WanCore.SubgraphVideo",
  nodeCreated(node) {
    // Until a node has been drawn ComfyUI takes what it shows for pictures.
    if (node.comfyClass === SAVE_VIDEO) node.previewMediaType = "video";
  },
  setup() {
    api.addEventListener("executed", ({ detail }) => {
      const [video] = detail.output?.images ?? [];
      const id = String(detail.display_node ?? detail.node);
      if (video && id.includes(":") && findNode(id)?.comfyClass === SAVE_VIDEO) show(id.split(":"), video);
    });
  },
});

/** Plays a file on the nodes around the one that wrote it, `parts` being the way to that one. */
function show(parts, file) {
  for (let depth = 1; depth < parts.length; depth++) {
    const node = findNode(parts.slice(0, depth).join(":"));
    if (LiteGraph.vueNodesMode && isExposed(node, parts[depth])) continue;
    removePreview(node); // its place is the video's now
    if (!players.has(node)) players.set(node, placed(node));
    const video = players.get(node);
    // The classic canvas gives it a place of its height less a margin.
    video.style.minHeight = LiteGraph.vueNodesMode ? `${HEIGHT}px` : "0";
    video.src = api.apiURL(`/view?${new URLSearchParams(file)}`);
    growToFit(node);
  }
  app.canvas.setDirty(true, true);
}

function placed(node) {
  const video = document.createElement("video");
  Object.assign(video, { controls: true, loop: true, muted: true, autoplay: true, playsInline: true });
  Object.assign(video.style, { width: "100%", height: "100%", objectFit: "contain", borderRadius: "6px" });
  addElement(node, WIDGET, video, { height: HEIGHT });
  whenGone(node, () => empty(video));
  return video;
}
