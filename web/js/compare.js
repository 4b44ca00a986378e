/**
 * Compare Videos: both videos on the node, side by side or under a wipe that one drags, by one clock.
 */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { addElement, addStyle, valueOf, watch, whenGone } from "./shared/graph.mjs";
import { keepKeys } from "./shared/panel.mjs";
import { empty, Playback } from "./shared/playback.mjs";

const NODE = "WanCoreCompare";
const SIZE = [480, 500];
const HEIGHT = 280;
const SPEEDS = [0.25, 0.5, 1, 2];
const SIDE_BY_SIDE = "side by side";
const WIPE = "wipe";
const PLAY = "M4 2.5v11l9-5.5z";
const PAUSE = "M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z";

const STYLE = `
.wancore-compare { display: flex; flex-direction: column; gap: 6px; height: 100%; padding: 8px;
  background: #1c1e22; color: #d7dae0; border-radius: 6px; font: 12px/1.4 system-ui, sans-serif;
  container-type: inline-size; user-select: none; }
.wancore-compare .stage { flex: 1; min-height: 0; display: grid; place-items: center;
  container-type: size; }
.wancore-compare .frame { position: relative; overflow: hidden; background: #101114; border-radius: 3px;
  width: min(100cqw, 100cqh * var(--ratio)); aspect-ratio: var(--ratio); }
.wancore-compare video { position: absolute; top: 0; left: 0; width: 100%; height: 100%;
  object-fit: contain; background: #101114; pointer-events: none; }
.wancore-compare .side video { width: calc(50% - 1px); }
.wancore-compare .side video + video { left: calc(50% + 1px); }
.wancore-compare .wipe { cursor: ew-resize; touch-action: none; }
.wancore-compare .wipe video + video { clip-path: inset(0 0 0 var(--at)); }
.wancore-compare .label { position: absolute; top: 6px; left: 6px; max-width: calc(50% - 20px);
  padding: 1px 7px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; border-radius: 9px;
  background: #1c1e22cc; pointer-events: none; }
.wancore-compare .label:empty { display: none; }
.wancore-compare .label + .label { left: auto; right: 6px; }
.wancore-compare .side .label + .label { left: calc(50% + 7px); right: auto; }
.wancore-compare .line { display: none; position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px;
  margin-left: -1px; background: #d7dae0; pointer-events: none; }
.wancore-compare .wipe .line { display: block; }
.wancore-compare .line::after { content: ""; position: absolute; top: 50%; left: 1px;
  width: 14px; height: 14px; transform: translate(-50%, -50%); border-radius: 50%; background: #1c1e22;
  border: 2px solid #d7dae0; }
.wancore-compare .bar { display: flex; align-items: center; gap: 8px; min-height: 24px; }
.wancore-compare button, .wancore-compare select { height: 24px; padding: 0 8px; color: inherit;
  font: inherit; background: #2a2d33; border: 1px solid #3a3e46; border-radius: 4px; cursor: pointer; }
.wancore-compare button:hover, .wancore-compare select:hover { border-color: #d7dae0; }
.wancore-compare .play { width: 28px; padding: 0; display: grid; place-items: center; flex: none; }
.wancore-compare .play svg { width: 14px; fill: currentColor; }
.wancore-compare input { flex: 1; min-width: 40px; height: 16px; margin: 0; accent-color: #4c9bf5;
  cursor: pointer; }
.wancore-compare .time { flex: none; font-variant-numeric: tabular-nums; }
.wancore-compare .view { display: flex; flex: none; margin-left: auto; }
.wancore-compare .still > :not(.view) { display: none; }
.wancore-compare .view button:first-child { border-radius: 4px 0 0 4px; }
.wancore-compare .view button:last-child { border-radius: 0 4px 4px 0; border-left: none; }
.wancore-compare .view .chosen { background: #4c9bf5; border-color: #4c9bf5; color: #101114; }
.wancore-compare .note { color: #9aa0aa; white-space: pre-line; }
.wancore-compare .note:empty { display: none; }
.wancore-compare .empty { color: #9aa0aa; text-align: center; padding: 0 16px; }
.wancore-compare .hidden { display: none; }
@container (max-width: 380px) { .wancore-compare .speed { display: none; } }
`;

addStyle(STYLE);

app.registerExtension({
  name: "WanCore.Compare",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const player = new Player((view) => (node.properties.view = view));
    addElement(node, "compare", player.root, { height: HEIGHT, grows: true });
    node.setSize(SIZE.map((least, axis) => Math.max(least, node.size[axis])));
    const labels = () => [valueOf(node, "left_label"), valueOf(node, "right_label")];
    watch(node, labels, (told) => player.setLabels(told));
    watch(node, () => node.properties.view ?? SIDE_BY_SIDE, (view) => player.setView(view));
    watch(node, () => outputOf(node), (output) => output?.compare && player.show(output));
    watch(node, () => player.playback.canWake, (can) => can && player.playback.wake());
    whenGone(node, () => player.close());
  },
});

/** What the node's last run said: just now, before an undo, in another tab or as the history has it. */
function outputOf(node) {
  return app.nodeOutputs[node.graph.isRootGraph ? node.id : `${node.graph.id}:${node.id}`];
}

/** What is on one node. */
class Player {
  constructor(onView) {
    this.shown = "";
    this.given = ["", ""]; // labels as the run told them
    this.videos = [0, 1].map(() => this.#video());
    this.labels = [0, 1].map(() => make("div", { className: "label" }));
    this.line = make("div", { className: "line" });
    this.frame = make("div", { className: "frame hidden" }, ...this.videos, ...this.labels, this.line);
    this.empty = make("div", { className: "empty", textContent: "Run the graph to see both videos." });
    const hint = "Drag, or step with the arrow keys";
    this.scrubber = make("input", { type: "range", min: 0, value: 0, title: hint });
    this.time = make("span", { className: "time" });
    this.button = make("button", { className: "play" });
    this.note = make("div", { className: "note" });
    this.views = [SIDE_BY_SIDE, WIPE].map((view) =>
      make("button", { textContent: view, onclick: () => this.#choose(view, onView) }),
    );
    this.bar = make(
      "div",
      { className: "bar hidden" },
      this.button,
      this.scrubber,
      this.time,
      this.#speeds(),
      make("div", { className: "view" }, ...this.views),
    );
    const stage = make("div", { className: "stage" }, this.frame, this.empty);
    this.root = make("div", { className: "wancore-compare" }, stage, this.bar, this.note);
    this.playback = new Playback(
      this.videos,
      (seconds) => this.#moved(seconds),
      (playing) => this.#playing(playing),
    );
    this.#listen();
    this.#playing(false);
    this.setView(SIDE_BY_SIDE);
    this.#wipe(0.5);
  }

  /** Shows a run's two videos from their start. */
  show({ compare, note }) {
    const shown = JSON.stringify(compare);
    if (shown === this.shown) return;
    this.shown = shown;
    this.clips = compare;
    compare.forEach((clip, index) => {
      const { filename, subfolder, type } = clip;
      const query = new URLSearchParams({ filename, subfolder, type });
      this.videos[index].src = api.apiURL(`/view?${query}${app.getRandParam()}`);
      this.given[index] = clip.label;
    });
    this.setLabels(this.told ?? []);
    this.note.textContent = (note ?? []).join("\n");
    this.frame.classList.remove("hidden");
    this.bar.classList.remove("hidden");
    this.empty.classList.add("hidden");
    this.#layOut();
    this.playback.pause();
    this.playback.load(compare);
    this.bar.classList.toggle("still", this.playback.isStill);
    this.scrubber.max = this.playback.seconds - this.playback.step;
    this.scrubber.step = this.playback.step;
    this.playback.play();
  }

  /** Lets go of the videos; a page may hold only so many. */
  close() {
    this.playback.pause();
    this.shown = "";
    this.videos.forEach(empty);
  }

  /** What the node's widgets say now; undefined where a link brings the words. */
  setLabels(told) {
    this.told = told;
    this.labels.forEach((label, index) => (label.textContent = told[index] ?? this.given[index]));
  }

  setView(view) {
    this.view = view;
    this.frame.classList.toggle("side", view === SIDE_BY_SIDE);
    this.frame.classList.toggle("wipe", view === WIPE);
    this.views.forEach((button) => button.classList.toggle("chosen", button.textContent === view));
    this.#layOut();
  }

  #choose(view, onView) {
    this.setView(view);
    onView(view);
  }

  #video() {
    const gone = () => this.#gone();
    return make("video", { muted: true, playsInline: true, preload: "auto", onerror: gone });
  }

  #speeds() {
    const options = SPEEDS.map((speed) => make("option", { value: speed, textContent: `${speed} x` }));
    const choose = (event) => (this.playback.speed = Number(event.target.value));
    const select = make("select", { className: "speed", title: "Speed", onchange: choose }, ...options);
    select.value = "1";
    keepKeys(select);
    return select;
  }

  #listen() {
    this.button.onclick = () => (this.playback.playing ? this.playback.pause() : this.playback.play());
    this.scrubber.oninput = () => {
      const chosen = Number(this.scrubber.value); // pausing puts the slider where the videos are
      this.playback.pause();
      this.playback.seek(chosen);
    };
    this.frame.onpointerdown = (event) => {
      if (this.view !== WIPE || event.button !== 0) return;
      this.frame.setPointerCapture(event.pointerId);
      this.#drag(event);
    };
    this.frame.onpointermove = (event) => {
      if (this.frame.hasPointerCapture(event.pointerId)) this.#drag(event);
    };
  }

  #drag(event) {
    const { left, width } = this.frame.getBoundingClientRect();
    this.#wipe((event.clientX - left) / width);
  }

  #wipe(part) {
    this.frame.style.setProperty("--at", `${100 * Math.min(1, Math.max(0, part))}%`);
  }

  /** Both in the shape of the left one, so that a wipe goes over pictures of one size. */
  #layOut() {
    const { width = 1, height = 1 } = this.clips?.[0] ?? {};
    const side = this.view === SIDE_BY_SIDE ? 2 : 1;
    this.frame.style.setProperty("--ratio", String((side * width) / height));
  }

  #moved(seconds) {
    this.scrubber.value = String(seconds);
    this.time.textContent = `${seconds.toFixed(1)} / ${this.playback.seconds.toFixed(1)} s`;
  }

  #playing(playing) {
    this.button.innerHTML = `<svg viewBox="0 0 16 16"><path d="${playing ? PAUSE : PLAY}"/></svg>`;
    this.button.title = playing ? "Pause" : "Play";
  }

  /** The temporary folder is emptied when ComfyUI starts. */
  #gone() {
    this.playback.pause();
    this.shown = "";
    this.frame.classList.add("hidden");
    this.bar.classList.add("hidden");
    this.empty.classList.remove("hidden");
    this.empty.textContent = "The videos are no longer there. Run the graph again.";
  }
}

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
