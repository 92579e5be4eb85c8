// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Elements made of plain objects; text is always text, so nothing that a task is called can become markup.
const SVG = "http://www.w3.org/2000/svg";

function make(element, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

export const h = (name, props, ...children) => make(document.createElement(name), props, children);
export const s = (name, props, ...children) => make(document.createElementNS(SVG, name), props, children);

// Replace what is in `parent`, but leave alone what is the same, so that focus, selection and scrolling stay.
export function put(parent, ...children) {
  const fresh = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  const old = [...parent.childNodes];
  fresh.forEach((child, place) => {
    const node = typeof child === "string" ? document.createTextNode(child) : child;
    if (place >= old.length) parent.append(node);
    else if (!old[place].isEqualNode(node)) merge(parent, old[place], node);
  });
  old.slice(fresh.length).forEach((node) => node.remove());
}

function merge(parent, old, node) {
  const alike = old.nodeType === 1 && node.nodeType === 1 && old.nodeName === node.nodeName
    && !node.dataset.fresh && !["INPUT", "SELECT", "BUTTON"].includes(old.nodeName) && old.dataset.key === node.dataset.key;
  if (!alike) return parent.replaceChild(node, old);
  for (const { name } of [...old.attributes]) if (!node.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of node.attributes) if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const name of node.style || []) old.style.setProperty(name, node.style.getPropertyValue(name));
  put(old, [...node.childNodes]);
}
