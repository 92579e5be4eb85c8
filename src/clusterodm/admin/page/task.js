// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// One task: why it is in its state, its timeline, live console, files and results.
/** @import { FileView, TaskDetail, TaskView } from "api" */
/** @import { Question } from "./parts.js" */
import { h, put, table } from "./dom.js";
import { between, count, now, plural, size, span, state, when } from "./format.js";
import { get } from "./live.js";
import { ask, command, estimate, pill, progress } from "./parts.js";

const MAX_LINES = 5000;

/**
 * @param {HTMLElement} root
 * @param {string} uuid
 */
export function task(root, uuid) {
  let gone = false;
  const top = h("div", {});
  const facts = h("div", {});
  const side = h("div", {});
  const console = makeConsole();
  root.replaceChildren(top, h("div", { class: "grid2" }, h("div", {}, facts, console.card), side));

  async function load() {
    if (gone) return;
    try {
      draw(await get(`tasks/${uuid}`));
    } catch (error) {
      put(root, h("h1", {}, "Task not found"), h("p", { class: "empty" }, String(error instanceof Error ? error.message : error)), h("a", { href: "#/tasks" }, "All tasks"));
      gone = true;
    }
  }
  async function readConsole() {
    if (gone) return;
    try {
      console.append(await get(`tasks/${uuid}/output?line=${console.length()}`));
    } catch { /* load() shows the error */ }
  }
  async function remove() {
    gone = true; // stop polling it
    if (await command("DELETE", `tasks/${uuid}`)) location.hash = "#/tasks";
    else { gone = false; load(); }
  }
  /**
   * @param {Question} question
   * @param {string} verb
   * @param {(answer: Record<string, string>) => object} [body]
   */
  async function act(question, verb, body) {
    const answer = await ask(question);
    if (answer && await command("POST", `tasks/${uuid}/${verb}`, body?.(answer))) load();
  }

  /** @param {TaskDetail} detail */
  function draw(detail) {
    const about = detail.task;
    put(top, h("h1", {}, about.name || about.uuid), h("p", { class: "soft" }, pill(state(about)), "  ", detail.why), buttons(about));
    put(facts, h("section", { class: "card" }, about.phase === "receiving" ? null : progress(about), h("dl", { class: "facts" }, list(about))), attempts(detail), options(detail));
    put(side, timeline(detail), results(detail), files("Held files", detail.held_files, "Kept until the results are safe."));
  }

  /** @param {TaskView} about */
  function buttons(about) {
    const over = about.phase === "finished";
    const onNode = ["dispatching", "running", "collecting"].includes(about.phase);
    const cancel = () => act({ title: "Cancel this task?", text: "Its node stops processing it. It can be restarted later.", yes: "Cancel task", no: "Keep task", harm: true }, "cancel");
    const restart = () => act({ title: "Restart this task?", text: "It restarts from the files on its node, or from the held files.", yes: "Restart task" }, "retry");
    const move = () => act({ title: "Move this task to another node?", text: "Its progress on the current node is lost.", yes: "Move task", harm: true }, "retry");
    const prioritise = () => act({ title: "Priority", text: "Higher values run first; the default is 0.", yes: "Set", fields: [{ name: "priority", label: "Priority", type: "number", value: about.priority, min: -1000, max: 1000, required: true }] }, "priority", (answer) => ({ priority: Number(answer.priority) }));
    const confirmRemoval = async () => { if (await ask({ title: "Remove this task?", text: "Its files, console and results are deleted, in the cluster and on its node.", yes: "Remove task", harm: true })) remove(); };
    return h("div", { class: "actions" },
      about.outcome === "completed" && h("a", { class: "button", href: `api/v1/tasks/${uuid}/download/all.zip`, download: "" }, "Download all.zip"),
      !over && about.phase !== "receiving" && h("button", { onclick: cancel }, "Cancel"),
      over && h("button", { onclick: restart }, "Restart"),
      onNode && h("button", { onclick: move }, "Move to another node"),
      !over && h("button", { onclick: prioritise }, "Priority"),
      h("button", { class: "harm", onclick: confirmRemoval }, "Remove"));
  }

  /** @param {TaskDetail} detail */
  function results(detail) {
    if (detail.task.outcome !== "completed") return null;
    if (!detail.results.length) return card("Results", null, h("p", { class: "empty" }, `Stored on ${detail.results_at}`));
    return files("Results", detail.results, "", (file) => `api/v1/tasks/${uuid}/download/${file.name.split("/").map(encodeURIComponent).join("/")}`);
  }

  load();
  readConsole();
  const timers = [setInterval(readConsole, 1000), setInterval(load, 3000)];
  return {
    each: (/** @type {string} */ kind, /** @type {TaskView} */ value) => { if (kind === "task" && value.uuid === uuid) load(); },
    end: () => { gone = true; for (const timer of timers) clearInterval(timer); },
  };
}

function makeConsole() {
  let length = 0;
  const output = h("pre", { class: "console", tabindex: 0, role: "log", "aria-label": "Console" });
  const follow = h("input", { type: "checkbox", checked: true, id: "follow" });
  const lines = h("span", { class: "tag" }, "0");
  const card = h("section", { class: "card" }, h("header", {}, h("h2", {}, "Console"), lines, h("label", { class: "more small", for: "follow" }, follow, " Follow")), output);
  /** @param {string[]} fresh */
  function append(fresh) {
    if (!fresh.length) return;
    length += fresh.length;
    output.append(...fresh.slice(-MAX_LINES).map((text) => h("span", { class: text.startsWith("[clusterodm]") ? "cluster" : "" }, `${text.replace(/\n+$/, "")}\n`)));
    while (output.childNodes.length > MAX_LINES) output.firstChild?.remove();
    lines.textContent = count(length);
    if (follow.checked) output.scrollTop = output.scrollHeight;
  }
  return { card, append, length: () => length };
}

/**
 * @param {string} title
 * @param {number | null} total
 * @param {...import("./dom.js").Child} content
 */
function card(title, total, ...content) {
  return h("section", { class: "card" }, h("header", {}, h("h2", {}, title), total !== null && h("span", { class: "tag" }, count(total))), ...content);
}

/** @param {TaskView} about */
function list(about) {
  const fact = (/** @type {string} */ name, /** @type {string | Node} */ value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  const wait = about.phase === "queued" ? [fact("Position", String(about.position)), fact("Expected wait", estimate(about))] : [];
  return [fact("Images", `${count(about.images)} of ${plural(about.files, "file")}`), fact("Size", size(about.bytes)), fact("Owner", about.owner), fact("Priority", String(about.priority)), ...wait,
    fact("Committed", when(about.committed_at)), fact("Node", about.node || "–"), fact("Processing time", span(about.processing_seconds)), fact("Finished", when(about.finished_at)),
    fact("ID", h("span", { class: "mono" }, about.uuid)), about.submodel && fact("Kind", "split-merge submodel")];
}

/** @param {TaskDetail} detail */
function timeline({ timeline }) {
  return card("Timeline", null, h("ol", { class: "timeline" }, timeline.map((event) =>
    h("li", { class: /failed|ended:|given up/.test(event.text) ? "bad" : "" }, h("time", { datetime: new Date(event.at * 1000).toISOString() }, when(event.at)), event.text))));
}

/** @param {TaskDetail} detail */
function attempts({ task, attempts }) {
  return attempts.length > 0 && card("Attempts", attempts.length, table(["#", "Node", "Started", "Duration", "Outcome"], attempts.map((each) => h("tr", {},
    h("td", { class: "num" }, String(each.number)), h("td", {}, each.node), h("td", { class: "small" }, when(each.started_at)),
    h("td", { class: "small" }, between(each.started_at, each.ended_at || task.finished_at || now())), h("td", { class: "small" }, each.reason || each.stage)))));
}

/** @param {TaskDetail} detail */
function options({ options }) {
  return options.length > 0 && card("Options", null, h("p", { class: "mono small" }, options.map((each) => `${each.name}=${each.value}`).join("  ")));
}

/**
 * @param {string} title
 * @param {FileView[]} all
 * @param {string} text
 * @param {(file: FileView) => string} [link]
 */
function files(title, all, text, link) {
  const rows = all.map((file) => h("tr", {}, h("td", {}, link ? h("a", { href: link(file), download: "" }, file.name) : file.name), h("td", { class: "num small soft" }, size(file.size))));
  return card(title, all.length, text && h("p", { class: "soft small" }, text), h("div", { class: "files" }, h("table", {}, h("tbody", {}, rows))));
}
