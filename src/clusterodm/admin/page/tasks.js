// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// All tasks, a page at a time.
import { h, put } from "./dom.js";
import { ago, count, size } from "./format.js";
import { get } from "./live.js";
import { notice, progress, taskRow } from "./parts.js";

const PAGE = 50;
const STATES = [["", "all"], ["receiving,queued,dispatching,running,collecting", "not over"], ["queued", "waiting"], ["dispatching,running,collecting", "on nodes"], ["completed", "completed"], ["failed", "failed"], ["canceled", "canceled"], ["receiving", "uploading"]];

export function tasks(root, query) {
  const wanted = { state: query.get("state") || "", text: query.get("text") || "", offset: 0 };
  let page = null;
  let asked = 0;
  async function look() {
    const turn = ++asked;
    try {
      const found = await get(`tasks?${new URLSearchParams({ state: wanted.state, text: wanted.text, limit: PAGE, offset: wanted.offset })}`);
      if (turn === asked) { page = found; draw(); }
    } catch (error) { notice(error.message, true); }
  }
  const search = h("input", { type: "search", class: "grow", placeholder: "Name, or the beginning of an id  ( / )", "aria-label": "Search", value: wanted.text, id: "search" });
  let typing;
  search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => { wanted.text = search.value; wanted.offset = 0; look(); }, 250); });
  const known = STATES.some(([value]) => value === wanted.state) ? STATES : [...STATES, [wanted.state, wanted.state.replaceAll(",", ", ")]];
  const choice = h("select", { "aria-label": "State", onchange: (event) => { wanted.state = event.target.value; wanted.offset = 0; look(); } },
    known.map(([value, text]) => h("option", { value, selected: value === wanted.state }, text)));
  const list = h("div", {});
  root.replaceChildren(h("h1", {}, "Tasks"), h("div", { class: "tools" }, search, choice), h("section", { class: "card" }, list));

  function turn(by) { wanted.offset = Math.max(0, wanted.offset + by); look(); document.querySelector("#content").focus(); }
  function draw() {
    if (!page) return;
    const rows = page.tasks.map((task) => taskRow(task, (each) => [
      h("td", { class: "soft small" }, each.node || "–"), h("td", {}, progress(each)), h("td", { class: "num small" }, size(each.bytes)),
      h("td", { class: "small soft wide" }, each.committed_at ? ago(each.committed_at) : "not committed")]));
    const last = Math.min(page.total, wanted.offset + PAGE);
    put(list, rows.length ? h("div", { class: "scroll" }, h("table", { class: "stack" }, h("thead", {}, h("tr", {}, ["Task", "State", "Node", "Progress", "Size", "Committed"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows))) : h("p", { class: "empty" }, "No task is like that."),
      h("div", { class: "pager" }, h("span", { class: "soft small" }, page.total ? `${count(wanted.offset + 1)}–${count(last)} of ${count(page.total)}` : ""),
        h("button", { disabled: wanted.offset === 0, onclick: () => turn(-PAGE), "data-fresh": 1 }, "← newer"), h("button", { disabled: last >= page.total, onclick: () => turn(PAGE), "data-fresh": 1 }, "older →")));
  }
  look();
  const timer = setInterval(look, 5000);
  return { each: (kind) => { if (kind === "task") { clearTimeout(typing); typing = setTimeout(look, 400); } }, end: () => clearInterval(timer) };
}
