// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Nodes: their state and tasks, and the commands for them.
/** @import { NodeView } from "api" */
/** @import { Question } from "./parts.js" */
import { h, put } from "./dom.js";
import { ago, count, plural, size, when } from "./format.js";
import { cluster, send } from "./live.js";
import { ask, command, failed, meter, nodeState, notice, slots, slotText, taskLinks } from "./parts.js";

const PAGE = 60;
/** @type {[string, string, (node: NodeView) => boolean][]} */
const FILTERS = [
  ["", "All", () => true],
  ["free", "With free slots", (node) => node.online && !node.closed && node.used + node.reserved < node.slots],
  ["closed", "Not accepting tasks", (node) => Boolean(node.closed)],
  ["offline", "Offline", (node) => !node.online],
];

/**
 * @param {HTMLElement} root
 * @param {URLSearchParams} query
 */
export function nodes(root, query) {
  let page = 0;
  const search = h("input", { type: "search", class: "grow", id: "search", placeholder: "Name or label  ( / )", "aria-label": "Search", value: query.get("text") || "", oninput: () => { page = 0; draw(); } });
  const filter = h("select", { "aria-label": "State", onchange: () => { page = 0; draw(); } }, FILTERS.map(([value, text]) => h("option", { value }, text)));
  const list = h("div", {});
  root.replaceChildren(h("h1", {}, "Nodes"),
    h("div", { class: "tools" }, search, filter, h("button", { class: "main", onclick: add }, "Add node"), h("button", { onclick: () => command("POST", "nodes/update") }, "Refresh all")), list);

  /** @param {NodeView} node */
  function matches(node) {
    const text = `${node.name} ${Object.entries(node.labels).flat().join(" ")}`.toLowerCase();
    return FILTERS[filter.selectedIndex][2](node) && text.includes(search.value.toLowerCase());
  }
  function draw() {
    const matching = cluster.nodes.filter(matches);
    const pages = Math.max(1, Math.ceil(matching.length / PAGE));
    page = Math.min(page, pages - 1);
    const turn = (/** @type {number} */ by, /** @type {string} */ label, /** @type {string} */ arrow) =>
      h("button", { disabled: page + by < 0 || page + by >= pages, onclick: () => { page += by; draw(); }, "aria-label": label, "data-fresh": 1 }, arrow);
    put(list, h("div", { class: "nodes" }, matching.slice(page * PAGE, (page + 1) * PAGE).map(card)), !matching.length && h("p", { class: "empty" }, cluster.nodes.length ? "No matching nodes" : "No nodes yet"),
      pages > 1 && h("div", { class: "pager" }, h("span", { class: "soft small" }, `${plural(matching.length, "node")}, page ${page + 1} of ${pages}`), turn(-1, "Previous page", "←"), turn(1, "Next page", "→")));
  }
  draw();
  return { draw };
}

/** @param {NodeView} node */
function memory(node) {
  const used = 100 * (1 - node.available_memory / node.total_memory);
  return h("div", {}, meter(used, used > 90 ? "fail" : "held", `${Math.round(used)} % of memory used`),
    h("span", { class: "small soft" }, `${size(node.available_memory)} of ${size(node.total_memory)} free · ${plural(node.cpu_cores, "core")}`));
}

/** @param {NodeView} node */
function engine(node) {
  if (node.online) return `${node.engine} ${node.engine_version} · API ${node.api_version}`;
  return `${node.error || "no response"} · ${node.seen_at ? `last seen ${ago(node.seen_at)}` : "never seen"}`;
}

/** @param {NodeView} node */
function card(node) {
  const tags = [...(node.origin === "configured" ? [] : [node.origin]), ...Object.entries(node.labels).map(([name, value]) => `${name}=${value}`)];
  return h("article", { class: `node ${node.online ? "" : "offline"}`, "data-key": node.id, "aria-label": node.name },
    h("div", { class: "row" }, h("span", { class: "name" }, node.name), nodeState(node)),
    slots(node),
    h("div", { class: "small soft" }, `${slotText(node)} · ${node.max_images === null ? "no image limit" : `up to ${plural(node.max_images, "image")}`}`),
    node.total_memory > 0 && memory(node),
    h("div", { class: "small soft" }, engine(node)),
    tags.length > 0 && h("div", {}, tags.map((text) => h("span", { class: "tag" }, text)), " "),
    node.ends_at > 0 && h("div", { class: "small soft" }, `shuts down at ${when(node.ends_at)}`),
    node.tasks.length > 0 && h("div", { class: "small" }, taskLinks(node.tasks.slice(0, 4), cluster.tasks)),
    h("div", { class: "buttons" },
      node.locked || node.draining ? act("Unlock", node, "unlock") : act("Lock", node, "lock"),
      !node.draining && act("Drain", node, "drain", { title: `Drain ${node.name}?`, text: "It accepts no new tasks and finishes the ones it has. Its results are then copied to the cluster, so that it can be shut down.", yes: "Drain node" }),
      h("button", { class: "harm", "data-fresh": 1, onclick: () => remove(node) }, "Remove")));
}

/**
 * @param {string} text
 * @param {NodeView} node
 * @param {string} verb
 * @param {Question} [question]
 */
function act(text, node, verb, question) {
  return h("button", { "data-fresh": 1, onclick: async () => { if (!question || await ask(question)) await command("POST", `nodes/${node.id}/${verb}`); } }, text);
}

/** @param {NodeView} node */
async function remove(node) {
  const tasks = node.tasks.length ? ` It finishes its ${node.tasks.length === 1 ? "running task" : `${count(node.tasks.length)} running tasks`} first.` : "";
  if (await ask({ title: `Remove ${node.name}?`, text: `It accepts no new tasks and disappears from this list.${tasks} Results on it are copied to the cluster.`, yes: "Remove node", harm: true })) await command("DELETE", `nodes/${node.id}`);
}

async function add() {
  const answer = await ask({ title: "Add a node", text: "A NodeODM server that the cluster can reach.", yes: "Add", fields: [
    { name: "host", label: "Host name or address", required: true }, { name: "port", label: "Port", type: "number", value: 3000, min: 1, max: 65535, required: true }, { name: "token", label: "Token (if required)", type: "password" }] });
  if (!answer) return;
  try {
    const node = await send("POST", "nodes", { host: answer.host.trim(), port: Number(answer.port), token: answer.token });
    notice(`${node.name} added`);
  } catch (error) { failed(error); }
}
