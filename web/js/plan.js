/**
 * The expert plan on the Sampler: the noise level over the steps before anything runs, a marker along it in
 * a run, and the presets. All numbers are the server's; nothing of it is saved.
 */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { colourOf, drawPlan, stepAt, wordsOf } from "./shared/chart.mjs";
import { addElement, ask, fillWidgets, findNode, lastOnly, valueOf, watch, widget } from "./shared/graph.mjs";
import { askOnce, modelFile, modelLoader } from "./shared/model.mjs";
import { makePanel, showOptions, words, wrongWords } from "./shared/panel.mjs";

const NODES = ["WanCoreSampler", "WanCoreExpertPlan"];
const SCHEDULE = ["steps", "shift", "boundary", "scheduler"];
const PRESET = [...SCHEDULE, "cfg_high", "cfg_low", "cfg_steps"];
const DEFAULT_TASK = "t2v"; // whose released numbers a new Sampler has
const WIDTH = 350;
const HEIGHT = 206;
const CHART_HEIGHT = 140; // at least
const CHART_STYLE = `flex: 1 1 ${CHART_HEIGHT}px; min-height: ${CHART_HEIGHT}px; width: 100%`;
const SWATCH = "display: inline-block; width: 8px; height: 8px; margin-right: 5px; border-radius: 2px";
const RUN_ENDS = ["execution_success", "execution_error", "execution_interrupted", "reconnected"];

const panels = new WeakMap(); // node -> its panel
const running = new Set(); // panels that show a marker
const batches = new WeakMap(); // node -> the moment it was made in; those of a loaded graph share one
let batch = null;

app.registerExtension({
  name: "WanCore.Plan",
  setup() {
    api.addEventListener("wancore.step", ({ detail }) => panels.get(findNode(detail.node))?.mark(detail));
    for (const name of RUN_ENDS) api.addEventListener(name, clearMarkers);
  },
  nodeCreated(node) {
    batch ??= startBatch();
    batches.set(node, batch);
    if (NODES.includes(node.comfyClass)) panels.set(node, new PlanPanel(node));
  },
});

function startBatch() {
  queueMicrotask(() => (batch = null)); // once what makes nodes now has made them all
  return {};
}

function clearMarkers() {
  for (const panel of running) panel.mark(null);
}

/** The element on one node, and what it knows. */
class PlanPanel {
  constructor(node) {
    this.node = node;
    this.task = DEFAULT_TASK; // whose presets the numbers are compared with; null: not known yet
    this.met = false;
    this.presets = {}; // by task
    this.plan = null;
    this.trouble = ""; // what keeps the model from being known
    this.marker = null;
    this.pointed = null;
    this.question = lastOnly();
    this.build();
    addElement(node, "plan", this.element, { height: HEIGHT, width: WIDTH });
    this.neverChangeLoadedNumbers();
    watch(node, () => this.settings(), (settings) => this.follow(settings));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  build() {
    Object.assign(this, makePanel("Preset", (name) => this.fill(this.presetNamed(name))));
    this.element.classList.add("wancore-plan");
    this.line.insertAdjacentHTML("beforebegin", `<svg role="img" style="${CHART_STYLE}"></svg>`);
    this.svg = this.element.querySelector("svg");
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

  /** The first time that a task is told: one that came with the node is the one its numbers are of. */
  meet() {
    if (this.met) return;
    this.met = true;
    // An API-format file makes its nodes without configuring them, all in one go.
    const loader = modelLoader(this.node);
    if (!loader || batches.get(loader) === batches.get(this.node)) this.task = null;
  }

  /** All that the panel depends on. */
  settings() {
    const values = Object.fromEntries(PRESET.map((name) => [name, valueOf(this.node, name)]));
    return { ...values, file: modelFile(this.node), task: valueOf(this.node, "task") };
  }

  /** Shows what the node is set to now. An answer that was overtaken by a later question is left aside. */
  async follow(settings) {
    const isLast = this.question();
    try {
      const [presets, { task, trouble }] = await Promise.all([askOnce("presets"), taskOf(settings)]);
      if (!isLast()) return;
      this.presets = presets;
      this.trouble = trouble;
      if (this.changeTask(task)) return; // the numbers have changed, and are looked at next
      this.showPreset();
      const plan = await ask("plan", { task: this.task ?? DEFAULT_TASK, ...scheduleOf(settings) });
      if (!isLast()) return;
      this.plan = plan;
      this.draw();
    } catch (error) {
      if (isLast()) this.fail(error.message);
    }
  }

  /**
   * Goes over to another task. Numbers that are a preset of the former become the same preset of the new one,
   * all others stay. Returns whether any changed.
   */
  changeTask(task) {
    if (task === null) return false;
    this.meet();
    if (task === this.task) return false;
    const former = this.task === null ? null : this.presetNow();
    this.task = task;
    return former !== null && former !== undefined && this.fill(this.presetNamed(former.name));
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
      Object.entries(preset.values)
        .filter(([name]) => widget(this.node, name))
        .every(([name, value]) => valueOf(this.node, name) === value),
    );
  }

  /** Fills the widgets. Returns whether any changed. */
  fill(preset) {
    return preset !== undefined && fillWidgets(this.node, preset.values);
  }

  showPreset() {
    const options = this.list().map(({ name, title, note }) => ({ value: name, title, note }));
    const note = "These numbers are no preset; choose one to fill them in.";
    showOptions(this.select, options, this.presetNow()?.name, note);
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

  /** Of the picture; outside the view it has none yet, and is drawn anew once it has. */
  size() {
    return { width: this.svg.clientWidth || WIDTH, height: this.svg.clientHeight || CHART_HEIGHT };
  }

  draw() {
    if (!this.plan) return;
    const { steps, summary } = this.plan;
    const pointed = this.pointed !== null && this.pointed < steps.length ? this.pointed : null;
    drawPlan(this.svg, this.plan, this.size(), this.marker && placeOf(this.marker, steps), pointed);
    this.svg.setAttribute("aria-label", summary);
    const said = pointed === null ? counts(steps) : [stepWords(steps, pointed)];
    if (this.trouble) said.push(wrongWords(this.trouble));
    this.line.replaceChildren(...said);
  }

  fail(message) {
    this.plan = null;
    this.svg.replaceChildren();
    this.line.replaceChildren(wrongWords(message));
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
  return { done, sigma: total === steps.length ? (steps[index + 1]?.sigma ?? 0) : sigma };
}

function counts(steps) {
  const experts = [...new Set(steps.map((step) => step.expert))];
  return experts.map((expert) => {
    const count = steps.filter((step) => step.expert === expert).length;
    const made = words(`${count} ${count === 1 ? "step" : "steps"}, ${wordsOf(expert)}`);
    const mark = document.createElement("i");
    mark.style.cssText = SWATCH;
    mark.style.background = colourOf(expert);
    made.prepend(mark);
    return made;
  });
}

function stepWords(steps, index) {
  const { timestep, sigma, expert } = steps[index];
  const count = `step ${index + 1} of ${steps.length}`;
  return words(`${count}: timestep ${rounded(timestep)}, sigma ${rounded(sigma)}, ${wordsOf(expert)}`);
}

function rounded(number) {
  return Number(number.toFixed(4));
}
