// Making elements. Text goes in as text nodes only, never as HTML: documents and answers may hold any.

/**
 * @param {string} tag Name of the element, with classes after dots: `p.quiet`.
 * @param {Record<string, string | boolean | EventListener>} attributes `onclick` and the like are listeners;
 *     false leaves an attribute out, true sets an empty one.
 * @param {...(Node | string | null)} children Elements, or text.
 * @returns {HTMLElement} The element.
 */
export function make(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** @returns {HTMLElement} The element with an id. */
export const byId = (id) => document.getElementById(id);

/**
 * Say something to those who listen to the page; nothing is shown.
 *
 * @param {string} text What to say.
 */
export function announce(text) {
  byId("spoken").textContent = text;
}

/**
 * Have the latest call wait until calls cease.
 *
 * @param {Function} work What to do.
 * @param {number} milliseconds How long without a call.
 * @returns {Function} The same, later.
 */
export function debounced(work, milliseconds) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...args), milliseconds);
  };
}
