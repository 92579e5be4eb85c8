// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// The page's copy of the cluster's state, updated by server-sent events; and calls to the API.
/** @import { ClusterStatus, MachineView, NodeView, TaskView } from "api" */
/** @typedef {{ draw?: () => void, each?: (kind: string, value: any) => void, end?: () => void }} View What a page reacts with. */

/** @type {{ status: ClusterStatus | null, nodes: NodeView[], machines: MachineView[], tasks: Map<string, TaskView>, connected: boolean }} */
export const cluster = { status: null, nodes: [], machines: [], tasks: new Map(), connected: false };
/** @type {Set<View>} */
const views = new Set();

/**
 * Notify a view of changes until the returned function is called.
 * @param {View} view
 * @returns {() => void}
 */
export function listen(view) {
  views.add(view);
  return () => { views.delete(view); };
}

let due = false;
/**
 * @param {string} kind
 * @param {unknown} [value]
 */
function notify(kind, value) {
  for (const view of views) view.each?.(kind, value);
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    for (const view of [...views]) view.draw?.();
  });
}

/**
 * @param {string} path
 * @returns {Promise<any>}
 */
export async function get(path) {
  return decode(await fetch(`api/v1/${path}`));
}

/**
 * @param {string} method
 * @param {string} path
 * @param {object} [body]
 * @returns {Promise<any>}
 */
export async function send(method, path, body) {
  const content = body === undefined ? {} : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return decode(await fetch(`api/v1/${path}`, { method, ...content }));
}

/** @param {Response} response */
async function decode(response) {
  const value = await response.json().catch(() => ({ error: `HTTP ${response.status}` }));
  if (!response.ok) throw new Error(value.error || `HTTP ${response.status}`);
  return value;
}

async function reload() {
  /** @type {TaskView[][]} */
  const [active, queue] = await Promise.all([get("tasks/active"), get("queue")]);
  cluster.tasks = new Map([...active, ...queue].map((task) => [task.uuid, task]));
  notify("tasks");
}
const tryReload = () => { reload().catch(() => {}); }; // the next event or minute tries again

/**
 * @param {string} uuid
 * @param {Partial<TaskView>} changes
 */
function update(uuid, changes) {
  const task = cluster.tasks.get(uuid);
  if (task) cluster.tasks.set(uuid, { ...task, ...changes });
}

const ACTIVE = new Set(["receiving", "queued", "dispatching", "running", "collecting"]);
/** @type {{ [kind: string]: (value: any) => void }} */
const apply = {
  status(/** @type {ClusterStatus} */ value) { cluster.status = value; },
  nodes(/** @type {NodeView[]} */ value) { cluster.nodes = value; },
  node(/** @type {NodeView} */ value) {
    const index = cluster.nodes.findIndex((node) => node.id === value.id);
    if (index >= 0) cluster.nodes[index] = value; else cluster.nodes.push(value);
  },
  machines(/** @type {MachineView[]} */ value) { cluster.machines = value; },
  task(/** @type {TaskView} */ value) {
    if (ACTIVE.has(value.phase)) cluster.tasks.set(value.uuid, value); else cluster.tasks.delete(value.uuid);
  },
  progress(/** @type {{ uuid: string, progress: number }} */ value) { update(value.uuid, { progress: value.progress }); },
  queue(/** @type {Pick<TaskView, "uuid" | "position" | "expected_wait" | "wait">[]} */ value) {
    for (const place of value) update(place.uuid, place);
  },
  reload: tryReload,
};

export function connect() {
  const source = new EventSource("api/v1/events");
  source.onopen = () => { cluster.connected = true; tryReload(); notify("connection"); };
  source.onerror = () => { cluster.connected = false; notify("connection"); };
  for (const [kind, change] of Object.entries(apply)) {
    source.addEventListener(kind, (event) => {
      const value = JSON.parse(event.data);
      change(value);
      notify(kind, value);
    });
  }
  setInterval(tryReload, 60000); // repairs a missed event
}
