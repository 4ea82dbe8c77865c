// Keeping the end of an answer in view, as long as the reader wants it.

const NEAR = 40;
let follows = true;
let lastTop = 0;

const page = () => document.scrollingElement;
const isAtEnd = () => page().scrollHeight - page().scrollTop - page().clientHeight < NEAR;

// Who scrolls up wants to read there; who comes back to the end wants to follow again.
addEventListener(
  "scroll",
  () => {
    if (isAtEnd()) follows = true;
    else if (page().scrollTop < lastTop) follows = false;
    lastTop = page().scrollTop;
  },
  { passive: true },
);

/** Go to the end of the page, and stay there. */
export function goToEnd() {
  follows = true;
  page().scrollTop = page().scrollHeight;
}

/**
 * Change the page and keep its end in view, unless the reader has scrolled up.
 *
 * @param {() => void} change Makes the page longer.
 */
export function following(change) {
  change();
  if (follows) goToEnd();
}
