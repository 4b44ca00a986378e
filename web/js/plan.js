/**
 * The expert plan on the Sampler: the noise level over the steps before anything runs, a marker along it while
 * it runs, and the presets. All numbers are the server's; nothing of it is saved.
 */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { colourOf, drawPlan, stepAt, wordsOf } from "./shared/chart.mjs";
import { addElement, ask, findNode, setWidget, valueOf, watch, widget } from "./shared/graph.mjs";
import { askOnce, modelFile } from "./shared/model.mjs";

const NODES = ["WanCoreSampler", "WanCoreExpertPlan"];
const SCHEDULE = ["steps", "shift", "boundary", "scheduler"];
const PRESET = [...SCHEDULE, "cfg_high", "cfg_low", "cfg_steps"];
const DEFAULT_TASK = "t2v"; // whose released numbers a new Sampler has
const CUSTOM = "custom";
const HEIGHT = 200;
const CHART_HEIGHT = 140;
const RUN_ENDS = ["execution_success", "execution_error", "execution_interrupted", "reconnected"];
const STYLE = `
  .wancore-plan { display: flex; flex-direction: column; gap: 4px; padding: 8px 8px 6px; overflow: hidden;
    background: #1c1e22; color: #d7dae0; border-radius: 8px; font: 11px/1.35 Inter, Arial, sans-serif; }
  .wancore-plan .head { display: flex; align-items: center; gap: 8px; }
  .wancore-plan select { flex: 1; min-width: 0; padding: 2px 4px; font: inherit; color: inherit;
    background: #2a2d33; border: 1px solid #3a3e46; border-radius: 5px; }
  .wancore-plan svg { display: block; flex: none; width: 100%; height: ${CHART_HEIGHT}px; }
  .wancore-plan .line { display: flex; gap: 10px; min-height: 15px; white-space: nowrap; overflow: hidden; }
  .wancore-plan .line span { overflow: hidden; text-overflow: ellipsis; }
  .wancore-plan .line i { display: inline-block; width: 8px; height: 8px; margin-right: 5px;
    border-radius: 2px; }
  .wancore-plan .line .wrong { color: #f0776a; }
`;

const panels = new WeakMap(); // node -> its panel
const running = new Set(); // panels that show a marker

app.registerExtension({
  name: "WanCore.Plan",
  setup() {
    const style = document.createElement("style");
    style.textContent = STYLE;
    document.head.append(style);
    api.addEventListener("wancore.step", ({ detail }) => panels.get(findNode(detail.node))?.mark(detail));
    for (const name of RUN_ENDS) api.addEventListener(name, clearMarkers);
  },
  nodeCreated(node) {
    if (NODES.includes(node.comfyClass)) panels.set(node, new PlanPanel(node));
  },
});

function clearMarkers() {
  for (const panel of running) panel.mark(null);
}

/** The element on one node, and what it knows. */
class PlanPanel {
  constructor(node) {
    this.node = node;
    this.task = DEFAULT_TASK; // whose presets the numbers are compared with
    this.presets = {}; // by task
    this.plan = null;
    this.trouble = ""; // what keeps the model from being known
    this.marker = null;
    this.pointed = null;
    this.questions = 0;
    this.build();
    addElement(node, "plan", this.element, { height: HEIGHT });
    this.neverChangeLoadedNumbers();
    watch(node, () => this.settings(), (settings) => this.follow(settings));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  build() {
    this.element = document.createElement("div");
    this.element.className = "wancore-plan";
    this.element.innerHTML =
      '<div class="head"><span>Preset</span><select></select></div><svg role="img"></svg><div class="line"></div>';
    this.select = this.element.querySelector("select");
    this.svg = this.element.querySelector("svg");
    this.line = this.element.querySelector(".line");
    this.select.addEventListener("change", () => this.fill(this.presetNamed(this.select.value)));
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.point(null));
  }

  /** A graph that is loaded or pasted keeps its numbers: its model becomes the one they belong to. */
  neverChangeLoadedNumbers() {
    const { node } = this;
    const configured = node.onConfigure;
    node.onConfigure = (...given) => {
      this.task = null;
      return configured?.apply(node, given);
    };
  }

  /** All that the panel depends on. */
  settings() {
    const values = Object.fromEntries(PRESET.map((name) => [name, valueOf(this.node, name)]));
    return { ...values, file: modelFile(this.node), task: valueOf(this.node, "task") };
  }

  /** Shows what the node is set to now. An answer that was overtaken by a later question is left aside. */
  async follow(settings) {
    this.questions += 1;
    const question = this.questions;
    try {
      const [presets, { task, trouble }] = await Promise.all([askOnce("presets"), taskOf(settings)]);
      if (question !== this.questions) return;
      this.presets = presets;
      this.trouble = trouble;
      if (this.changeTask(task)) return; // the numbers have changed, and are looked at next
      this.showPreset();
      const plan = await ask("plan", { task: this.task ?? DEFAULT_TASK, ...scheduleOf(settings) });
      if (question !== this.questions) return;
      this.plan = plan;
      this.draw();
    } catch (error) {
      if (question === this.questions) this.fail(error.message);
    }
  }

  /**
   * Goes over to another task. Numbers that are a preset of the former become the same preset of the new one,
   * all others stay. Returns whether any changed.
   */
  changeTask(task) {
    if (task === null || task === this.task) return false;
    const former = this.task === null ? null : this.presetNow();
    this.task = task;
    const same = former && this.presetNamed(former.name);
    return Boolean(same) && this.fill(same);
  }

  /** The presets of the task, as the server lists them. */
  list() {
    return this.presets[this.task ?? DEFAULT_TASK] ?? [];
  }

  presetNamed(name) {
    return this.list().find((preset) => preset.name === name);
  }

  /** The preset that the present numbers equal, if any. */
  presetNow() {
    return this.list().find((preset) =>
      this.valuesOf(preset).every(([name, value]) => equal(valueOf(this.node, name), value)),
    );
  }

  /** A preset's values for the widgets that the node has. */
  valuesOf(preset) {
    return Object.entries(preset.values).filter(([name]) => widget(this.node, name));
  }

  /** Fills the widgets. Returns whether any changed. */
  fill(preset) {
    if (!preset) return false;
    const changed = this.valuesOf(preset).filter(([name, value]) => !equal(valueOf(this.node, name), value));
    for (const [name, value] of changed) setWidget(this.node, name, value);
    app.extensionManager.workflow?.activeWorkflow?.changeTracker?.captureCanvasState?.(); // one step to undo
    return changed.length > 0;
  }

  showPreset() {
    const now = this.presetNow();
    const options = this.list().map((preset) => optionOf(preset.name, preset.title, preset.note));
    if (!now) options.push(optionOf(CUSTOM, CUSTOM, "Your own numbers."));
    this.select.replaceChildren(...options);
    this.select.value = now?.name ?? CUSTOM;
    this.select.title = now?.note ?? "These numbers are no preset; choose one to fill them in.";
  }

  /** Puts the marker where a run is; null takes it away. */
  mark(step) {
    this.marker = step;
    if (step) running.add(this);
    else running.delete(this);
    this.draw();
  }

  point(event) {
    if (!this.plan) return;
    const box = this.svg.getBoundingClientRect();
    const size = this.size();
    // The canvas scales its elements, so the box is as large as it looks and `size` as it was laid out.
    const x = event && ((event.clientX - box.left) / box.width) * size.width;
    this.pointed = event ? stepAt(x, this.plan.steps.length, size) : null;
    this.draw();
  }

  size() {
    return { width: this.element.clientWidth - 16, height: CHART_HEIGHT };
  }

  draw() {
    const size = this.size();
    if (!this.plan || size.width <= 0) return;
    const { steps, summary } = this.plan;
    const pointed = this.pointed !== null && this.pointed < steps.length ? this.pointed : null;
    drawPlan(this.svg, this.plan, size, this.marker && placeOf(this.marker, steps), pointed);
    this.svg.setAttribute("aria-label", summary);
    const words = pointed === null ? counts(steps) : [stepWords(steps, pointed)];
    if (this.trouble) words.push(wrong(this.trouble));
    this.line.replaceChildren(...words);
  }

  fail(message) {
    this.plan = null;
    this.svg.replaceChildren();
    this.line.replaceChildren(wrong(message));
  }
}

/** The task of the node's own widget, else of the model that feeds it; null, with the reason, if unknown. */
async function taskOf({ task, file }) {
  if (task !== undefined || file === null) return { task: task ?? null, trouble: "" };
  try {
    return { task: (await askOnce("model", { name: file })).task, trouble: "" };
  } catch (error) {
    return { task: null, trouble: error.message };
  }
}

/** The numbers of a plan. Throws where another node works one out. */
function scheduleOf(settings) {
  const unknown = SCHEDULE.find((name) => settings[name] === undefined);
  if (unknown) throw new Error(`${unknown} comes from another node, and is known once that has run`);
  return Object.fromEntries(SCHEDULE.map((name) => [name, settings[name]]));
}

/** How many steps are done and the noise level then, in steps of the drawn plan even if that has changed. */
function placeOf({ index, total, sigma }, steps) {
  const done = ((index + 1) / total) * steps.length;
  return { done, sigma: total === steps.length ? (steps[done]?.sigma ?? 0) : sigma };
}

function counts(steps) {
  const experts = [...new Set(steps.map((step) => step.expert))];
  return experts.map((expert) => {
    const count = steps.filter((step) => step.expert === expert).length;
    const made = span(`${count} ${count === 1 ? "step" : "steps"}, ${wordsOf(expert)}`);
    const mark = document.createElement("i");
    mark.style.background = colourOf(expert);
    made.prepend(mark);
    return made;
  });
}

function stepWords(steps, index) {
  const { timestep, sigma, expert } = steps[index];
  const count = `step ${index + 1} of ${steps.length}`;
  return span(`${count}: timestep ${rounded(timestep)}, sigma ${rounded(sigma)}, ${wordsOf(expert)}`);
}

function rounded(number) {
  return Number(number.toFixed(4));
}

function span(text) {
  const made = document.createElement("span");
  made.textContent = text;
  return made;
}

function wrong(message) {
  const made = span(message);
  made.className = "wrong";
  made.title = message;
  return made;
}

function optionOf(name, title, note) {
  const made = document.createElement("option");
  made.value = name;
  made.textContent = title;
  made.title = note;
  return made;
}

function equal(one, other) {
  return typeof one === "number" && typeof other === "number" ? Math.abs(one - other) < 1e-6 : one === other;
}
