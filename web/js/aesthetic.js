/**
 * The look card on the Aesthetic node: the choices as a picture, and the finished prompt under it.
 *
 * The words are the server's (`/wancore/aesthetic`), so that the card and the node never disagree; the
 * picture is drawn at once from the names of the choices.
 */

import { app } from "../../../scripts/app.js";
import { addElement, addStyle, afterRun, ask, lastOnly, valueOf, watch } from "./shared/graph.mjs";
import { drawLook } from "./shared/look.mjs";

const NODE = "WanCoreAesthetic";
const WIDTH = 400;
const HEIGHT = 366;
const MARGINS = 20; // what the classic canvas keeps free of an element's height
const MOST = 4;
const LONGEST = 6000; // characters of a question's address; servers refuse those over 8190
// While the pointer is on the card the picture moves as the camera would: [movement, how].
const SWAYS = [
  ...["in", "out", "left", "right", "up", "down"].map((move) => [move, move]),
  ["track", "right"],
  ["arc", "left"],
];
const STYLE = `
.wancore-look { display: flex; flex-direction: column; gap: 6px; padding: 6px; overflow: hidden;
  color: #d7dae0; background: #1c1e22; border-radius: 8px; font: 12px/1.45 Inter, system-ui, sans-serif; }
.wancore-look svg { display: block; width: 100%; height: 100%; }
.wancore-look-picture { flex: none; aspect-ratio: 16 / 9; max-height: 230px; }
.wancore-look-chips { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; }
.wancore-look-chips span { padding: 0 7px; border-radius: 9px; background: #2d3138; white-space: nowrap; }
.wancore-look-chips span.style { background: #3d3524; color: #f2c98f; }
.wancore-look-chips span.over { background: #4a2024; color: #ff8a80; }
.wancore-look-chips b { margin-left: auto; font-weight: 500; color: #9aa0ab; }
.wancore-look-chips b.over { color: #ff8a80; }
.wancore-look-prompt { flex: 1 1 0; min-height: 18px; overflow-y: auto;
  user-select: text; cursor: text; overflow-wrap: anywhere; }
.wancore-look-prompt.fault { color: #ff8a80; }
.wancore-look-prompt.hint { color: #9aa0ab; }
.wancore-scene { transform-box: view-box; transform-origin: 50% 50%; }
@keyframes wancore-in { to { transform: scale(1.22); } }
@keyframes wancore-out { from { transform: scale(1.22); } }
@keyframes wancore-left { to { transform: translateX(26px); } }
@keyframes wancore-right { to { transform: translateX(-26px); } }
@keyframes wancore-up { to { transform: translateY(22px); } }
@keyframes wancore-down { to { transform: translateY(-22px); } }
@keyframes wancore-hand { 25% { transform: translate(3px, -2px) rotate(.7deg); }
  55% { transform: translate(-3px, 2px); } 80% { transform: translate(2px, 2px) rotate(-.6deg); } }
${SWAYS.map(plays).join("\n")}
.wancore-look:hover .wancore-move-hand { animation: wancore-hand 0.9s linear infinite; }`;

let cards = 0;

addStyle(STYLE);

app.registerExtension({
  name: "WanCore.Aesthetic",
  nodeCreated(node) {
    if (node.comfyClass === NODE) addCard(node);
  },
});

function plays([move, how]) {
  return `.wancore-look:hover .wancore-move-${move} { animation: wancore-${how} 2.2s ease-in-out infinite
    alternate; }`;
}

function addCard(node) {
  const card = makeCard();
  addElement(node, "look", card.root, { height: HEIGHT });
  card.root.style.minHeight = `${HEIGHT - MARGINS}px`;
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, WIDTH), height]); // a new node; a saved one has its own size set after this
  const question = lastOnly();
  watch(node, () => choicesOf(node), (choices) => {
    card.draw(choices);
    const isLast = question();
    tellAbout(choices)
      .then((told) => isLast() && card.tell(told))
      .catch((error) => isLast() && card.fail(error.message));
  });
  afterRun(node, (output) => {
    const said = output?.text?.[0];
    if (typeof said === "string") card.say(said);
  });
}

/** What is chosen, by widget; what another node works out during the run is left out. */
function choicesOf(node) {
  const names = node.widgets.filter((one) => one.type === "combo").map((one) => one.name);
  const values = ["prompt", ...names].map((name) => [name, valueOf(node, name)]);
  return Object.fromEntries(values.filter(([, value]) => typeof value === "string"));
}

/** The server's answer, and what to show in the place of a prompt that only the run will know. */
async function tellAbout({ prompt, ...choices }) {
  const short = prompt !== undefined && encodeURIComponent(prompt).length <= LONGEST;
  const told = await ask("aesthetic", short ? { prompt, ...choices } : choices);
  if (short && !prompt.trim()) return { ...told, prompt: null, hint: "Say in prompt what the video shows." };
  if (short) return told;
  const why = prompt === undefined ? "comes from another node" : "is long";
  return { ...told, prompt: null, hint: `The prompt ${why}: run the graph to see it finished.` };
}

function makeCard() {
  const id = `wancore-look-${++cards}-`;
  const part = (name) => {
    const made = document.createElement("div");
    made.className = `wancore-look${name}`;
    return made;
  };
  const [root, picture, chips, text] = ["", "-picture", "-chips", "-prompt"].map(part);
  root.append(picture, chips, text);
  const write = (words, kind = "") => {
    text.textContent = words;
    text.className = `wancore-look-prompt ${kind}`;
  };
  return {
    root,
    draw: (choices) => {
      picture.innerHTML = drawLook(choices, id);
    },
    tell: (told) => {
      chips.replaceChildren(...chipsOf(told));
      if (told.fault) write(told.fault, "fault");
      else write(told.prompt ?? told.hint, told.prompt === null ? "hint" : "");
    },
    say: (said) => write(said),
    fail: (message) => write(message, "fault"),
  };
}

function chipsOf({ style, terms, over }) {
  const chip = (textContent, className) =>
    Object.assign(document.createElement("span"), { textContent, className });
  const count = document.createElement("b");
  count.textContent = `${terms.length} of ${MOST} terms`;
  count.className = over.length ? "over" : "";
  return [
    ...(style ? [chip(style, "style")] : []),
    ...terms.map((term) => chip(term, over.includes(term) ? "over" : "")),
    count,
  ];
}
