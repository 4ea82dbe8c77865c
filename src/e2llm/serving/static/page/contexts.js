// The list of contexts that are kept.

import { byId, make } from "../common/dom.js";
import { count } from "../common/format.js";

const WIDE = matchMedia("(min-width: 60rem)");

/** Keep the list open where there is room beside the page; on a phone it folds. */
export function foldContexts() {
  const fold = () => byId("contextsFold").toggleAttribute("open", WIDE.matches);
  WIDE.addEventListener("change", fold);
  fold();
}

/** Fold the list again after a choice, where it lies above the page. */
export function closeContexts() {
  if (!WIDE.matches) byId("contextsFold").removeAttribute("open");
}

/**
 * @param {object[]} contexts As the server lists them.
 * @param {string | null} chosenId Which one is looked at.
 */
export function showContexts(contexts, chosenId) {
  byId("noContexts").hidden = contexts.length > 0;
  const items = contexts.map((context) => {
    const chosen = context.id === chosenId && "true";
    const size = make("span.quiet", {}, `${count(context.characters)} characters`);
    const name = make("span.name", { title: context.name }, context.name);
    return make("li", {}, make("a", { href: `#${context.id}`, "aria-current": chosen }, name, size));
  });
  byId("contexts").replaceChildren(...items);
}
