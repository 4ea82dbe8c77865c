// Numbers for people.

const whole = new Intl.NumberFormat("en");
const UNITS = ["bytes", "kB", "MB", "GB", "TB"];

/** @returns {string} 12,345 */
export const count = (value) => whole.format(value);

/** @returns {string} "1 chunk", "2 chunks" */
export const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** @returns {string} Three digits: 0.00189, 0.417, 12.3, 1,234 */
export function digits(value) {
  if (value === 0) return "0";
  return new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(value);
}

/** @returns {string} A fraction as 12 % */
export const percent = (fraction) => `${digits(fraction * 100)} %`;

/** @returns {string} 16.7 MB */
export function bytes(value) {
  const power = value < 1000 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log10(value) / 3));
  return `${digits(value / 1000 ** power)} ${UNITS[power]}`;
}

/** @returns {string} 350 ms, 2.4 s, 3 min 20 s */
export function seconds(value) {
  if (value < 1) return `${Math.max(1, Math.round(value * 1000))} ms`;
  if (value < 60) return `${digits(Math.round(value * 10) / 10)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

/** @returns {string} How many times: 11.8× */
export const times = (ratio) => `${ratio >= 100 ? count(Math.round(ratio)) : digits(ratio)}×`;
