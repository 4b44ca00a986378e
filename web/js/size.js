/** On nodes that have a size: those that the model was trained on, to choose from, and what it comes to. */

import { app } from "../../../scripts/app.js";
import {
  addElement,
  ask,
  fillWidgets,
  lastOnly,
  sourceOf,
  targetsOf,
  valueOf,
  watch,
} from "./shared/graph.mjs";
import { askOnce, modelFile } from "./shared/model.mjs";
import { makePanel, showOptions, words, wrongWords } from "./shared/panel.mjs";

const NODES = ["WanCoreEmptyVideoLatent", "WanCoreImageToVideo"];
const NUMBERS = ["width", "height", "frames"];
const TASKS = { "T2V-A14B": "t2v", "TI2V-5B": "ti2v" }; // by Empty Video Latent's `model`
const EXACTLY = "exactly width x height"; // Image to Video's `size` that asks no picture
const WIDTH = 350;
const HEIGHT = 60;

app.registerExtension({
  name: "WanCore.Size",
  nodeCreated(node) {
    if (NODES.includes(node.comfyClass)) new SizePanel(node);
  },
});

/** The element on one node. */
class SizePanel {
  constructor(node) {
    this.node = node;
    this.question = lastOnly();
    Object.assign(this, makePanel("Size", (size) => this.fill(size)));
    addElement(node, "trained_sizes", this.element, { height: HEIGHT, width: WIDTH });
    watch(node, () => this.settings(), (settings) => this.follow(settings));
  }

  /** All that the panel depends on. */
  settings() {
    const names = [...NUMBERS, "size", "model"];
    const values = Object.fromEntries(names.map((name) => [name, valueOf(this.node, name)]));
    const sampler = targetsOf(this.node, "latent").find((target) => target.comfyClass === "WanCoreSampler");
    const vae = sourceOf(this.node, "vae");
    return { ...values, file: sampler && modelFile(sampler), vae: vae && valueOf(vae, "vae_name") };
  }

  /** Shows what the node is set to now. An answer that was overtaken by a later question is left aside. */
  async follow(settings) {
    const isLast = this.question();
    try {
      const kind = await kindOf(settings);
      if (!isLast()) return;
      this.showSizes(settings, kind);
      const text = await described(settings, kind.task);
      if (isLast()) this.line.replaceChildren(words(text));
    } catch (error) {
      if (isLast()) this.line.replaceChildren(wrongWords(error.message));
    }
  }

  showSizes({ width, height }, { title, sizes }) {
    const note = `${title} was trained on this size.`;
    const options = sizes.map((size) => ({ value: nameOf(...size), title: nameOf(...size), note }));
    const other = `${title} was trained on ${options.map((option) => option.title).join(", ")}.`;
    showOptions(this.select, options, nameOf(width, height), other);
  }

  fill(size) {
    const [width, height] = size.split(" x ").map(Number);
    if (height) fillWidgets(this.node, { width, height });
  }
}

/**
 * The task that the node makes a latent for, by its own choice of model or VAE, and the sizes of the model it
 * goes to, where that is of the same kind.
 */
async function kindOf({ model, vae, file }) {
  const task = model === undefined ? await taskOfVae(vae) : (TASKS[model] ?? TASKS["T2V-A14B"]);
  const own = await askOnce("model", { task });
  const fed = file && (await askOnce("model", { name: file }).catch(() => null));
  return fed?.latent_channels === own.latent_channels ? { ...fed, task } : own;
}

async function taskOfVae(vae) {
  const told = vae && (await askOnce("vae", { name: vae }).catch(() => null));
  return told?.task ?? "i2v";
}

/** One line of what the numbers come to. */
async function described(settings, task) {
  const unknown = NUMBERS.find((name) => settings[name] === undefined);
  if (unknown) return `${unknown} comes from another node, and is known once that has run`;
  const { width, height, frames, size } = settings;
  const follows = size !== undefined && size !== EXACTLY;
  return (await ask("size", { task, width, height, frames, follows: Number(follows) })).line;
}

function nameOf(width, height) {
  return `${width} x ${height}`;
}
