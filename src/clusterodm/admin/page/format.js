// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Format numbers, times and sizes.
/** @import { TaskView } from "api" */

/**
 * @param {number | null | undefined} seconds
 */
export function span(seconds) {
  if (seconds === null || seconds === undefined || seconds < 0) return "–";
  if (seconds < 1) return "0 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(seconds < 36000 ? 1 : 0)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

/**
 * @param {number} bytes
 */
export function size(bytes) {
  if (!bytes) return "0 B";
  const power = Math.min(4, Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** power;
  return `${value >= 100 || !power ? Math.round(value) : value.toFixed(1)} ${["B", "KB", "MB", "GB", "TB"][power]}`;
}

/** @param {number} value */
export const count = (value) => Number(value).toLocaleString("en");

/**
 * @param {number} value
 * @param {string} word
 */
export const plural = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;

export const now = () => Date.now() / 1000;

/**
 * @param {number} from
 * @param {number} to
 */
export const between = (from, to) => span(Math.max(0, to - from));

/** @param {number} at */
export const ago = (at) => (at ? `${between(at, now())} ago` : "–");

/**
 * Format a moment; with the date unless it is less than 18 hours ago.
 * @param {number} at
 */
export function when(at) {
  if (!at) return "–";
  const time = new Date(at * 1000);
  const day = now() - at > 64800 ? `${time.toLocaleDateString(undefined, { month: "short", day: "numeric" })} ` : "";
  return day + time.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** @param {TaskView} task */
export const state = (task) => task.outcome || task.phase;
