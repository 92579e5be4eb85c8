// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Machines created on demand: their state, why they exist, their cost.
/** @import { CostView, MachineEventView, MachineView } from "api" */
import { h, put, table } from "./dom.js";
import { ago, between, count, now, plural, span, when } from "./format.js";
import { cluster, get } from "./live.js";
import { ask, command, pill, taskLinks } from "./parts.js";

const KINDS = { ordered: "busy", booting: "busy", ready: "online", draining: "closed", deleting: "closed", gone: "offline" };
/** @type {Map<string, MachineEventView[]>} */
const histories = new Map(); // of open rows, by machine
/** @param {number} value */
const money = (value) => value.toFixed(2);

/** @param {HTMLElement} root */
export function machines(root) {
  const active = h("div", {});
  const deleted = h("div", {});
  const costs = h("div", {});
  const card = (/** @type {string} */ title, /** @type {HTMLElement} */ content) => h("section", { class: "card" }, h("header", {}, h("h2", {}, title)), content);
  root.replaceChildren(h("h1", {}, "Machines"), h("div", { class: "cards" }, card("Active", active), card("Cost this month", costs), card("Deleted", deleted)));

  /** @type {MachineView[]} */
  let gone = []; // may be ahead of the last event
  const read = async (/** @type {string} */ id) => histories.set(id, (await get(`machines/${id}`)).history);
  const toggle = async (/** @type {string} */ id) => {
    if (!histories.delete(id)) await read(id);
    draw();
  };
  function draw() {
    const alive = cluster.machines.filter((machine) => !gone.some((each) => each.id === machine.id));
    const empty = cluster.status?.providers ? "No machines. Tasks that find no free slot get one." : "No provider is configured (--asr)";
    put(active, alive.length ? table(["Machine", "State", "Size", "Ordered", "Cost", "Tasks", ""], alive.map((machine) => row(machine, true, toggle))) : h("p", { class: "empty" }, empty));
    put(deleted, gone.length ? table(["Machine", "State", "Size", "Ordered", "Cost", "Lifetime"], gone.map((machine) => row(machine, false, toggle))) : h("p", { class: "empty" }, "No deleted machines yet"));
  }
  async function load() {
    /** @type {[CostView[], MachineView[]]} */
    const [owners, past] = await Promise.all([get("machines/costs?by=owner"), get("machines/gone")]);
    const amounts = owners.map((each) => h("tr", {}, h("td", {}, each.key || "idle"), h("td", {}, span(each.hours * 3600)), h("td", {}, money(each.amount))));
    put(costs, owners.length ? table(["Owner", "Time", "Cost"], amounts) : h("p", { class: "empty" }, "No costs yet"));
    gone = past;
    await Promise.all([...histories.keys()].map(read));
    draw();
  }
  const tryLoad = () => { load().catch(() => {}); }; // the next event tries again
  draw();
  tryLoad();
  return { draw, each: (/** @type {string} */ kind) => { if (kind === "machines") tryLoad(); } };
}

/**
 * @param {MachineView} machine
 * @param {boolean} alive
 * @param {(id: string) => Promise<void>} toggle
 */
function row(machine, alive, toggle) {
  const idle = machine.idle_since > 0 ? h("span", { class: "small soft" }, `idle for ${between(machine.idle_since, now())}`) : "–";
  const work = machine.tasks.length ? taskLinks(machine.tasks, cluster.tasks) : idle;
  return h("tr", { "data-key": machine.id },
    h("td", {}, h("span", { class: "mono" }, machine.id), h("br", {}), h("span", { class: "small soft" }, machine.reason), history(machine.id, toggle)),
    h("td", {}, pill(machine.state, KINDS[machine.state]), machine.kept && h("span", { class: "tag" }, "kept")),
    h("td", {}, `${machine.size} in ${machine.location}`, h("br", {}), h("span", { class: "small soft" }, `${machine.provider}${machine.spot ? ", spot" : ""} · up to ${plural(machine.max_images, "image")}`)),
    h("td", {}, ago(machine.ordered_at)),
    h("td", {}, money(machine.cost), machine.price > 0 && h("span", { class: "small soft" }, ` (${machine.price} per hour)`)),
    h("td", {}, alive ? work : between(machine.ordered_at, machine.gone_at)),
    alive && h("td", {}, h("div", { class: "buttons" },
      h("button", { "data-fresh": 1, onclick: () => command("POST", `machines/${machine.id}/${machine.kept ? "release" : "keep"}`) }, machine.kept ? "Release" : "Keep"),
      h("button", { class: "harm", "data-fresh": 1, onclick: () => remove(machine) }, "Delete"))));
}

/**
 * @param {string} id
 * @param {(id: string) => Promise<void>} toggle
 */
function history(id, toggle) {
  const events = histories.get(id);
  const button = h("button", { "data-fresh": 1, "aria-expanded": String(Boolean(events)), onclick: () => { toggle(id).catch(() => {}); } }, "History");
  return h("div", {}, button, events && h("ol", { class: "timeline" }, events.map((event) =>
    h("li", {}, h("time", { datetime: new Date(event.at * 1000).toISOString() }, when(event.at)), `${event.state}: ${event.text}`))));
}

/** @param {MachineView} machine */
async function remove(machine) {
  const tasks = machine.tasks.length ? ` ${count(machine.tasks.length)} running ${machine.tasks.length === 1 ? "task restarts" : "tasks restart"} elsewhere.` : "";
  if (await ask({ title: `Delete ${machine.id}?`, text: `The provider is asked to delete it until it is gone.${tasks}`, yes: "Delete machine", harm: true })) await command("POST", `machines/${machine.id}/delete`);
}
