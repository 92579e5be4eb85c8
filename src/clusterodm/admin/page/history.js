// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// What each node did.
import { h, put } from "./dom.js";
import { count } from "./format.js";
import { get } from "./live.js";
import { notice } from "./parts.js";
import { gantt, legend } from "./charts.js";

const SPANS = [[1, "1 hour"], [6, "6 hours"], [24, "1 day"], [168, "7 days"]];

export function history(root) {
  let hours = 1;
  const picture = h("div", { class: "scroll" });
  const buttons = SPANS.map(([value, text]) => h("button", { "aria-pressed": String(value === hours), class: value === hours ? "main" : "", onclick: () => { hours = value; mark(); look(); } }, text));
  const mark = () => buttons.forEach((button, place) => { const on = SPANS[place][0] === hours; button.className = on ? "main" : ""; button.setAttribute("aria-pressed", String(on)); });
  root.replaceChildren(h("h1", {}, "History"), h("div", { class: "tools", role: "group", "aria-label": "How far back" }, buttons),
    h("section", { class: "card" }, picture, legend([["c-run", "running"], ["c-done", "completed"], ["c-fail", "failed"], ["c-lost", "lost, went on elsewhere"], ["c-stop", "canceled"]])));
  async function look() {
    try {
      const found = await get(`history?hours=${hours}`);
      const total = found.lanes.reduce((sum, lane) => sum + lane.bars.length, 0);
      put(picture, found.lanes.length ? gantt(found) : h("p", { class: "empty" }, "No node did anything yet."), !found.complete && h("p", { class: "soft small" }, `Only the latest ${count(total)} attempts are shown.`));
    } catch (error) { notice(error.message, true); }
  }
  look();
  const timer = setInterval(look, 5000);
  return { end: () => clearInterval(timer) };
}
