// Kept over a reload of the page, until the tab is closed: the key, and the conversation about each context.

const KEY = "e2llm.key";
const talkOf = (contextId) => `e2llm.talk.${contextId ?? "none"}`;

/** @returns {string | null} The API key that was given. */
export const loadKey = () => sessionStorage.getItem(KEY);

/** @param {string | null} key The API key; null to forget it, with all that was said. */
export function saveKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.clear();
}

/**
 * @param {string | null} contextId A context, or null for the conversation without one.
 * @returns {object[]} Its turns, oldest first.
 */
export function loadTurns(contextId) {
  try {
    return JSON.parse(sessionStorage.getItem(talkOf(contextId)) ?? "[]");
  } catch {
    return []; // another version of the page wrote something else
  }
}

/**
 * @param {string | null} contextId A context, or null.
 * @param {object[]} turns The conversation; empty to forget it.
 * @returns {boolean} Whether there was room for it.
 */
export function saveTurns(contextId, turns) {
  try {
    if (turns.length) sessionStorage.setItem(talkOf(contextId), JSON.stringify(turns));
    else sessionStorage.removeItem(talkOf(contextId));
    return true;
  } catch {
    return false;
  }
}
