// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Pictures: bars by the hour, a line of waits, and what each node did.
import { h, s } from "./dom.js";
import { between, count, now, span, when } from "./format.js";

const hourName = (at) => new Date(at * 1000).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });

function frame(title, width, height, ...children) {
  return s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title, preserveAspectRatio: "xMidYMid meet" }, s("title", {}, title), children);
}

function ticks(hours, x, y) {
  const last = hours.length - 1;
  return hours.filter((_, place) => place % 6 === last % 6).map((hour) => s("text", { x: x(hours.indexOf(hour)) + (hour === hours[last] ? 12 : 0), y, "text-anchor": hour === hours[last] ? "end" : "middle" }, hourName(hour.at)));
}

export function throughput(charts) {
  const [width, height, left, bottom] = [640, 190, 34, 24];
  const hours = charts.hours;
  const most = Math.max(4, ...hours.map((hour) => hour.completed + hour.failed + hour.canceled));
  const step = (width - left) / hours.length;
  const y = (value) => (height - bottom) * (1 - value / most) + 6 * (value / most);
  const bars = hours.map((hour, place) => {
    let base = 0;
    return [["completed", "c-done"], ["failed", "c-fail"], ["canceled", "c-stop"]].map(([key, kind]) => {
      const top = base + hour[key];
      const box = hour[key] ? s("rect", { x: left + place * step + 2, width: step - 4, y: y(top), height: y(base) - y(top), rx: 2, class: kind }, s("title", {}, `${hourName(hour.at)}: ${hour[key]} ${key}`)) : null;
      base = top;
      return box;
    });
  });
  const lines = [0, most / 2, most].map((value) => [s("line", { class: "axis", x1: left, x2: width, y1: y(value), y2: y(value) }), s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, count(Math.round(value)))]);
  return [frame("Tasks that ended, by the hour", width, height, lines, bars, ticks(hours, (place) => left + (place + .5) * step, height - 6)),
    asTable("Tasks that ended, by the hour", ["Hour", "Completed", "Failed", "Canceled"], hours.map((hour) => [hourName(hour.at), hour.completed, hour.failed, hour.canceled]))];
}

export function waiting(charts) {
  const [width, height, left, bottom] = [640, 190, 46, 24];
  const hours = charts.hours;
  const most = Math.max(10, ...hours.map((hour) => hour.wait || 0));
  const step = (width - left) / hours.length;
  const x = (place) => left + (place + .5) * step;
  const y = (value) => (height - bottom) * (1 - value / most) + 6 * (value / most);
  const points = hours.map((hour, place) => (hour.wait === null ? null : [x(place), y(hour.wait), hour])).filter(Boolean);
  const line = points.length > 1 && s("polyline", { class: "wait", points: points.map(([a, b]) => `${a},${b}`).join(" ") });
  const dots = points.map(([a, b, hour]) => s("circle", { class: "dot", cx: a, cy: b, r: 3 }, s("title", {}, `${hourName(hour.at)}: ${span(hour.wait)}`)));
  const lines = [0, most / 2, most].map((value) => [s("line", { class: "axis", x1: left, x2: width, y1: y(value), y2: y(value) }), s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, span(value))]);
  return [frame("Wait for a node, by the hour", width, height, lines, line, dots, ticks(hours, x, height - 6)),
    asTable("Wait for a node, by the hour", ["Hour", "Median wait"], hours.map((hour) => [hourName(hour.at), span(hour.wait)]))];
}

function asTable(caption, heads, rows) {
  return h("div", { class: "hidden" }, h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, String(cell))))))));
}

const KINDS = { running: "c-run bar-run", completed: "c-done", failed: "c-fail", canceled: "c-stop", lost: "c-lost" };

// Bars that overlap, because a node has several slots, go on tracks of their own.
function pack(bars) {
  const ends = [];
  const track = bars.map((bar) => {
    let place = ends.findIndex((end) => end <= bar.started_at + 3); // the end is seen a moment after the slot came free
    if (place < 0) place = ends.length;
    ends[place] = bar.ended_at || Infinity;
    return place;
  });
  return { track, tracks: Math.max(1, ends.length) };
}

// One lane for each node, one bar for each attempt.
export function gantt(history) {
  const [left, lane] = [170, 26];
  const width = Math.max(640, Math.min(1500, document.querySelector("#content").clientWidth - 40));
  const { since, until } = history;
  const packed = history.lanes.map((each) => ({ ...each, ...pack(each.bars) }));
  let height = 0;
  for (const each of packed) { each.top = height; height += Math.max(lane, each.tracks * 15 + 9); }
  height += 30;
  const x = (at) => left + (width - left - 8) * (Math.min(until, Math.max(since, at)) - since) / (until - since);
  const grid = Array.from({ length: 7 }, (_, place) => since + (until - since) * place / 6).map((at) => [
    s("line", { class: "axis", x1: x(at), x2: x(at), y1: 0, y2: height - 24 }),
    s("text", { x: x(at), y: height - 8, "text-anchor": at === since ? "start" : at === until ? "end" : "middle" }, when(at)),
  ]);
  const lanes = packed.map((each) => [
    s("text", { x: 0, y: each.top + 17 }, each.node.length > 26 ? `…${each.node.slice(-25)}` : each.node),
    each.bars.map((bar, place) => {
      const end = bar.ended_at || now();
      const text = `${bar.name || bar.task}, attempt ${bar.attempt}: ${bar.state}, ${between(bar.started_at, end)}${bar.reason && bar.reason !== bar.state ? ` (${bar.reason})` : ""}`;
      return s("a", { href: `#/task/${bar.task}`, "aria-label": text }, s("rect", { x: x(bar.started_at), width: Math.max(3, x(end) - x(bar.started_at)), y: each.top + 5 + each.track[place] * 15, height: each.tracks > 1 ? 12 : lane - 9, rx: 3, class: KINDS[bar.state] }, s("title", {}, text)));
    }),
  ]);
  return s("svg", { viewBox: `0 0 ${width} ${height}`, "aria-label": "What each node did", role: "group" }, grid, lanes);
}

export function legend(entries) {
  return h("div", { class: "legend" }, entries.map(([kind, text]) => h("span", {}, h("i", { class: kind }), text)));
}
