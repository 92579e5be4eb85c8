// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Numbers, times and sizes as people read them.
export function span(seconds) {
  if (seconds === null || seconds === undefined || seconds < 0) return "–";
  if (seconds < 1) return "0 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(seconds < 36000 ? 1 : 0)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export function size(bytes) {
  if (!bytes) return "0 B";
  const power = Math.min(4, Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** power;
  return `${value >= 100 || !power ? Math.round(value) : value.toFixed(1)} ${["B", "KB", "MB", "GB", "TB"][power]}`;
}

export const count = (value) => Number(value).toLocaleString("en");
export const plural = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;
export const now = () => Date.now() / 1000;
export const between = (from, to) => span(Math.max(0, to - from));
export const ago = (at) => (at ? `${between(at, now())} ago` : "–");

export function when(at, withDay = true) {
  if (!at) return "–";
  const time = new Date(at * 1000);
  const day = withDay && now() - at > 64800 ? `${time.toLocaleDateString(undefined, { month: "short", day: "numeric" })} ` : "";
  return day + time.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

export const state = (task) => task.outcome || task.phase;
