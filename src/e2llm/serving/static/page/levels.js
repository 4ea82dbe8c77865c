// What the decoder got of a chunk: full text, soft tokens from fine to coarse, or nothing.

import { counted } from "../common/format.js";

const FINEST_SOFT = 0.65; // full text is 1, the coarsest level of several 0
const ONLY_SOFT = 0.3;

/**
 * @param {number | string | null} level As the server reports it.
 * @param {"soft_tokens" | "rate"} dial What its numbers are.
 * @returns {string} The same in words.
 */
export function levelText(level, dial) {
  if (level === null) return "nothing";
  if (level === "text") return "full text";
  if (level === "one" || (level === 1 && dial !== "rate")) return "one soft token";
  return dial === "rate" ? `a soft token for every ${counted(level, "token")}` : counted(level, "soft token");
}

/**
 * @param {(number | string | null)[]} levels Of all chunks.
 * @param {"soft_tokens" | "rate"} dial What its numbers are.
 * @returns {Map<number | string | null, {share: number | null, chunks: number}>} For each level that occurs,
 *     full text first and nothing last, its share of the colours, and the chunks that have it.
 */
export function levelsIn(levels, dial) {
  const soft = [...new Set(levels)].filter((level) => typeof level === "number");
  soft.sort((a, b) => (dial === "rate" ? a - b : b - a));
  if (levels.includes("one")) soft.push("one");
  const last = soft.length - 1;
  const shares = new Map([
    ["text", 1],
    ...soft.map((level, place) => [level, last ? FINEST_SOFT * (1 - place / last) : ONLY_SOFT]),
    [null, null],
  ]);
  return new Map(
    [...shares]
      .map(([level, share]) => [level, { share, chunks: levels.filter((item) => item === level).length }])
      .filter(([, { chunks }]) => chunks),
  );
}
