// What went wrong, said plainly where people look when they ask.

import { announce, byId, make } from "./dom.js";
import { seconds } from "./format.js";

/** Remove the message about an earlier problem. */
export function clearProblem() {
  byId("problem").replaceChildren();
}

/**
 * @param {Error} error What went wrong.
 * @returns {string} The same for people.
 */
export function problemText(error) {
  if (error.status !== 429) return error.message;
  const wait = error.retryAfter === null ? "later" : `in ${seconds(error.retryAfter)}`;
  return `The server is busy: ${error.message}. Try again ${wait}.`;
}

/** @param {Error} error What went wrong. */
export function showProblem(error) {
  const dismiss = make("button", { type: "button", onclick: clearProblem }, "Dismiss");
  byId("problem").replaceChildren(make("p", {}, problemText(error)), dismiss);
  announce("");
}
