// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Pieces that several pages are made of.
import { h } from "./dom.js";
import { send } from "./live.js";
import { plural, span, state } from "./format.js";

export function notice(text, bad = false) {
  const line = h("p", { class: bad ? "bad" : "" }, text);
  document.querySelector("#notices").append(line);
  setTimeout(() => line.remove(), bad ? 9000 : 4000);
}

// Ask before something is done; the fields' values, or null when nothing is to be done.
export function ask({ title, text, yes, harm = false, fields = [] }) {
  const dialog = document.querySelector("#ask");
  return new Promise((resolve) => {
    const inputs = fields.map((field) => h("input", { name: field.name, value: field.value ?? "", type: field.type || "text", required: field.required, min: field.min, max: field.max, autocomplete: "off" }));
    const form = h("form", { method: "dialog", onsubmit: () => { answer = Object.fromEntries(inputs.map((input) => [input.name, input.value])); } },
      h("h2", { id: "ask-title" }, title),
      text && h("p", {}, text),
      inputs.map((input, place) => h("label", {}, fields[place].label, input)),
      h("div", { class: "buttons" },
        h("button", { type: "button", onclick: () => dialog.close() }, "Keep as it is"),
        h("button", { class: `main ${harm ? "harm" : ""}` }, yes)));
    let answer = null;
    dialog.replaceChildren(form);
    dialog.onclose = () => resolve(answer);
    dialog.showModal();
    (inputs[0] || form.querySelector(harm ? "button[type=button]" : "button.main")).focus();
  });
}

export async function order(method, path, body) {
  try {
    const done = await send(method, path, body);
    notice(done.text || "Done");
    return done;
  } catch (error) {
    notice(error.message, true);
    return null;
  }
}

export const pill = (text, kind = text) => h("span", { class: `pill ${kind}` }, text);

export function meter(share, kind = "", label = "") {
  const width = `${Math.max(0, Math.min(100, share))}%`;
  return h("div", { class: "meter", role: "img", "aria-label": label || width }, h("i", { class: kind, style: { width } }));
}

export function progress(task) {
  const kind = { completed: "done", failed: "fail", canceled: "stop" }[task.outcome] || "";
  return h("div", { class: "progress" }, meter(task.progress, kind, `${Math.round(task.progress)} %`), h("span", { class: "small soft" }, `${Math.round(task.progress)} %`));
}

export function taskRow(task, cells) {
  const waits = task.phase === "queued" && h("span", { class: "small soft" }, task.wait || "");
  return h("tr", { "data-key": task.uuid },
    h("td", {}, h("a", { class: "name", href: `#/task/${task.uuid}`, title: task.name }, task.name || task.uuid),
      h("span", { class: "small soft" }, `${plural(task.images, "image")}${task.attempt > 1 ? ` · attempt ${task.attempt}` : ""}${task.priority ? ` · priority ${task.priority}` : ""}`), waits && h("br", {}), waits),
    h("td", {}, pill(state(task))),
    cells(task));
}

export function slots(node) {
  const boxes = Math.min(node.slots, 32);
  const used = Math.min(boxes, node.used);
  const reserved = Math.min(boxes - used, node.reserved);
  const kinds = [...Array(used).fill("used"), ...Array(reserved).fill("reserved"), ...Array(boxes - used - reserved).fill("")];
  if (node.used > node.slots) kinds.push("over");
  const label = `${node.used} of ${plural(node.slots, "slot")} used${node.reserved ? `, ${node.reserved} reserved` : ""}`;
  return h("div", { class: "slots", role: "img", "aria-label": label, title: label }, kinds.map((kind) => h("i", { class: kind })));
}

export function nodeState(node) {
  if (!node.online) return pill("offline", "offline");
  if (node.drained) return pill("drained", "closed");
  if (node.closed) return pill(node.closed, "closed");
  return pill(node.used >= node.slots ? "full" : "online", node.used >= node.slots ? "busy" : "online");
}

export const guess = (task) => (task.expected_wait === null || task.expected_wait === undefined ? "–" : `≈ ${span(task.expected_wait)}`);
