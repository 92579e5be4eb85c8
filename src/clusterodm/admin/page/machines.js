// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Machines that were created on demand: what they are, why they are there, what they cost.
import { h, put } from "./dom.js";
import { ago, between, count, plural, span, now, when } from "./format.js";
import { get, known } from "./live.js";
import { ask, order, pill } from "./parts.js";

const KINDS = { ordered: "busy", booting: "busy", ready: "online", draining: "closed", deleting: "closed", gone: "offline" };
const histories = new Map();  // of rows that are open, by machine
const money = (value) => value.toFixed(2);

export function machines(root) {
  const here = h("div", {});
  const past = h("div", {});
  const costs = h("div", {});
  const card = (title, inside) => h("section", { class: "card" }, h("header", {}, h("h2", {}, title)), inside);
  root.replaceChildren(h("h1", {}, "Machines"), h("div", { class: "cards" }, card("Now", here), card("What they cost this month", costs), card("Gone", past)));

  let over = new Set();  // asked for, so it may be ahead of what was told
  let gone = [];
  const toggle = async (id) => { if (!histories.delete(id)) histories.set(id, (await get(`machines/${id}`)).history); draw(); };
  function draw() {
    const alive = known.machines.filter((machine) => !over.has(machine.id));
    put(here, alive.length ? table(alive, true, toggle) : h("p", { class: "empty" }, known.status?.providers ? "There is none now; tasks that find no slot get one." : "No provider is configured (--asr)."));
    put(past, gone.length ? table(gone, false, toggle) : h("p", { class: "empty" }, "None was deleted yet."));
  }
  async function later() {
    const [owners, ended] = await Promise.all([get("machines/costs?by=owner"), get("machines/gone")]);
    for (const id of histories.keys()) histories.set(id, (await get(`machines/${id}`)).history);
    gone = ended;
    put(costs, owners.length ? h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Owner", "Time", "Cost"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, owners.map((each) => h("tr", {}, h("td", {}, each.key || "with nothing to do"), h("td", {}, span(each.hours * 3600)), h("td", {}, money(each.amount))))))) : h("p", { class: "empty" }, "Nothing yet."));
    over = new Set(gone.map((machine) => machine.id));
    draw();
  }
  const each = (kind) => { if (kind === "machines") later().catch(() => {}); };
  draw();
  later().catch(() => {});
  return { draw, each };
}

function table(list, alive, toggle) {
  const heads = ["Machine", "State", "Size", "Age", "Cost", alive ? "Tasks" : "Lived", ...(alive ? [""] : [])];
  return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text || h("span", { class: "hidden" }, "Orders"))))),
    h("tbody", {}, list.map((machine) => row(machine, alive, toggle)))));
}

function row(machine, alive, toggle) {
  const tasks = machine.tasks.map((uuid) => h("a", { href: `#/task/${uuid}`, class: "mono" }, (known.tasks.get(uuid)?.name || uuid).slice(0, 24)));
  return h("tr", { "data-key": machine.id },
    h("td", {}, h("span", { class: "mono" }, machine.id), h("br", {}), h("span", { class: "small soft" }, machine.reason), history(machine.id, toggle)),
    h("td", {}, pill(machine.state, KINDS[machine.state]), machine.kept && h("span", { class: "tag" }, "kept")),
    h("td", {}, `${machine.size} in ${machine.location}`, h("br", {}), h("span", { class: "small soft" }, `${machine.provider}${machine.spot ? ", spot" : ""} · up to ${count(machine.max_images)} images`)),
    h("td", {}, ago(machine.ordered_at)),
    h("td", {}, money(machine.cost), machine.price > 0 && h("span", { class: "small soft" }, ` (${machine.price} an hour)`)),
    h("td", {}, alive ? (tasks.length ? tasks : machine.idle_since > 0 ? h("span", { class: "small soft" }, `idle for ${between(machine.idle_since, now())}`) : "–") : between(machine.ordered_at, machine.gone_at)),
    alive && h("td", {}, h("div", { class: "buttons" },
      h("button", { "data-fresh": 1, onclick: () => order("POST", `machines/${machine.id}/${machine.kept ? "release" : "keep"}`) }, machine.kept ? "May go" : "Keep"),
      h("button", { class: "harm", "data-fresh": 1, onclick: () => remove(machine) }, "Delete"))));
}

function history(id, toggle) {
  const lines = histories.get(id);
  const button = h("button", { "data-fresh": 1, "aria-expanded": String(Boolean(lines)), onclick: () => toggle(id).catch(() => {}) }, "History");
  return h("div", {}, button, lines && h("ol", { class: "timeline" }, lines.map((event) =>
    h("li", {}, h("time", { datetime: new Date(event.at * 1000).toISOString() }, when(event.at)), `${event.state}: ${event.text}`))));
}

async function remove(machine) {
  const tasks = machine.tasks.length ? ` ${plural(machine.tasks.length, "task")} will begin again elsewhere.` : "";
  if (await ask({ title: `Delete ${machine.id}?`, text: `Its provider is told to delete it until it is gone.${tasks}`, yes: "Delete it", harm: true })) await order("POST", `machines/${machine.id}/delete`);
}
