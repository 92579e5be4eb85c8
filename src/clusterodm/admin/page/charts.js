// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Charts: finished tasks and queue wait per hour, and the activity of each node.
/** @import { Bar, Charts, History, Hour } from "api" */
/** @import { Child } from "./dom.js" */
import { byId, h, s } from "./dom.js";
import { between, count, now, span, when } from "./format.js";

const [WIDTH, HEIGHT, BOTTOM, TOP] = [640, 190, 24, 6];

/** @param {number} at */
const hourName = (at) => new Date(at * 1000).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });

/**
 * @param {string} title
 * @param {...Child} children
 */
function frame(title, ...children) {
  return s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title, preserveAspectRatio: "xMidYMid meet" }, s("title", {}, title), ...children);
}

/**
 * Label every sixth hour, counted from the last one.
 * @param {Hour[]} hours
 * @param {(index: number) => number} x
 */
function hourLabels(hours, x) {
  const last = hours.length - 1;
  return hours.map((hour, index) => index % 6 === last % 6
    && s("text", { x: x(index) + (index === last ? 12 : 0), y: HEIGHT - 6, "text-anchor": index === last ? "end" : "middle" }, hourName(hour.at)));
}

/**
 * Return the vertical scale up to `most`, and its grid lines.
 * @param {number} most
 * @param {number} left
 * @param {(value: number) => string} label
 * @returns {{ y: (value: number) => number, grid: Child[] }}
 */
function scale(most, left, label) {
  const y = (/** @type {number} */ value) => (HEIGHT - BOTTOM) * (1 - value / most) + TOP * (value / most);
  const grid = [0, most / 2, most].map((value) => [s("line", { class: "axis", x1: left, x2: WIDTH, y1: y(value), y2: y(value) }),
    s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, label(value))]);
  return { y, grid };
}

/** @type {["completed" | "failed" | "canceled", string][]} */
const OUTCOMES = [["completed", "c-done"], ["failed", "c-fail"], ["canceled", "c-stop"]];

/** @param {Charts} charts */
export function throughput({ hours }) {
  const left = 34;
  const most = Math.max(4, ...hours.map((hour) => hour.completed + hour.failed + hour.canceled));
  const step = (WIDTH - left) / hours.length;
  const { y, grid } = scale(most, left, (value) => count(Math.round(value)));
  const bars = hours.map((hour, index) => {
    let base = 0;
    return OUTCOMES.map(([outcome, kind]) => {
      const bottom = base;
      base += hour[outcome];
      return hour[outcome] > 0 && s("rect", { x: left + index * step + 2, width: step - 4, y: y(base), height: y(bottom) - y(base), rx: 2, class: kind },
        s("title", {}, `${hourName(hour.at)}: ${hour[outcome]} ${outcome}`));
    });
  });
  const title = "Finished tasks per hour";
  return [frame(title, grid, bars, hourLabels(hours, (index) => left + (index + 0.5) * step)),
    asTable(title, ["Hour", "Completed", "Failed", "Canceled"], hours.map((hour) => [hourName(hour.at), hour.completed, hour.failed, hour.canceled]))];
}

/** @param {Charts} charts */
export function queueWait({ hours }) {
  const left = 46;
  const most = Math.max(10, ...hours.map((hour) => hour.wait || 0));
  const step = (WIDTH - left) / hours.length;
  const x = (/** @type {number} */ index) => left + (index + 0.5) * step;
  const { y, grid } = scale(most, left, span);
  const points = hours.flatMap((hour, index) => (hour.wait === null ? [] : [{ x: x(index), y: y(hour.wait), hour }]));
  const line = points.length > 1 && s("polyline", { class: "wait", points: points.map((point) => `${point.x},${point.y}`).join(" ") });
  const dots = points.map((point) => s("circle", { class: "dot", cx: point.x, cy: point.y, r: 3 }, s("title", {}, `${hourName(point.hour.at)}: ${span(point.hour.wait)}`)));
  const title = "Median queue wait per hour";
  return [frame(title, grid, line, dots, hourLabels(hours, x)),
    asTable(title, ["Hour", "Median wait"], hours.map((hour) => [hourName(hour.at), span(hour.wait)]))];
}

/**
 * Repeat a chart as a table for screen readers.
 * @param {string} caption
 * @param {string[]} heads
 * @param {(string | number)[][]} rows
 */
function asTable(caption, heads, rows) {
  return h("div", { class: "hidden" }, h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, String(cell))))))));
}

/** @type {Record<string, string>} */
const KINDS = { running: "c-run bar-run", completed: "c-done", failed: "c-fail", canceled: "c-stop", lost: "c-lost" };

/**
 * Assign overlapping bars, of a node with several slots, to separate tracks.
 * @param {Bar[]} bars
 */
function pack(bars) {
  /** @type {number[]} */
  const ends = [];
  const track = bars.map((bar) => {
    let index = ends.findIndex((end) => end <= bar.started_at + 3); // an end is noticed a moment after the slot came free
    if (index < 0) index = ends.length;
    ends[index] = bar.ended_at || Infinity;
    return index;
  });
  return { track, tracks: Math.max(1, ends.length) };
}

/**
 * Draw one lane for each node and one bar for each attempt.
 * @param {History} history
 */
export function gantt({ since, until, lanes }) {
  const [left, laneHeight] = [170, 26];
  const width = Math.max(640, Math.min(1500, byId("content").clientWidth - 40));
  let height = 0;
  const packed = lanes.map((lane) => {
    const { track, tracks } = pack(lane.bars);
    const top = height;
    height += Math.max(laneHeight, tracks * 15 + 9);
    return { ...lane, track, top, barHeight: tracks > 1 ? 12 : laneHeight - 9 };
  });
  height += 30;
  const x = (/** @type {number} */ at) => left + (width - left - 8) * (Math.min(until, Math.max(since, at)) - since) / (until - since);
  const grid = Array.from({ length: 7 }, (_, index) => since + (until - since) * index / 6).map((at) => [
    s("line", { class: "axis", x1: x(at), x2: x(at), y1: 0, y2: height - 24 }),
    s("text", { x: x(at), y: height - 8, "text-anchor": at === since ? "start" : at === until ? "end" : "middle" }, when(at)),
  ]);
  const drawn = packed.map((lane) => [
    s("text", { x: 0, y: lane.top + 17 }, lane.node.length > 26 ? `…${lane.node.slice(-25)}` : lane.node),
    lane.bars.map((bar, index) => {
      const end = bar.ended_at || now();
      const reason = bar.reason && bar.reason !== bar.state ? ` (${bar.reason})` : "";
      const text = `${bar.name || bar.task}, attempt ${bar.attempt}: ${bar.state}, ${between(bar.started_at, end)}${reason}`;
      const place = { x: x(bar.started_at), width: Math.max(3, x(end) - x(bar.started_at)), y: lane.top + 5 + lane.track[index] * 15, height: lane.barHeight };
      return s("a", { href: `#/task/${bar.task}`, "aria-label": text }, s("rect", { ...place, rx: 3, class: KINDS[bar.state] }, s("title", {}, text)));
    }),
  ]);
  return s("svg", { viewBox: `0 0 ${width} ${height}`, "aria-label": "Activity of each node", role: "group" }, grid, drawn);
}

/** @param {[string, string][]} entries */
export function legend(entries) {
  return h("div", { class: "legend" }, entries.map(([kind, text]) => h("span", {}, h("i", { class: kind }), text)));
}
