// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Create and update elements. Text is always a text node, so a task's name cannot become markup.
/** @typedef {string | Node | null | undefined | false | Child[]} Child Null, undefined and false add nothing. */
/** @typedef {{ [name: string]: any }} Props Attributes, plus `style` and `on...` event handlers. */
const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {Child[]} children
 * @returns {(string | Node)[]}
 */
function flatten(children) {
  return children.flatMap((child) => (Array.isArray(child) ? flatten(child) : child === null || child === undefined || child === false ? [] : [child]));
}

/**
 * @param {HTMLElement | SVGElement} element
 * @param {string} name
 * @param {any} value
 */
function set(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, String(text));
  else if (name === "value" && "value" in element) element.value = value;
  else element.setAttribute(name, value === true ? "" : value);
}

/**
 * @template {HTMLElement | SVGElement} E
 * @param {E} element
 * @param {Props} props
 * @param {Child[]} children
 */
function build(element, props, children) {
  for (const [name, value] of Object.entries(props)) set(element, name, value);
  element.append(...flatten(children));
  return element;
}

/**
 * Create an HTML element.
 * @template {keyof HTMLElementTagNameMap} N
 * @param {N} name
 * @param {Props} props
 * @param {...Child} children
 */
export const h = (name, props, ...children) => build(document.createElement(name), props, children);

/**
 * Create an SVG element.
 * @template {keyof SVGElementTagNameMap} N
 * @param {N} name
 * @param {Props} props
 * @param {...Child} children
 */
export const s = (name, props, ...children) => build(document.createElementNS(SVG, name), props, children);

/**
 * Return the element with this id; index.html has it.
 * @param {string} id
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`no element #${id}`);
  return element;
}

/**
 * Replace the children of `parent`, but keep equal ones, so that focus, selection and scroll position stay.
 * @param {Element} parent
 * @param {...Child} children
 */
export function put(parent, ...children) {
  const old = [...parent.childNodes];
  const fresh = flatten(children);
  fresh.forEach((child, index) => {
    const node = typeof child === "string" ? document.createTextNode(child) : child;
    if (index >= old.length) parent.append(node);
    else if (!old[index].isEqualNode(node)) merge(parent, old[index], node);
  });
  for (const node of old.slice(fresh.length)) node.remove();
}

/**
 * @param {Element} parent
 * @param {ChildNode} old
 * @param {Node} node
 */
function merge(parent, old, node) {
  if (!(old instanceof Element && node instanceof Element && alike(old, node))) {
    parent.replaceChild(node, old);
    return;
  }
  for (const { name } of [...old.attributes]) if (!node.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of node.attributes) if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old instanceof HTMLElement && node instanceof HTMLElement) for (const name of node.style) old.style.setProperty(name, node.style.getPropertyValue(name));
  put(old, ...node.childNodes);
}

/**
 * @param {Element} old
 * @param {Element} node
 */
function alike(old, node) {
  return old.nodeName === node.nodeName && !node.hasAttribute("data-fresh") && !["INPUT", "SELECT", "BUTTON"].includes(old.nodeName)
    && old.getAttribute("data-key") === node.getAttribute("data-key");
}

/**
 * Create a table that scrolls sideways if it must; an empty heading is read out as "Actions".
 * @param {string[]} heads
 * @param {Child[]} rows
 * @param {Props} [props]
 */
export function table(heads, rows, props = {}) {
  const cells = heads.map((text) => h("th", { scope: "col" }, text || h("span", { class: "hidden" }, "Actions")));
  return h("div", { class: "scroll" }, h("table", props, h("thead", {}, h("tr", {}, cells)), h("tbody", {}, rows)));
}
