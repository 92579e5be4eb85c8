// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// The pages by their address, the state of the connection, the colours, the keys.
import { connect, known, listen } from "./live.js";
import { overview } from "./overview.js";
import { tasks } from "./tasks.js";
import { task } from "./task.js";
import { nodes } from "./nodes.js";
import { machines } from "./machines.js";
import { history } from "./history.js";
import { settings } from "./settings.js";

const PAGES = { "": overview, tasks, task, nodes, machines, history, settings };
const TITLES = { "": "Overview", tasks: "Tasks", task: "Task", nodes: "Nodes", machines: "Machines", history: "History", settings: "Settings" };
const root = document.querySelector("#content");
let page = null;
let leave = () => {};

function show() {
  const [path, text = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id] = path.split("/");
  const make = PAGES[name] || overview;
  leave();
  page?.end?.();
  const place = document.createElement("div"); // a page that comes late draws into one that is gone
  root.replaceChildren(place);
  page = name === "task" ? task(place, id) : make(place, new URLSearchParams(text));
  leave = listen(page);
  document.title = `${TITLES[name] || "Overview"} · ClusterODM`;
  const current = { "": "overview", task: "tasks" }[name] ?? name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === current) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  window.scrollTo(0, 0);
}

function health() {
  const place = document.querySelector("#health");
  const [text, kind] = !known.connected ? ["connection lost", "away"] : known.status ? [known.status.health, known.status.health] : ["…", ""];
  if (place.textContent !== text) { place.textContent = text; place.className = `pill ${kind}`; }
}

function colours(change) {
  let stored = null;
  try { stored = localStorage.getItem("theme"); } catch { /* private windows may not keep anything */ }
  const preferred = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  let chosen = stored || preferred;
  if (change) {
    chosen = chosen === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", chosen); } catch { /* then it is for this visit */ }
  }
  document.documentElement.dataset.theme = chosen;
}

colours(false);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => colours(false));
document.querySelector("#theme").addEventListener("click", () => colours(true));
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); root.focus(); });
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  const search = document.querySelector("#search");
  if (event.key === "/" && search) { event.preventDefault(); search.focus(); }
  const jump = { o: "#/", t: "#/tasks", n: "#/nodes", m: "#/machines", h: "#/history", s: "#/settings" }[event.key];
  if (jump && !document.querySelector("#ask").open) location.hash = jump;
});
listen({ draw: health });
addEventListener("hashchange", show);
connect();
show();
