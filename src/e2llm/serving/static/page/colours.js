// Colours of the strip, from the style sheet, so that they follow the theme.

const parse = (hex) => [1, 3, 5].map((place) => Number.parseInt(hex.slice(place, place + 2), 16));

/**
 * A scale of three stops whose lightness only rises or only falls: it reads the same without colour vision.
 *
 * @param {Element} element Whose style defines `--NAME-0`, `--NAME-1` and `--NAME-2`, as #rrggbb.
 * @param {string} name Of the scale.
 * @returns {(share: number) => string} Colour at 0 to 1.
 */
export function scaleOf(element, name) {
  const style = getComputedStyle(element);
  const stops = [0, 1, 2].map((stop) => parse(style.getPropertyValue(`--${name}-${stop}`).trim()));
  return (share) => {
    const place = Math.min(1, Math.max(0, share)) * 2;
    const from = Math.min(1, Math.floor(place));
    const mixed = stops[from].map((low, part) => low + (stops[from + 1][part] - low) * (place - from));
    return `rgb(${mixed.map(Math.round).join(" ")})`;
  };
}

/**
 * @param {Element} element Any element.
 * @param {string} name Of a custom property that is a colour.
 * @returns {string} Its value.
 */
export const colourOf = (element, name) => getComputedStyle(element).getPropertyValue(`--${name}`).trim();

/**
 * @param {string} name Of a scale.
 * @param {number} share 0 to 1.
 * @returns {string} The colour there in CSS, so that it follows the theme.
 */
export function colourInCss(name, share) {
  const from = share < 0.5 ? 0 : 1;
  const part = 100 * (share * 2 - from);
  return `color-mix(in srgb, var(--${name}-${from}), var(--${name}-${from + 1}) ${part}%)`;
}
