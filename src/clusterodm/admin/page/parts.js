// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Parts that several pages share.
/** @import { NodeView, TaskView } from "api" */
/** @import { Child } from "./dom.js" */
import { byId, h } from "./dom.js";
import { plural, span, state } from "./format.js";
import { send } from "./live.js";

/** @typedef {{ name: string, label: string, value?: string | number, type?: string, required?: boolean, min?: number, max?: number }} Field */
/** @typedef {{ title: string, yes: string, no?: string, text?: string, harm?: boolean, fields?: Field[] }} Question */

/**
 * @param {string} text
 * @param {boolean} [bad]
 */
export function notice(text, bad = false) {
  const line = h("p", { class: bad ? "bad" : "" }, text);
  byId("notices").append(line);
  setTimeout(() => line.remove(), bad ? 9000 : 4000);
}

/**
 * Ask for confirmation. Resolve to the fields' values, or to null if the dialog was dismissed.
 * @param {Question} question
 * @returns {Promise<Record<string, string> | null>}
 */
export function ask({ title, text, yes, no = "Cancel", harm = false, fields = [] }) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("ask"));
  return new Promise((resolve) => {
    /** @type {Record<string, string> | null} */
    let answer = null;
    const inputs = fields.map((field) => h("input", { name: field.name, value: field.value ?? "", type: field.type || "text", required: field.required, min: field.min, max: field.max, autocomplete: "off" }));
    const dismiss = h("button", { type: "button", onclick: () => dialog.close() }, no);
    const confirm = h("button", { class: `main ${harm ? "harm" : ""}` }, yes);
    dialog.replaceChildren(h("form", { method: "dialog", onsubmit: () => { answer = Object.fromEntries(inputs.map((input) => [input.name, input.value])); } },
      h("h2", { id: "ask-title" }, title),
      text && h("p", {}, text),
      inputs.map((input, index) => h("label", {}, fields[index].label, input)),
      h("div", { class: "buttons" }, dismiss, confirm)));
    dialog.onclose = () => resolve(answer);
    dialog.showModal();
    (inputs[0] || (harm ? dismiss : confirm)).focus();
  });
}

/**
 * Run an operator's command and show its result. Return null if it failed.
 * @param {string} method
 * @param {string} path
 * @param {object} [body]
 */
export async function command(method, path, body) {
  try {
    const done = await send(method, path, body);
    notice(done.text || "Done");
    return done;
  } catch (error) {
    failed(error);
    return null;
  }
}

/** @param {unknown} error */
export const failed = (error) => notice(error instanceof Error ? error.message : String(error), true);

/**
 * @param {string} text
 * @param {string} [kind]
 */
export const pill = (text, kind = text) => h("span", { class: `pill ${kind}` }, text);

/**
 * @param {number} share
 * @param {string} [kind]
 * @param {string} [label]
 */
export function meter(share, kind = "", label = "") {
  const width = `${Math.max(0, Math.min(100, share))}%`;
  return h("div", { class: "meter", role: "img", "aria-label": label || width }, h("i", { class: kind, style: { width } }));
}

/** @type {Record<string, string>} */
const METERS = { completed: "done", failed: "fail", canceled: "stop" };

/** @param {TaskView} task */
export function progress(task) {
  const text = `${Math.round(task.progress)} %`;
  return h("div", { class: "progress" }, meter(task.progress, METERS[task.outcome || ""] || "", text), h("span", { class: "small soft" }, text));
}

/**
 * @param {TaskView} task
 * @param {(task: TaskView) => Child[]} cells
 */
export function taskRow(task, cells) {
  const wait = task.phase === "queued" && h("span", { class: "small soft" }, task.wait || "");
  return h("tr", { "data-key": task.uuid },
    h("td", {}, h("a", { class: "name", href: `#/task/${task.uuid}`, title: task.name }, task.name || task.uuid),
      h("span", { class: "small soft" }, `${plural(task.images, "image")}${task.attempt > 1 ? ` · attempt ${task.attempt}` : ""}${task.priority ? ` · priority ${task.priority}` : ""}`), wait && h("br", {}), wait),
    h("td", {}, pill(state(task))),
    cells(task));
}

/**
 * Link to tasks by their names.
 * @param {string[]} uuids
 * @param {Map<string, TaskView>} tasks
 */
export const taskLinks = (uuids, tasks) => uuids.map((uuid) => [h("a", { href: `#/task/${uuid}`, class: "mono" }, (tasks.get(uuid)?.name || uuid).slice(0, 30)), " "]);

/** @param {NodeView} node */
export function slots(node) {
  const boxes = Math.min(node.slots, 32);
  const used = Math.min(boxes, node.used);
  const reserved = Math.min(boxes - used, node.reserved);
  /** @type {string[]} */
  const kinds = [...Array(used).fill("used"), ...Array(reserved).fill("reserved"), ...Array(boxes - used - reserved).fill("")];
  if (node.used > node.slots) kinds.push("over");
  const label = slotText(node);
  return h("div", { class: "slots", role: "img", "aria-label": label, title: label }, kinds.map((kind) => h("i", { class: kind })));
}

/** @param {NodeView} node */
export const slotText = (node) => `${node.used} of ${plural(node.slots, "slot")} used${node.reserved ? `, ${node.reserved} reserved` : ""}`;

/** @param {NodeView} node */
export function nodeState(node) {
  if (!node.online) return pill("offline");
  if (node.drained) return pill("drained", "closed");
  if (node.closed) return pill(node.closed, "closed");
  return node.used >= node.slots ? pill("full", "busy") : pill("online");
}

/** @param {TaskView} task */
export const estimate = (task) => (task.expected_wait === null || task.expected_wait === undefined ? "–" : `≈ ${span(task.expected_wait)}`);
