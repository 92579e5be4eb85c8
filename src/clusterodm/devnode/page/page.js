// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// The page calls nothing but the NodeODM API, with relative URLs, so it works through any proxy that speaks it.
const NAMES = { 10: "queued", 20: "running", 30: "failed", 40: "completed", 50: "canceled" };
const token = new URLSearchParams(location.search).get("token");
const $ = (id) => document.getElementById(id);
let dropped = null;

const url = (path, query = {}) => {
  const all = new URLSearchParams(token ? { ...query, token } : query).toString();
  return all ? `${path}?${all}` : path;
};

async function call(path, body, query) {
  const answer = await fetch(url(path, query), body ? { method: "POST", body } : {});
  if (answer.status === 401) throw new Error("This node wants a token: add ?token=... to the address.");
  const value = await answer.json();
  if (value.error) throw new Error(value.error);
  return value;
}

const form = (fields) => {
  const data = new FormData();
  for (const [key, value] of Object.entries(fields)) data.append(key, value);
  return data;
};

async function send(files, name) {
  const { uuid } = await call("task/new/init", form({ name, options: "[]" }));
  $("progress").hidden = false;
  let done = 0;
  const waiting = [...files];
  const lane = async () => {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      const data = new FormData();
      data.append("images", file, file.name);
      await call(`task/new/upload/${uuid}`, data);
      $("progress").value = ++done / files.length;
      $("message").textContent = `${done} of ${files.length} files sent`;
    }
  };
  await Promise.all([lane(), lane(), lane(), lane()]);
  await call(`task/new/commit/${uuid}`, form({}));
}

async function submit(event) {
  event.preventDefault();
  const files = dropped ?? [...$("images").files];
  if (!files.length) return void ($("message").textContent = "Choose at least one photo.");
  $("start").disabled = true;
  try {
    await send(files, $("name").value);
    $("message").textContent = "Task started.";
    dropped = null;
    $("upload").reset();
    choose([]);
    await refresh();
  } catch (error) {
    $("message").textContent = error.message;
  } finally {
    $("start").disabled = false;
    $("progress").hidden = true;
    $("progress").value = 0;
  }
}

const choose = (files) => {
  $("chosen").textContent = files.length ? `${files.length} files chosen` : "Drop photos here, or click to choose";
};

function element(name, text, properties = {}) {
  const made = Object.assign(document.createElement(name), properties);
  if (text) made.textContent = text;
  return made;
}

function button(text, act) {
  const made = element("button", text, { type: "button" });
  made.onclick = async () => {
    try { await act(); } catch (error) { $("message").textContent = error.message; }
    await refresh();
  };
  return made;
}

async function row(uuid) {
  const info = await call(`task/${uuid}/info`, null, { with_output: "-8" });
  const item = element("li", "", { id: `task-${uuid}` });
  const head = element("header");
  head.append(element("b", info.name), element("span", `${NAMES[info.status.code]}, ${info.imagesCount} files`, { className: "state" }));
  item.append(head, element("progress", "", { max: 100, value: info.progress }));
  if (info.status.errorMessage) item.append(element("p", info.status.errorMessage));
  if (info.output?.length) item.append(element("pre", info.output.map((line) => line.trimEnd()).join("\n")));
  const actions = element("div", "", { className: "actions" });
  if (info.status.code === 40) actions.append(element("a", "Download all.zip", { href: url(`task/${uuid}/download/all.zip`) }));
  if (info.status.code <= 20) actions.append(button("Cancel", () => call("task/cancel", form({ uuid }))));
  else actions.append(button("Restart", () => call("task/restart", form({ uuid }))));
  actions.append(button("Remove", () => confirm(`Remove ${info.name}?`) && call("task/remove", form({ uuid }))));
  item.append(actions);
  return item;
}

async function refresh() {
  try {
    const info = await call("info");
    const limit = info.maxImages === null ? "any number of" : `at most ${info.maxImages}`;
    $("node").textContent =
      `${info.engine} ${info.engineVersion}, API ${info.version}: ${info.taskQueueCount} tasks waiting or running, ` +
      `${info.maxParallelTasks} at a time, ${limit} images`;
    const tasks = await call("task/list");
    const rows = await Promise.all(tasks.slice(0, 50).map(({ uuid }) => row(uuid).catch(() => null)));
    $("none").hidden = tasks.length > 0;
    $("tasks").replaceChildren(...rows.filter(Boolean));
  } catch (error) {
    $("node").textContent = error.message;
  }
}

$("upload").addEventListener("submit", submit);
$("images").addEventListener("change", () => { dropped = null; choose($("images").files); });
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") choose((dropped = [...event.dataTransfer.files]));
  });
}
const loop = async () => { await refresh(); setTimeout(loop, 1500); };
loop();
