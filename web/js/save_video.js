/**
 * Save Video: the new video plays on the node at once, in a loop and without sound, as ComfyUI's own player
 * does after a click; on the classic canvas the node makes room for it.
 */

import { app } from "../../../scripts/app.js";
import { afterRun, growToFit } from "./shared/graph.mjs";

const NODE = "WanCoreSaveVideo";
const LOOK_MS = 100;
const LOOKS = 100;

app.registerExtension({
  name: "WanCore.SaveVideo",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    afterRun(node, (output) => {
      const filename = output?.images?.[0]?.filename;
      if (filename) start(node, String(new URLSearchParams({ filename })), LOOKS);
    });
  },
});

/** Plays the video whose address holds `query` as soon as ComfyUI has put it on the node. */
function start(node, query, looks) {
  const video = player(node);
  if (video?.src.includes(query) && video.readyState) play(node, video);
  else if (looks) setTimeout(() => start(node, query, looks - 1), LOOK_MS);
}

function player(node) {
  const place = LiteGraph.vueNodesMode
    ? document.querySelector(`[data-node-id="${node.id}"]`)
    : node.videoContainer;
  return place?.querySelector("video");
}

function play(node, video) {
  Object.assign(video, { muted: true, loop: true });
  video.play().catch(() => {}); // a browser that wants a click first shows the controls
  if (LiteGraph.vueNodesMode) return;
  growToFit(node);
  node.graph?.setDirtyCanvas(true, true);
}
