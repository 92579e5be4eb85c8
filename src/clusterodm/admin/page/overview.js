// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// The state of the cluster at a glance.
/** @import { Charts, ClusterStatus, NodeView, TaskView } from "api" */
/** @import { Child } from "./dom.js" */
import { legend, queueWait, throughput } from "./charts.js";
import { h, put, table } from "./dom.js";
import { count, plural, size, span } from "./format.js";
import { cluster, get } from "./live.js";
import { estimate, meter, nodeState, progress, slots, taskRow } from "./parts.js";
import { uploads } from "./uploads.js";

const SHOWN = 12;

/** @param {HTMLElement} root */
export function overview(root) {
  /** @type {Charts | null} */
  let charts = null;
  const received = uploads(draw);
  const loadCharts = () => get("charts").then((value) => { charts = value; draw(); }).catch(() => {}); // it is called again in a minute
  function draw() {
    if (!cluster.status) return put(root, h("p", { class: "empty" }, "Loading…"));
    const tasks = [...cluster.tasks.values()];
    const queue = tasks.filter((task) => task.phase === "queued").sort((one, other) => one.position - other.position);
    const active = tasks.filter((task) => !["queued", "receiving"].includes(task.phase)).sort((one, other) => other.committed_at - one.committed_at);
    put(root, h("h1", { class: "hidden" }, "Overview"), problems(cluster.status.problems), tiles(cluster.status),
      h("div", { class: "grid2" },
        h("div", {}, activeTasks(active), queuedTasks(queue), received.card()),
        h("div", {}, nodes(), charts && figures(charts))));
  }
  draw();
  loadCharts();
  received.load();
  const timers = [setInterval(loadCharts, 60000), setInterval(received.load, 5000)];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let soon;
  return {
    draw,
    each: (/** @type {string} */ kind) => { if (kind === "task") { clearTimeout(soon); soon = setTimeout(received.load, 400); } },
    end: () => { clearTimeout(soon); for (const timer of timers) clearInterval(timer); },
  };
}

/** @param {string[]} texts */
function problems(texts) {
  return texts.length > 0 && h("section", { class: "card problems", "aria-label": "Problems" }, h("ul", {}, texts.map((text) => h("li", {}, text))));
}

/**
 * @param {string} value
 * @param {string} text
 * @param {Child} [below]
 */
function tile(value, text, below) {
  return h("div", { class: "tile" }, h("b", {}, value), h("span", {}, text), below);
}

/** @param {ClusterStatus} status */
function tiles(status) {
  const finished = status.completed + status.failed + status.canceled;
  return h("section", { class: "tiles", "aria-label": "Figures" },
    tile(`${status.nodes_online}/${status.nodes}`, "nodes online", meter(100 * status.nodes_online / Math.max(1, status.nodes), status.nodes_online < status.nodes ? "fail" : "done")),
    tile(`${status.slots_used}/${status.slots}`, "slots used", meter(100 * status.slots_used / Math.max(1, status.slots))),
    tile(count(status.running + status.dispatching + status.collecting), "tasks on nodes"),
    tile(count(status.queued), status.queued ? `queued, longest wait ${span(status.longest_wait)}` : "queued"),
    tile(count(status.receiving), status.receiving ? `uploading, ${size(status.receiving_bytes)}` : "uploading"),
    tile(finished ? `${Math.round(100 * status.completed / finished)} %` : "–", `of ${plural(finished, "finished task")} completed`),
    tile(size(status.held_bytes), `held files, ${size(status.room_bytes)} free`, meter(100 * status.held_bytes / Math.max(1, status.held_bytes + status.room_bytes), "held")));
}

/** @param {TaskView[]} tasks */
function activeTasks(tasks) {
  const rows = tasks.slice(0, SHOWN).map((task) => taskRow(task, (each) => [h("td", { class: "soft small" }, each.node || "–"), h("td", { class: "wide" }, progress(each))]));
  return card("On nodes", tasks.length, "#/tasks?state=dispatching,running,collecting",
    rows.length ? table(["Task", "State", "Node", "Progress"], rows, { class: "stack" }) : h("p", { class: "empty" }, "No active tasks"));
}

/** @param {TaskView[]} tasks */
function queuedTasks(tasks) {
  const rows = tasks.slice(0, SHOWN).map((task) => taskRow(task, (each) => [h("td", { class: "num" }, String(each.position)), h("td", { class: "num wide" }, estimate(each))]));
  return card("Queue", tasks.length, "#/tasks?state=queued",
    rows.length ? table(["Task", "State", "Position", "Expected wait"], rows, { class: "stack" }) : h("p", { class: "empty" }, "The queue is empty"));
}

/**
 * @param {string} title
 * @param {number} total
 * @param {string} more
 * @param {Child} content
 */
function card(title, total, more, content) {
  return h("section", { class: "card" }, h("header", {}, h("h2", {}, title), h("span", { class: "tag" }, count(total)), total > SHOWN && h("a", { class: "more", href: more }, `View all ${count(total)} →`)), content);
}

function nodes() {
  const content = cluster.nodes.length > SHOWN ? [map(), legend([["c-done", "free"], ["c-run", "in use"], ["c-lost", "not accepting tasks"], ["c-fail", "offline"]])]
    : h("div", { class: "nodes" }, cluster.nodes.map((node) => h("a", { class: `node ${node.online ? "" : "offline"}`, href: "#/nodes", "data-key": node.id },
      h("div", { class: "row" }, h("span", { class: "name" }, node.name), nodeState(node)), slots(node))));
  return h("section", { class: "card" }, h("header", {}, h("h2", {}, "Nodes"), h("span", { class: "tag" }, count(cluster.nodes.length)), h("a", { class: "more", href: "#/nodes" }, "Manage →")),
    cluster.nodes.length ? content : h("p", { class: "empty" }, "No nodes yet. Tasks are accepted and queued."));
}

/** @param {NodeView} node */
function use(node) {
  if (!node.online) return "offline";
  if (node.closed) return "closed";
  if (node.used >= node.slots) return "full";
  return node.used ? "part" : "";
}

function map() {
  return h("div", { class: "map" }, cluster.nodes.map((node) => {
    const text = `${node.name}: ${node.online ? node.closed || `${node.used} of ${node.slots} used` : "offline"}`;
    return h("a", { class: use(node), href: `#/nodes?text=${encodeURIComponent(node.name)}`, title: text, "aria-label": text, "data-key": node.id });
  }));
}

/** @param {Charts} charts */
function figures(charts) {
  return [h("section", { class: "card" }, h("header", {}, h("h2", {}, "Finished tasks, last 24 hours")), throughput(charts), legend([["c-done", "completed"], ["c-fail", "failed"], ["c-stop", "canceled"]])),
    h("section", { class: "card" }, h("header", {}, h("h2", {}, "Queue wait, last 24 hours"), h("span", { class: "soft small" }, "median")), queueWait(charts))];
}
