// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// One look tells whether the cluster is well.
import { h, put } from "./dom.js";
import { count, plural, size, span } from "./format.js";
import { get, known } from "./live.js";
import { guess, meter, nodeState, progress, slots, taskRow } from "./parts.js";
import { legend, throughput, waiting } from "./charts.js";
import { uploads } from "./uploads.js";

const SHOWN = 12;
let charts = null;
let received = null;

export function overview(root) {
  charts = null;
  const look = () => get("charts").then((value) => { charts = value; draw(root); }).catch(() => {});
  look();
  received = uploads(() => draw(root));
  received.look();
  const timers = [setInterval(look, 60000), setInterval(received.look, 5000)];
  let soon;
  draw(root);
  return {
    draw: () => draw(root),
    each: (kind) => { if (kind === "task") { clearTimeout(soon); soon = setTimeout(received.look, 400); } },
    end: () => { clearTimeout(soon); timers.forEach(clearInterval); },
  };
}

function draw(root) {
  if (!known.status) return put(root, h("p", { class: "empty" }, "Looking at the cluster…"));
  const tasks = [...known.tasks.values()];
  const queue = tasks.filter((task) => task.phase === "queued").sort((one, other) => one.position - other.position);
  const active = tasks.filter((task) => !["queued", "receiving"].includes(task.phase)).sort((one, other) => other.committed_at - one.committed_at);
  put(root, h("h1", { class: "hidden" }, "Overview"), problems(), tiles(),
    h("div", { class: "grid2" },
      h("div", {}, running(active), waitingList(queue), received.card()),
      h("div", {}, nodes(), charts && pictures())));
}

function problems() {
  const found = known.status.problems;
  return found.length > 0 && h("section", { class: "card problems", "aria-label": "Problems" }, h("ul", {}, found.map((text) => h("li", {}, text))));
}

function tile(value, text, below) {
  return h("div", { class: "tile" }, h("b", {}, value), h("span", {}, text), below);
}

function tiles() {
  const at = known.status;
  const ended = at.completed + at.failed + at.canceled;
  return h("section", { class: "tiles", "aria-label": "Figures" },
    tile(`${at.nodes_online}/${at.nodes}`, "nodes online", meter(100 * at.nodes_online / Math.max(1, at.nodes), at.nodes_online < at.nodes ? "fail" : "done")),
    tile(`${at.slots_used}/${at.slots}`, "slots used", meter(100 * at.slots_used / Math.max(1, at.slots))),
    tile(count(at.running + at.dispatching + at.collecting), "tasks on nodes"),
    tile(count(at.queued), at.queued ? `waiting, longest ${span(at.longest_wait)}` : "waiting"),
    tile(count(at.receiving), at.receiving ? `uploading, ${size(at.receiving_bytes)}` : "uploading"),
    tile(ended ? `${Math.round(100 * at.completed / ended)} %` : "–", `of ${plural(ended, "ended task")} completed`),
    tile(size(at.held_bytes), `held files, room for ${size(at.room_bytes)}`, meter(100 * at.held_bytes / Math.max(1, at.held_bytes + at.room_bytes), "held")));
}

function running(tasks) {
  const rows = tasks.slice(0, SHOWN).map((task) => taskRow(task, (each) => [h("td", { class: "soft small" }, each.node || "–"), h("td", { class: "wide" }, progress(each))]));
  return card("On nodes", tasks.length, "#/tasks?state=dispatching,running,collecting", rows.length
    ? h("div", { class: "scroll" }, h("table", { class: "stack" }, head("Task", "State", "Node", "Progress"), h("tbody", {}, rows)))
    : h("p", { class: "empty" }, "Nothing runs. A task that is committed starts here within a second."));
}

function waitingList(tasks) {
  const rows = tasks.slice(0, SHOWN).map((task) => taskRow(task, (each) => [h("td", { class: "num" }, String(each.position)), h("td", { class: "num wide" }, guess(each))]));
  return card("Queue", tasks.length, "#/tasks?state=queued", rows.length
    ? h("div", { class: "scroll" }, h("table", { class: "stack" }, head("Task", "State", "Position", "Expected wait"), h("tbody", {}, rows)))
    : h("p", { class: "empty" }, "Nothing waits."));
}

function card(title, total, more, ...inside) {
  return h("section", { class: "card" }, h("header", {}, h("h2", {}, title), h("span", { class: "tag" }, count(total)), total > SHOWN && h("a", { class: "more", href: more }, `all ${count(total)} →`)), inside);
}

const head = (...names) => h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name))));

function nodes() {
  const many = known.nodes.length > SHOWN;
  const inside = many ? [map(), legend([["c-done", "free"], ["c-run", "in use"], ["c-lost", "gets nothing new"], ["c-fail", "offline"]])]
    : h("div", { class: "nodes" }, known.nodes.map((node) => h("a", { class: `node ${node.online ? "" : "offline"}`, href: "#/nodes", "data-key": node.id },
      h("div", { class: "row" }, h("span", { class: "name" }, node.name), nodeState(node)), slots(node))));
  return h("section", { class: "card" }, h("header", {}, h("h2", {}, "Nodes"), h("span", { class: "tag" }, count(known.nodes.length)), h("a", { class: "more", href: "#/nodes" }, "manage →")),
    known.nodes.length ? inside : h("p", { class: "empty" }, "There is no node yet. Tasks are accepted and wait."));
}

function map() {
  return h("div", { class: "map" }, known.nodes.map((node) => {
    const kind = !node.online ? "offline" : node.closed ? "closed" : node.used >= node.slots ? "full" : node.used ? "part" : "";
    const text = `${node.name}: ${node.online ? node.closed || `${node.used} of ${node.slots} used` : "offline"}`;
    return h("a", { class: kind, href: `#/nodes?text=${encodeURIComponent(node.name)}`, title: text, "aria-label": text, "data-key": node.id });
  }));
}

function pictures() {
  return [h("section", { class: "card" }, h("header", {}, h("h2", {}, "Ended tasks, last 24 hours")), throughput(charts), legend([["c-done", "completed"], ["c-fail", "failed"], ["c-stop", "canceled"]])),
    h("section", { class: "card" }, h("header", {}, h("h2", {}, "Wait for a node, last 24 hours"), h("span", { class: "soft small" }, "median")), waiting(charts))];
}
