// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// The settings that the cluster runs with.
import { h } from "./dom.js";
import { get } from "./live.js";
import { when } from "./format.js";
import { notice } from "./parts.js";

const replicas = (status) => (status.replicas.length > 1 ? ` · replicas: ${status.replicas.map((name) => (name === status.leader ? `${name} (leads)` : name)).join(", ")}` : "");

export function settings(root) {
  root.replaceChildren(h("h1", {}, "Settings"), h("p", { class: "soft" }, "Set by flags, environment or the configuration file; a change needs a restart. Secrets are not shown."));
  Promise.all([get("settings"), get("status")]).then(([found, status]) => root.append(
    h("p", { class: "soft small" }, `ClusterODM ${status.version}, running since ${when(status.started_at)}${replicas(status)} · `, h("a", { href: "api/v1/openapi.json" }, "API description"), " · ", h("a", { href: "metrics" }, "metrics")),
    h("section", { class: "card" }, h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Setting", "Value", "What it does"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, found.map((each) => h("tr", {}, h("td", { class: "mono" }, each.name), h("td", { class: "mono" }, each.value === each.default ? h("span", { class: "soft" }, each.value || "–") : h("b", {}, each.value || "–")), h("td", { class: "small" }, each.description)))))))),
  ).catch((error) => notice(error.message, true));
  return {};
}
