// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// What is known of the cluster, kept up to date by the server's events; and calls to its API.
export const known = { status: null, nodes: [], machines: [], tasks: new Map(), connected: false };
const listeners = new Set();

export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

let due = false;
export function tell(kind, value) {
  for (const listener of listeners) listener.each?.(kind, value);
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    for (const listener of [...listeners]) listener.draw?.();
  });
}

export async function get(path) {
  return answered(await fetch(`api/v1/${path}`));
}

export async function send(method, path, body) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  return answered(await fetch(`api/v1/${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) }));
}

async function answered(response) {
  const value = await response.json().catch(() => ({ error: `HTTP ${response.status}` }));
  if (!response.ok) throw new Error(value.error || `HTTP ${response.status}`);
  return value;
}

async function everything() {
  const [active, queue] = await Promise.all([get("tasks/active"), get("queue")]);
  known.tasks = new Map([...active, ...queue].map((task) => [task.uuid, task]));
  tell("tasks");
}

const ACTIVE = new Set(["receiving", "queued", "dispatching", "running", "collecting"]);
const take = {
  status(value) { known.status = value; },
  nodes(value) { known.nodes = value; },
  node(value) {
    const place = known.nodes.findIndex((node) => node.id === value.id);
    if (place >= 0) known.nodes[place] = value; else known.nodes.push(value);
  },
  machines(value) { known.machines = value; },
  task(value) {
    if (ACTIVE.has(value.phase)) known.tasks.set(value.uuid, value); else known.tasks.delete(value.uuid);
  },
  progress(value) {
    const task = known.tasks.get(value.uuid);
    if (task) known.tasks.set(value.uuid, { ...task, progress: value.progress });
  },
  queue(value) {
    for (const place of value) {
      const task = known.tasks.get(place.uuid);
      if (task) known.tasks.set(place.uuid, { ...task, ...place });
    }
  },
  reload() { everything(); },
};

export function connect() {
  const source = new EventSource("api/v1/events");
  source.onopen = () => { known.connected = true; everything().catch(() => {}); tell("connection"); };
  source.onerror = () => { known.connected = false; tell("connection"); };
  for (const [kind, update] of Object.entries(take)) {
    source.addEventListener(kind, (event) => {
      const value = JSON.parse(event.data);
      update(value);
      tell(kind, value);
    });
  }
  setInterval(() => everything().catch(() => {}), 60000); // what slipped through
}
