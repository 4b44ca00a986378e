/** Which model feeds a node, and what that model is made for. */

import { api } from "../../../../scripts/api.js";
import { ask, sourceOf, valueOf } from "./graph.mjs";

const answers = new Map(); // question -> promise of its answer, kept while it holds
api.addEventListener("reconnected", () => answers.clear()); // perhaps another version, with other files

/**
 * The Load Model node at the head of what feeds a node's `model` input, through Load LoRA, Speed and whatever
 * else hands a model on.
 * @param {object} node
 * @returns {object | null} null where there is none
 */
export function modelLoader(node) {
  const seen = new Set();
  let from = node;
  while (from && !seen.has(from)) {
    if (from.comfyClass === "WanCoreLoadModel") return from;
    seen.add(from);
    from = sourceOf(from, "model");
  }
  return null;
}

/**
 * That node's file.
 * @param {object} node
 * @returns {string | null}
 */
export function modelFile(node) {
  const loader = modelLoader(node);
  return (loader && valueOf(loader, "high_noise_model")) ?? null;
}

/**
 * The same question is put to the server once; an answer that was an error is not kept.
 * @param {string} path as `ask` takes it
 * @param {Object<string, string | number>} query
 * @returns {Promise<object>}
 */
export function askOnce(path, query = {}) {
  const key = `${path}?${new URLSearchParams(query)}`;
  if (!answers.has(key)) {
    const answer = ask(path, query);
    answer.catch(() => answers.delete(key));
    answers.set(key, answer);
  }
  return answers.get(key);
}
