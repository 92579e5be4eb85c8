// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Uploads that are not committed: what they hold, whether bytes arrive, and a way to drop them.
import { h } from "./dom.js";
import { ago, count, plural, size, span } from "./format.js";
import { get, known } from "./live.js";
import { ask, order, pill } from "./parts.js";

const SHOWN = 12;
const KINDS = { receiving: "running", idle: "queued", abandoned: "failed" };

export function uploads(redraw) {
  let page = null;
  let shown = SHOWN;
  let asked = 0;
  async function look() {
    const turn = ++asked;
    const found = known.status && !known.status.receiving ? null : await get(`uploads?limit=${shown}`);
    if (turn === asked) { page = found; redraw(); }
  }
  async function drop(upload) {
    const text = `${plural(upload.files, "file")} with ${size(upload.bytes)} of ${upload.owner} are deleted. Its client gets an error and has to begin again.`;
    if (await ask({ title: `Drop the upload ${upload.name || upload.uuid}?`, text, yes: "Drop it", harm: true }) && await order("DELETE", `uploads/${upload.uuid}`)) await look().catch(() => {});
  }
  const more = () => { shown = 500; look().catch(() => {}); };
  return { look: () => look().catch(() => {}), card: () => page && page.total > 0 && card(page, drop, more) };
}

function card(page, drop, more) {
  const heads = ["Upload", "Last bytes", "Size", "Node", ""];
  return h("section", { class: "card", "aria-label": "Uploads" },
    h("header", {}, h("h2", {}, "Uploads, not committed"), h("span", { class: "tag" }, count(page.total)), h("span", { class: "soft small" }, size(page.bytes)),
      page.total > page.uploads.length && page.uploads.length < 500 && h("button", { class: "more", "data-fresh": 1, onclick: more }, `show ${page.total > 500 ? "500" : "all"}`)),
    h("div", { class: "scroll" }, h("table", { class: "stack" },
      h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text || h("span", { class: "hidden" }, "Orders"))))),
      h("tbody", {}, page.uploads.map((upload) => row(upload, drop))))));
}

function row(upload, drop) {
  return h("tr", { "data-key": upload.uuid },
    h("td", {}, h("a", { class: "name", href: `#/task/${upload.uuid}`, title: upload.name }, upload.name || upload.uuid),
      h("span", { class: "small soft" }, `${upload.owner} · begun ${ago(upload.created_at)}`)),
    h("td", {}, pill(upload.state, KINDS[upload.state]), upload.state !== "receiving" && h("span", { class: "small soft" }, ` ${span(upload.idle_seconds)} ago`)),
    h("td", { class: "num small" }, size(upload.bytes), h("br", {}), h("span", { class: "soft" }, plural(upload.files, "file"))),
    h("td", { class: "soft small" }, upload.node || "–"),
    h("td", { class: "wide" }, h("div", { class: "buttons" }, h("button", { class: "harm", "data-fresh": 1, "aria-label": `Drop ${upload.name || upload.uuid}`, onclick: () => drop(upload) }, "Drop"))));
}
