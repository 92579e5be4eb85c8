// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Uncommitted uploads: what they hold, whether bytes arrive, and a button to drop them.
/** @import { UploadPage, UploadView } from "api" */
import { h, table } from "./dom.js";
import { ago, count, plural, size, span } from "./format.js";
import { cluster, get } from "./live.js";
import { ask, command, pill } from "./parts.js";

const SHOWN = 12;
const MOST = 500;
/** @type {Record<string, string>} */
const KINDS = { receiving: "running", idle: "queued", abandoned: "failed" };

/** @param {() => void} redraw */
export function uploads(redraw) {
  /** @type {UploadPage | null} */
  let page = null;
  let limit = SHOWN;
  let requests = 0;
  async function fetchPage() {
    const request = ++requests;
    const fresh = cluster.status && !cluster.status.receiving ? null : await get(`uploads?limit=${limit}`);
    if (request === requests) { page = fresh; redraw(); }
  }
  const load = () => fetchPage().catch(() => {}); // it is called again soon
  /** @param {UploadView} upload */
  async function drop(upload) {
    const text = `${plural(upload.files, "file")} (${size(upload.bytes)}) owned by ${upload.owner} will be deleted. The client gets an error and has to start over.`;
    if (await ask({ title: `Drop the upload ${upload.name || upload.uuid}?`, text, yes: "Drop upload", harm: true }) && await command("DELETE", `uploads/${upload.uuid}`)) await load();
  }
  const more = () => { limit = MOST; load(); };
  return { load, card: () => page && page.total > 0 && card(page, drop, more) };
}

/**
 * @param {UploadPage} page
 * @param {(upload: UploadView) => void} drop
 * @param {() => void} more
 */
function card(page, drop, more) {
  return h("section", { class: "card", "aria-label": "Uploads" },
    h("header", {}, h("h2", {}, "Uncommitted uploads"), h("span", { class: "tag" }, count(page.total)), h("span", { class: "soft small" }, size(page.bytes)),
      page.total > page.uploads.length && page.uploads.length < MOST && h("button", { class: "more", "data-fresh": 1, onclick: more }, `Show ${page.total > MOST ? MOST : "all"}`)),
    table(["Upload", "Last activity", "Size", "Node", ""], page.uploads.map((upload) => row(upload, drop)), { class: "stack" }));
}

/**
 * @param {UploadView} upload
 * @param {(upload: UploadView) => void} drop
 */
function row(upload, drop) {
  return h("tr", { "data-key": upload.uuid },
    h("td", {}, h("a", { class: "name", href: `#/task/${upload.uuid}`, title: upload.name }, upload.name || upload.uuid),
      h("span", { class: "small soft" }, `${upload.owner} · started ${ago(upload.created_at)}`)),
    h("td", {}, pill(upload.state, KINDS[upload.state]), upload.state !== "receiving" && h("span", { class: "small soft" }, ` ${span(upload.idle_seconds)} ago`)),
    h("td", { class: "num small" }, size(upload.bytes), h("br", {}), h("span", { class: "soft" }, plural(upload.files, "file"))),
    h("td", { class: "soft small" }, upload.node || "–"),
    h("td", { class: "wide" }, h("div", { class: "buttons" }, h("button", { class: "harm", "data-fresh": 1, "aria-label": `Drop ${upload.name || upload.uuid}`, onclick: () => drop(upload) }, "Drop"))));
}
