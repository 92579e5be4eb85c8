// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// All tasks, a page at a time.
/** @import { TaskPage } from "api" */
import { byId, h, put, table } from "./dom.js";
import { ago, count, size } from "./format.js";
import { get } from "./live.js";
import { failed, progress, taskRow } from "./parts.js";

const PAGE = 50;
/** @type {[string, string][]} */
const STATES = [["", "All"], ["receiving,queued,dispatching,running,collecting", "Unfinished"], ["queued", "Queued"], ["dispatching,running,collecting", "On nodes"], ["completed", "Completed"], ["failed", "Failed"], ["canceled", "Canceled"], ["receiving", "Uploading"]];

/**
 * @param {HTMLElement} root
 * @param {URLSearchParams} query
 */
export function tasks(root, query) {
  const state = query.get("state") || "";
  const states = STATES.some(([value]) => value === state) ? STATES : [...STATES, [state, state.replaceAll(",", ", ")]];
  let offset = 0;
  let requests = 0;
  /** @type {TaskPage | null} */
  let page = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let soon;
  const later = (/** @type {number} */ delay) => { clearTimeout(soon); soon = setTimeout(load, delay); };
  const search = h("input", { type: "search", class: "grow", placeholder: "Name or start of an ID  ( / )", "aria-label": "Search", value: query.get("text") || "", id: "search", oninput: () => { offset = 0; later(250); } });
  const filter = h("select", { "aria-label": "State", onchange: () => { offset = 0; load(); } }, states.map(([value, text]) => h("option", { value, selected: value === state }, text)));
  const list = h("div", {});
  root.replaceChildren(h("h1", {}, "Tasks"), h("div", { class: "tools" }, search, filter), h("section", { class: "card" }, list));

  async function load() {
    const request = ++requests;
    try {
      /** @type {TaskPage} */
      const fresh = await get(`tasks?${new URLSearchParams({ state: filter.value, text: search.value, limit: String(PAGE), offset: String(offset) })}`);
      if (request === requests) { page = fresh; draw(page); }
    } catch (error) { failed(error); }
  }
  /** @param {number} by */
  function turn(by) {
    offset = Math.max(0, offset + by);
    load();
    byId("content").focus();
  }
  /** @param {TaskPage} page */
  function draw({ tasks, total }) {
    const rows = tasks.map((task) => taskRow(task, (each) => [
      h("td", { class: "soft small" }, each.node || "–"), h("td", {}, progress(each)), h("td", { class: "num small" }, size(each.bytes)),
      h("td", { class: "small soft wide" }, each.committed_at ? ago(each.committed_at) : "not committed")]));
    const last = Math.min(total, offset + PAGE);
    put(list, rows.length ? table(["Task", "State", "Node", "Progress", "Size", "Committed"], rows, { class: "stack" }) : h("p", { class: "empty" }, "No matching tasks"),
      h("div", { class: "pager" }, h("span", { class: "soft small" }, total ? `${count(offset + 1)}–${count(last)} of ${count(total)}` : ""),
        h("button", { disabled: offset === 0, onclick: () => turn(-PAGE), "data-fresh": 1 }, "← Newer"), h("button", { disabled: last >= total, onclick: () => turn(PAGE), "data-fresh": 1 }, "Older →")));
  }
  load();
  const timer = setInterval(load, 5000);
  return { each: (/** @type {string} */ kind) => { if (kind === "task") later(400); }, end: () => { clearTimeout(soon); clearInterval(timer); } };
}
