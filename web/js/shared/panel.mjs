/** How this pack's panels on nodes look: a dark card with a select above and a line of text below. */

import { addStyle } from "./graph.mjs";

const STYLE = `
  .wancore-panel { display: flex; flex-direction: column; gap: 4px; padding: 8px; overflow: hidden;
    background: #1c1e22; color: #d7dae0; border-radius: 8px; font: 11px/1.35 Inter, Arial, sans-serif; }
  .wancore-panel .head { display: flex; align-items: center; gap: 8px; }
  .wancore-panel select { flex: 1; min-width: 0; padding: 2px 4px; font: inherit; color: inherit;
    background: #2a2d33; border: 1px solid #3a3e46; border-radius: 5px; }
  .wancore-panel .line { display: flex; gap: 10px; min-height: 15px; white-space: nowrap; overflow: hidden; }
  .wancore-panel .line span { overflow: hidden; text-overflow: ellipsis; }
  .wancore-panel .wrong { color: #f0776a; }
`;

addStyle(STYLE);

/**
 * A panel with a labelled select, and an empty line of text.
 * @param {string} label
 * @param {(value: string) => void} chosen called with what the user selects
 * @returns {{element: HTMLElement, select: HTMLSelectElement, line: HTMLElement}}
 */
export function makePanel(label, chosen) {
  const element = document.createElement("div");
  element.className = "wancore-panel";
  element.innerHTML = '<div class="head"><span></span><select></select></div><div class="line"></div>';
  element.querySelector("span").textContent = label;
  const select = element.querySelector("select");
  select.addEventListener("change", () => chosen(select.value));
  keepKeys(select);
  return { element, select, line: element.querySelector(".line") };
}

/**
 * Leaves the keys pressed in a select to it, to look for an option by its first letters: ComfyUI has
 * shortcuts of one letter, and Delete would take the node. Those with Ctrl, as for undo, go on.
 * @param {HTMLSelectElement} select
 */
export function keepKeys(select) {
  select.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
  });
}

/**
 * Fills a select, and selects what the node is set to: one of the options, or "custom".
 * @param {HTMLSelectElement} select
 * @param {{value: string, title: string, note: string}[]} options
 * @param {string | undefined} value
 * @param {string} note the tooltip while it is "custom"
 */
export function showOptions(select, options, value, note) {
  const now = options.find((option) => option.value === value);
  const all = now ? options : [...options, { value: "custom", title: "custom", note }];
  select.replaceChildren(...all.map(optionElement));
  select.value = now?.value ?? "custom";
  select.title = now?.note ?? note;
}

/**
 * A piece of a panel's line.
 * @param {string} text
 */
export function words(text) {
  const made = document.createElement("span");
  made.textContent = text;
  made.title = text;
  return made;
}

/**
 * The same for what is wrong.
 * @param {string} text
 */
export function wrongWords(text) {
  const made = words(text);
  made.className = "wrong";
  return made;
}

function optionElement({ value, title, note }) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = title;
  made.title = note;
  return made;
}
