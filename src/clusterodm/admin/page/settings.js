// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// The settings in effect.
/** @import { ClusterStatus, SettingView } from "api" */
import { h, table } from "./dom.js";
import { when } from "./format.js";
import { get } from "./live.js";
import { failed } from "./parts.js";

/** @param {ClusterStatus} status */
const replicas = (status) => (status.replicas.length > 1 ? ` · replicas: ${status.replicas.map((name) => (name === status.leader ? `${name} (leader)` : name)).join(", ")}` : "");

/** @param {SettingView} setting */
function row({ name, value, default: normal, description }) {
  const text = value || "–";
  return h("tr", {}, h("td", { class: "mono" }, name), h("td", { class: "mono" }, value === normal ? h("span", { class: "soft" }, text) : h("b", {}, text)), h("td", { class: "small" }, description));
}

/** @param {HTMLElement} root */
export function settings(root) {
  root.replaceChildren(h("h1", {}, "Settings"), h("p", { class: "soft" }, "Set by flags, environment variables or the configuration file. Changes take effect after a restart. Secrets are hidden."));
  async function load() {
    /** @type {[SettingView[], ClusterStatus]} */
    const [all, status] = await Promise.all([get("settings"), get("status")]);
    root.append(h("p", { class: "soft small" }, `ClusterODM ${status.version}, running since ${when(status.started_at)}${replicas(status)} · `, h("a", { href: "api/v1/openapi.json" }, "OpenAPI document"), " · ", h("a", { href: "metrics" }, "Metrics")),
      h("section", { class: "card" }, table(["Setting", "Value", "Description"], all.map(row))));
  }
  load().catch(failed);
  return {};
}
