// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// One task: why it is as it is, what happened to it, its console as it comes, its files and results.
import { h, put } from "./dom.js";
import { between, count, now, plural, size, span, state, when } from "./format.js";
import { get } from "./live.js";
import { ask, guess, notice, order, pill, progress } from "./parts.js";

const MAX_LINES = 5000;

export function task(root, uuid) {
  let detail = null;
  let line = 0;
  let gone = false;
  const top = h("div", {});
  const facts = h("div", {});
  const side = h("div", {});
  const console_ = h("pre", { class: "console", tabindex: 0, role: "log", "aria-label": "Console" });
  const follow = h("input", { type: "checkbox", checked: true, id: "follow" });
  const lines = h("span", { class: "tag" }, "0");
  root.replaceChildren(top, h("div", { class: "grid2" },
    h("div", {}, facts, h("section", { class: "card" }, h("header", {}, h("h2", {}, "Console"), lines, h("label", { class: "more small", for: "follow" }, follow, " follow")), console_)), side));

  async function look() {
    if (gone) return;
    try {
      detail = await get(`tasks/${uuid}`);
      draw();
    } catch (error) {
      put(root, h("h1", {}, "No such task"), h("p", { class: "empty" }, error.message), h("a", { href: "#/tasks" }, "All tasks"));
      gone = true;
    }
  }
  async function remove() {
    gone = true; // from here on nothing is asked about it
    if (await order("DELETE", `tasks/${uuid}`)) location.hash = "#/tasks";
    else { gone = false; look(); }
  }
  async function read() {
    if (gone) return;
    try {
      const fresh = await get(`tasks/${uuid}/output?line=${line}`);
      if (fresh.length) append(fresh);
    } catch { /* the next look says what is wrong */ }
  }
  function append(fresh) {
    line += fresh.length;
    const made = document.createDocumentFragment();
    for (const text of fresh.slice(-MAX_LINES)) made.append(h("span", { class: text.startsWith("[clusterodm]") ? "ours" : "" }, `${text.replace(/\n+$/, "")}\n`));
    console_.append(made);
    while (console_.childNodes.length > MAX_LINES) console_.firstChild.remove();
    lines.textContent = count(line);
    if (follow.checked) console_.scrollTop = console_.scrollHeight;
  }

  function draw() {
    const about = detail.task;
    put(top, h("h1", {}, about.name || about.uuid), h("p", { class: "soft" }, pill(state(about)), "  ", detail.why), buttons(about));
    put(facts, h("section", { class: "card" }, about.phase === "receiving" ? null : progress(about), h("dl", { class: "facts" }, list(about))), attempts(), options());
    put(side, h("section", { class: "card" }, h("header", {}, h("h2", {}, "Timeline")), h("ol", { class: "timeline" }, detail.timeline.map((event) =>
      h("li", { class: /failed|ended:|given up/.test(event.text) ? "bad" : "" }, h("time", { datetime: new Date(event.at * 1000).toISOString() }, when(event.at)), event.text)))),
      results(about), files("Held files", detail.held_files, "Files stay here until the results are safe."));
  }

  function list(about) {
    const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
    const waits = about.phase === "queued" ? [fact("Position", String(about.position)), fact("Expected wait", guess(about))] : [];
    return [fact("Images", `${count(about.images)} of ${plural(about.files, "file")}`), fact("Size", size(about.bytes)), fact("Owner", about.owner), fact("Priority", String(about.priority)), ...waits,
      fact("Committed", when(about.committed_at)), fact("Node", about.node || "–"), fact("Processing", span(about.processing_seconds)), fact("Ended", when(about.finished_at)),
      fact("Id", h("span", { class: "mono" }, about.uuid)), about.submodel && fact("Kind", "part of a split-merge job")];
  }

  function buttons(about) {
    const over = about.phase === "finished";
    const onNode = ["dispatching", "running", "collecting"].includes(about.phase);
    const act = async (question, method, path, body) => { const given = await ask(question); if (given && await order(method, `tasks/${uuid}${path}`, body?.(given))) look(); };
    return h("div", { class: "actions" },
      about.outcome === "completed" && h("a", { class: "button", href: `api/v1/tasks/${uuid}/download/all.zip`, download: "" }, "Download all.zip"),
      !over && about.phase !== "receiving" && h("button", { onclick: () => act({ title: "Cancel this task?", text: "Its node stops working on it. It can be begun again.", yes: "Cancel the task", harm: true }, "POST", "/cancel") }, "Cancel"),
      (over || onNode) && h("button", { onclick: () => act({ title: over ? "Begin this task again?" : "Give this task to another node?", text: over ? "From the files that its node has, or from the held files." : "What its node has done so far is lost.", yes: over ? "Begin again" : "Move it", harm: onNode }, "POST", "/retry") }, over ? "Begin again" : "Move elsewhere"),
      !over && h("button", { onclick: () => act({ title: "Priority", text: "Higher goes first; 0 is usual.", yes: "Set", fields: [{ name: "priority", label: "Priority", type: "number", value: about.priority, min: -1000, max: 1000, required: true }] }, "POST", "/priority", (given) => ({ priority: Number(given.priority) })) }, "Priority"),
      h("button", { class: "harm", onclick: async () => { if (await ask({ title: "Remove this task?", text: "Its files, console and results are deleted, here and on its node.", yes: "Remove it", harm: true })) remove(); } }, "Remove"));
  }

  function attempts() {
    return detail.attempts.length > 0 && h("section", { class: "card" }, h("header", {}, h("h2", {}, "Attempts"), h("span", { class: "tag" }, count(detail.attempts.length))),
      h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["", "Node", "From", "Took", "How it went"].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, detail.attempts.map((each) => h("tr", {}, h("td", { class: "num" }, String(each.number)), h("td", {}, each.node), h("td", { class: "small" }, when(each.started_at)),
          h("td", { class: "small" }, between(each.started_at, each.ended_at || detail.task.finished_at || now())), h("td", { class: "small" }, each.reason || each.stage)))))));
  }

  function options() {
    return detail.options.length > 0 && h("section", { class: "card" }, h("header", {}, h("h2", {}, "Options")), h("p", { class: "mono small" }, detail.options.map((each) => `${each.name}=${each.value}`).join("  ")));
  }

  function results(about) {
    if (about.outcome !== "completed") return null;
    if (!detail.results.length) return h("section", { class: "card" }, h("header", {}, h("h2", {}, "Results")), h("p", { class: "empty" }, `They are on ${detail.results_at}.`));
    return files("Results", detail.results, "", (file) => `api/v1/tasks/${uuid}/download/${file.name.split("/").map(encodeURIComponent).join("/")}`);
  }

  function files(title, found, text, link) {
    return h("section", { class: "card" }, h("header", {}, h("h2", {}, title), h("span", { class: "tag" }, count(found.length))), text && h("p", { class: "soft small" }, text),
      h("div", { class: "files" }, h("table", {}, h("tbody", {}, found.map((file) => h("tr", {}, h("td", {}, link ? h("a", { href: link(file), download: "" }, file.name) : file.name), h("td", { class: "num small soft" }, size(file.size))))))));
  }

  look();
  read();
  const timer = setInterval(read, 1000);
  const slow = setInterval(look, 3000);
  return { each: (kind, value) => { if (kind === "task" && value.uuid === uuid) look(); }, end: () => { gone = true; clearInterval(timer); clearInterval(slow); } };
}
