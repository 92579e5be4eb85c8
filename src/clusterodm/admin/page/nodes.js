// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Nodes: what they are, what they do, and what can be done with them.
import { h, put } from "./dom.js";
import { ago, count, plural, size, when } from "./format.js";
import { known } from "./live.js";
import { ask, meter, nodeState, notice, order, slots } from "./parts.js";
import { send } from "./live.js";

const PAGE = 60;

export function nodes(root, query) {
  const wanted = { text: query.get("text") || "", state: "", page: 0 };
  const search = h("input", { type: "search", class: "grow", id: "search", placeholder: "Name or label  ( / )", "aria-label": "Search", value: wanted.text, oninput: (event) => { wanted.text = event.target.value; wanted.page = 0; draw(); } });
  const choice = h("select", { "aria-label": "State", onchange: (event) => { wanted.state = event.target.value; wanted.page = 0; draw(); } },
    [["", "all"], ["free", "with free slots"], ["closed", "get nothing new"], ["offline", "offline"]].map(([value, text]) => h("option", { value }, text)));
  const list = h("div", {});
  root.replaceChildren(h("h1", {}, "Nodes"), h("div", { class: "tools" }, search, choice, h("button", { class: "main", onclick: add }, "Add a node"), h("button", { onclick: () => order("POST", "nodes/update") }, "Ask all now")), list);

  function matches(node) {
    const words = `${node.name} ${Object.entries(node.labels).flat().join(" ")}`.toLowerCase();
    const fits = { "": true, free: node.online && !node.closed && node.used + node.reserved < node.slots, closed: Boolean(node.closed), offline: !node.online }[wanted.state];
    return fits && words.includes(wanted.text.toLowerCase());
  }
  function draw() {
    const found = known.nodes.filter(matches);
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    wanted.page = Math.min(wanted.page, pages - 1);
    const turn = (by) => { wanted.page += by; draw(); };
    put(list, h("div", { class: "nodes" }, found.slice(wanted.page * PAGE, (wanted.page + 1) * PAGE).map(card)), !found.length && h("p", { class: "empty" }, "No node is like that."),
      pages > 1 && h("div", { class: "pager" }, h("span", { class: "soft small" }, `${plural(found.length, "node")}, page ${wanted.page + 1} of ${pages}`),
        h("button", { disabled: wanted.page === 0, onclick: () => turn(-1), "data-fresh": 1 }, "←"), h("button", { disabled: wanted.page >= pages - 1, onclick: () => turn(1), "data-fresh": 1 }, "→")));
  }
  draw();
  return { draw };
}

function card(node) {
  const used = node.total_memory ? 100 * (1 - node.available_memory / node.total_memory) : 0;
  const terms = [node.origin !== "configured" && node.origin, ...Object.entries(node.labels).map(([name, value]) => `${name}=${value}`)].filter(Boolean);
  return h("article", { class: `node ${node.online ? "" : "offline"}`, "data-key": node.id, "aria-label": node.name },
    h("div", { class: "row" }, h("span", { class: "name" }, node.name), nodeState(node)),
    slots(node),
    h("div", { class: "small soft" }, `${node.used} of ${plural(node.slots, "slot")} used${node.reserved ? `, ${node.reserved} on the way` : ""} · ${node.max_images === null ? "any number of images" : `up to ${count(node.max_images)} images`}`),
    node.total_memory > 0 && h("div", {}, meter(used, used > 90 ? "fail" : "held", `${Math.round(used)} % of memory used`), h("span", { class: "small soft" }, `${size(node.available_memory)} of ${size(node.total_memory)} free · ${node.cpu_cores} cores`)),
    h("div", { class: "small soft" }, node.online ? `${node.engine} ${node.engine_version} · API ${node.api_version}` : `${node.error || "no answer"} · seen ${ago(node.seen_at)}`),
    terms.length > 0 && h("div", {}, terms.map((text) => h("span", { class: "tag" }, text)), " "),
    node.ends_at > 0 && h("div", { class: "small soft" }, `ends ${when(node.ends_at)}`),
    node.tasks.length > 0 && h("div", { class: "small" }, node.tasks.slice(0, 4).map((uuid) => [h("a", { href: `#/task/${uuid}`, class: "mono" }, (known.tasks.get(uuid)?.name || uuid).slice(0, 30)), " "])),
    h("div", { class: "buttons" },
      node.locked || node.draining ? act("Unlock", node, "unlock") : act("Lock", node, "lock"),
      !node.draining && act("Drain", node, "drain", { title: `Drain ${node.name}?`, text: "It gets nothing new, its tasks finish, and its results are brought here, so that it can be switched off.", yes: "Drain it" }),
      h("button", { class: "harm", "data-fresh": 1, onclick: () => remove(node) }, "Remove")));
}

function act(text, node, verb, question) {
  return h("button", { "data-fresh": 1, onclick: async () => { if (!question || await ask(question)) await order("POST", `nodes/${node.id}/${verb}`); } }, text);
}

async function remove(node) {
  const tasks = node.tasks.length ? ` ${plural(node.tasks.length, "task")} will finish there first.` : "";
  if (await ask({ title: `Remove ${node.name}?`, text: `It gets nothing new and is no longer shown.${tasks} Results that are there are brought here.`, yes: "Remove it", harm: true })) await order("DELETE", `nodes/${node.id}`);
}

async function add() {
  const given = await ask({ title: "Add a node", text: "A NodeODM server that this machine can reach.", yes: "Add it", fields: [
    { name: "host", label: "Host name or address", required: true }, { name: "port", label: "Port", type: "number", value: 3000, min: 1, max: 65535, required: true }, { name: "token", label: "Token, if it wants one", type: "password" }] });
  if (!given) return;
  try {
    const node = await send("POST", "nodes", { host: given.host.trim(), port: Number(given.port), token: given.token });
    notice(`${node.name} is added`);
  } catch (error) { notice(error.message, true); }
}
