// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// The activity of each node over time.
/** @import { History } from "api" */
import { gantt, legend } from "./charts.js";
import { h, put } from "./dom.js";
import { count } from "./format.js";
import { get } from "./live.js";
import { failed } from "./parts.js";

/** @type {[number, string][]} */
const RANGES = [[1, "1 hour"], [6, "6 hours"], [24, "1 day"], [168, "7 days"]];

/** @param {HTMLElement} root */
export function history(root) {
  let hours = 1;
  const chart = h("div", { class: "scroll" });
  const buttons = RANGES.map(([value, text]) => h("button", { onclick: () => { hours = value; mark(); load(); } }, text));
  const mark = () => buttons.forEach((button, index) => {
    const chosen = RANGES[index][0] === hours;
    button.className = chosen ? "main" : "";
    button.setAttribute("aria-pressed", String(chosen));
  });
  async function load() {
    try {
      /** @type {History} */
      const fresh = await get(`history?hours=${hours}`);
      const attempts = fresh.lanes.reduce((sum, lane) => sum + lane.bars.length, 0);
      put(chart, fresh.lanes.length ? gantt(fresh) : h("p", { class: "empty" }, "No activity in this period"),
        !fresh.complete && h("p", { class: "soft small" }, `Only the latest ${count(attempts)} attempts are shown`));
    } catch (error) { failed(error); }
  }
  root.replaceChildren(h("h1", {}, "History"), h("div", { class: "tools", role: "group", "aria-label": "Time range" }, buttons),
    h("section", { class: "card" }, chart, legend([["c-run", "running"], ["c-done", "completed"], ["c-fail", "failed"], ["c-lost", "lost, retried elsewhere"], ["c-stop", "canceled"]])));
  mark();
  load();
  const timer = setInterval(load, 5000);
  return { end: () => clearInterval(timer) };
}
