// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Routing, connection state, theme and keyboard shortcuts.
/** @import { View } from "./live.js" */
import { byId } from "./dom.js";
import { history } from "./history.js";
import { cluster, connect, listen } from "./live.js";
import { machines } from "./machines.js";
import { nodes } from "./nodes.js";
import { overview } from "./overview.js";
import { settings } from "./settings.js";
import { task } from "./task.js";
import { tasks } from "./tasks.js";

/** @type {Record<string, { title: string, tab: string, open: (root: HTMLElement, query: URLSearchParams, id: string) => View }>} */
const PAGES = {
  "": { title: "Overview", tab: "overview", open: overview },
  tasks: { title: "Tasks", tab: "tasks", open: tasks },
  task: { title: "Task", tab: "tasks", open: (root, _, id) => task(root, id) },
  nodes: { title: "Nodes", tab: "nodes", open: nodes },
  machines: { title: "Machines", tab: "machines", open: machines },
  history: { title: "History", tab: "history", open: history },
  settings: { title: "Settings", tab: "settings", open: settings },
};
/** @type {Record<string, string>} */
const KEYS = { o: "#/", t: "#/tasks", n: "#/nodes", m: "#/machines", h: "#/history", s: "#/settings" };
const root = byId("content");
/** @type {View} */
let view = {};
let unlisten = () => {};

function show() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id = ""] = path.split("/");
  const page = Object.hasOwn(PAGES, name) ? PAGES[name] : PAGES[""];
  unlisten();
  view.end?.();
  const container = document.createElement("div"); // a late response draws into a container that is gone
  root.replaceChildren(container);
  view = page.open(container, new URLSearchParams(query), id);
  unlisten = listen(view);
  document.title = `${page.title} · ClusterODM`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("data-page") === page.tab) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  window.scrollTo(0, 0);
}

function health() {
  const pill = byId("health");
  const state = cluster.status?.health || "";
  const [text, kind] = cluster.connected ? [state || "…", state] : ["connection lost", "away"];
  if (pill.textContent !== text) { pill.textContent = text; pill.className = `pill ${kind}`; }
}

/** @param {boolean} toggle */
function theme(toggle) {
  let stored = null;
  try { stored = localStorage.getItem("theme"); } catch { /* storage may be disabled */ }
  const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  let chosen = stored || preferred;
  if (toggle) {
    chosen = chosen === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", chosen); } catch { /* then it lasts for this visit */ }
  }
  document.documentElement.dataset.theme = chosen;
}

/** @param {KeyboardEvent} event */
function shortcut(event) {
  if ((event.target instanceof Element && event.target.matches("input, select, textarea")) || event.ctrlKey || event.metaKey || event.altKey) return;
  const search = document.getElementById("search");
  if (event.key === "/" && search) { event.preventDefault(); search.focus(); }
  const target = Object.hasOwn(KEYS, event.key) && !byId("ask").hasAttribute("open") && KEYS[event.key];
  if (target) location.hash = target;
}

theme(false);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(false));
byId("theme").addEventListener("click", () => theme(true));
byId("skip").addEventListener("click", (event) => { event.preventDefault(); root.focus(); });
document.addEventListener("keydown", shortcut);
listen({ draw: health });
addEventListener("hashchange", show);
connect();
show();
