/** The expert plan as a picture: the noise level over the steps, each step in the colour of its expert. */

const COLOURS = { high_noise: "#f0883e", low_noise: "#4c9bf5", dense: "#8fbf6f" };
const WORDS = { high_noise: "high noise", low_noise: "low noise", dense: "one network" };
const EDGE = { left: 26, right: 10, top: 10, bottom: 16 };
const MOST_DOTS = 60; // more steps than that and the dots run into each other
const SVG = namespaceOfSvg();

/**
 * An expert's colour.
 * @param {string} expert as the server spells it
 */
export function colourOf(expert) {
  return COLOURS[expert];
}

/**
 * An expert's name as people say it.
 * @param {string} expert as the server spells it
 */
export function wordsOf(expert) {
  return WORDS[expert];
}

/**
 * Draws a plan into an SVG element, anew each time.
 * @param {SVGElement} svg
 * @param {{steps: object[], boundary: number | null}} plan what `/wancore/plan` answers
 * @param {{width: number, height: number}} size in pixels
 * @param {{done: number, sigma: number} | null} marker how many steps are done and the noise level then
 * @param {number | null} pointed the step under the mouse
 */
export function drawPlan(svg, plan, size, marker, pointed) {
  const scale = scaleOf(plan.steps.length, size);
  svg.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
  svg.replaceChildren(
    ...grid(scale, plan.steps.length),
    ...(pointed === null ? [] : [band(scale, pointed)]),
    ...runsOf(plan.steps, marker?.done ?? 0).flatMap((run) => area(scale, plan.steps, run)),
    ...(plan.boundary === null ? [] : boundaryLine(scale, plan.boundary)),
    ...(plan.steps.length > MOST_DOTS ? [] : plan.steps.map((step, index) => dot(scale, step, index))),
    ...(marker ? markerAt(scale, marker) : []),
  );
}

/**
 * The step at a place in the picture.
 * @param {number} x pixels from the picture's left edge
 * @param {number} count how many steps the plan has
 * @param {{width: number, height: number}} size in pixels
 * @returns {number} counted from 0
 */
export function stepAt(x, count, size) {
  const width = size.width - EDGE.left - EDGE.right;
  return Math.max(0, Math.min(count - 1, Math.floor(((x - EDGE.left) / width) * count)));
}

function scaleOf(count, size) {
  const width = Math.max(1, size.width - EDGE.left - EDGE.right);
  const height = Math.max(1, size.height - EDGE.top - EDGE.bottom);
  return {
    x: (step) => EDGE.left + (step / count) * width,
    y: (sigma) => EDGE.top + (1 - sigma) * height,
    left: EDGE.left,
    right: EDGE.left + width,
    bottom: EDGE.top + height,
  };
}

function grid(scale, count) {
  const lines = [0, 0.5, 1].flatMap((sigma) => [
    level(scale, sigma, { stroke: "#30343b" }),
    label(sigma, { x: scale.left - 5, y: scale.y(sigma) + 3, "text-anchor": "end" }),
  ]);
  const marks = [...new Set([0, Math.round(count / 2), count])].map((step) =>
    label(step, {
      x: scale.x(step),
      y: scale.bottom + 12,
      "text-anchor": step === 0 ? "start" : step === count ? "end" : "middle",
    }),
  );
  return [...lines, ...marks];
}

/** Neighbouring steps of one expert, those done apart from those to come. */
function runsOf(steps, done) {
  const runs = [];
  for (const [index, step] of steps.entries()) {
    const last = runs.at(-1);
    if (last && last.expert === step.expert && last.done === index < done) last.to = index + 1;
    else runs.push({ expert: step.expert, done: index < done, from: index, to: index + 1 });
  }
  return runs;
}

function area(scale, steps, run) {
  const points = [];
  for (let step = run.from; step <= run.to; step += 1) {
    points.push(`${scale.x(step).toFixed(2)},${scale.y(steps[step]?.sigma ?? 0).toFixed(2)}`);
  }
  const line = points.join(" L ");
  const [from, to] = [scale.x(run.from), scale.x(run.to)];
  const colour = COLOURS[run.expert];
  const shape = `M ${from},${scale.bottom} L ${line} L ${to},${scale.bottom} Z`;
  return [
    make("path", { d: shape, fill: colour, "fill-opacity": run.done ? 0.5 : 0.16 }),
    make("path", { d: `M ${line}`, fill: "none", stroke: colour, "stroke-width": 2 }),
  ];
}

function boundaryLine(scale, boundary) {
  const y = scale.y(boundary);
  const above = y - 4 >= EDGE.top;
  return [
    level(scale, boundary, { class: "boundary", stroke: "#8b8f97", "stroke-dasharray": "4 4" }),
    label(`boundary ${boundary}`, { x: scale.right, y: above ? y - 4 : y + 11, "text-anchor": "end" }),
  ];
}

function level(scale, sigma, look) {
  return make("line", { x1: scale.left, x2: scale.right, y1: scale.y(sigma), y2: scale.y(sigma), ...look });
}

function dot(scale, step, index) {
  const { timestep, sigma, expert } = step;
  return make("circle", {
    ...{ cx: scale.x(index), cy: scale.y(sigma), r: 2.6, fill: COLOURS[expert] },
    ...{ "data-step": index, "data-timestep": timestep, "data-sigma": sigma, "data-expert": expert },
  });
}

function band(scale, step) {
  const [from, to] = [scale.x(step), scale.x(step + 1)];
  const size = { x: from, y: EDGE.top, width: to - from, height: scale.bottom - EDGE.top };
  return make("rect", { ...size, fill: "#d7dae0", "fill-opacity": 0.12 });
}

function markerAt(scale, { done, sigma }) {
  const [x, y] = [scale.x(done), scale.y(sigma)];
  const group = make("g", { class: "marker", "data-done": done });
  group.append(
    make("line", { x1: x, x2: x, y1: EDGE.top - 4, y2: scale.bottom, stroke: "#b4b7bd" }),
    make("circle", { cx: x, cy: y, r: 7, fill: "#ffffff", "fill-opacity": 0.25 }),
    make("circle", { cx: x, cy: y, r: 3.5, fill: "#ffffff" }),
  );
  return [group];
}

function label(text, place) {
  const made = make("text", { ...place, fill: "#9aa0aa", "font-size": 10 });
  made.textContent = text;
  return made;
}

function make(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function namespaceOfSvg() {
  const parsed = document.createElement("template");
  parsed.innerHTML = "<svg></svg>";
  return parsed.content.firstChild.namespaceURI;
}
