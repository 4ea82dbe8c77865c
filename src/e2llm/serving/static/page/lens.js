// What the strip is coloured by: relevance to the question, fidelity, fetched as far as it is wanted, or detail.

import { isAbort } from "../common/client.js";
import { levelsIn } from "./levels.js";

const SLICE = 16;

/** Numbers of a context's chunks. */
export class Lens {
  #client;
  #changed;
  #failed;
  #asking = null;
  #measuring = null;
  #known = new Map();

  /** "relevance", "fidelity" or "detail". */
  mode = "relevance";
  /** The context from the server, or null. */
  context = null;
  /** The question that `scores` belong to. */
  question = "";
  /** @type {number[] | null} */
  scores = null;
  /** Soft tokens per chunk, or the rate, that fidelity is measured with; empty for the model's own. */
  level = {};
  /** What the decoder got of each chunk for the last answer; empty if there is none. */
  levels = [];
  /** What the numbers of levels are: "soft_tokens" or "rate". */
  dial = "soft_tokens";

  /**
   * @param {import("../common/client.js").Client} client Asks the server.
   * @param {() => void} changed Called after every change.
   * @param {(error: Error) => void} failed Called with an error.
   */
  constructor(client, changed, failed) {
    this.#client = client;
    this.#changed = changed;
    this.#failed = failed;
  }

  /** @param {object | null} context What to look at from now on; the caller shows it. */
  look(context) {
    this.#asking?.abort();
    this.pause();
    this.context = context;
    this.question = "";
    this.scores = null;
  }

  /**
   * Compare the chunks with a question.
   *
   * @param {string} question Empty for none.
   * @param {"bm25" | "encoder"} select How.
   */
  async compare(question, select) {
    this.#asking?.abort();
    const wanted = question.trim();
    if (!this.context || !wanted) {
      this.question = "";
      this.scores = null;
      this.#changed();
      return;
    }
    const asking = (this.#asking = new AbortController());
    try {
      const scores = await this.#client.relevance(this.context.id, wanted, select, asking.signal);
      if (asking.signal.aborted) return;
      this.question = wanted;
      this.scores = scores;
      this.#changed();
    } catch (error) {
      if (!isAbort(error)) this.#failed(error);
    }
  }

  // --- fidelity ------------------------------------------------------------------------------------------

  /** Numbers known for this context, version and k, by chunk. @returns {Map<number, object>} */
  get fidelity() {
    const { id, version } = this.context ?? {};
    const key = `${id} ${version} ${JSON.stringify(this.level)}`;
    if (!this.#known.has(key)) this.#known.set(key, new Map());
    return this.#known.get(key);
  }

  /** @returns {boolean} Whether it is being measured. */
  get isMeasuring() {
    return this.#measuring !== null;
  }

  /** @returns {boolean} Whether every chunk was measured. */
  get isMeasured() {
    return this.context !== null && this.fidelity.size >= this.context.chunks;
  }

  /** Measure what is not known yet, slice by slice. */
  async measure() {
    this.pause();
    const measuring = (this.#measuring = new AbortController());
    const known = this.fidelity;
    try {
      while (!measuring.signal.aborted) {
        const start = firstMissing(known, this.context.chunks);
        this.#changed();
        if (start === null) break;
        await this.#fetch(known, start, SLICE, measuring.signal);
      }
    } catch (error) {
      if (!isAbort(error)) this.#failed(error);
    }
    if (this.#measuring === measuring) this.#measuring = null;
    this.#changed();
  }

  /** Stop measuring; what is known stays. */
  pause() {
    this.#measuring?.abort();
    this.#measuring = null;
  }

  /** Measure one chunk. */
  async measureOne(index) {
    await this.#fetch(this.fidelity, index, 1);
    this.#changed();
  }

  async #fetch(known, start, count, signal) {
    const slice = await this.#client.fidelity(this.context.id, start, count, this.level, signal);
    for (const item of slice.data) known.set(item.chunk, { ...item, softTokens: slice.soft_tokens, rate: slice.rate });
  }

  // --- colours -------------------------------------------------------------------------------------------

  /** @returns {(number | null)[]} What the colours stand for, by chunk. */
  get values() {
    const chunks = this.context?.chunks ?? 0;
    if (this.mode === "detail") return Array(chunks).fill(null); // not a number
    if (this.mode === "relevance") return this.scores ?? Array(chunks).fill(null);
    const known = this.fidelity;
    return Array.from({ length: chunks }, (_, index) => known.get(index)?.score ?? null);
  }

  /** @returns {[number, number] | null} The least and greatest value; null if there is none. */
  get range() {
    const present = this.values.filter((value) => value !== null);
    if (!present.length) return null;
    return present.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  }

  /** @returns {(number | null)[]} The values, stretched so that the least is 0 and the greatest 1. */
  get shares() {
    if (this.mode === "detail") {
      const found = levelsIn(this.levels, this.dial);
      return this.levels.map((level) => found.get(level).share);
    }
    const [low, high] = this.range ?? [0, 0];
    return this.values.map((value) => {
      if (value === null) return null;
      return high > low ? (value - low) / (high - low) : 0;
    });
  }

  /** @returns {number[]} The most relevant chunks, or those that survived worst; at most five. */
  get notable() {
    const [low, high] = this.range ?? [0, 0];
    if (low === high) return [];
    const sign = this.mode === "relevance" ? -1 : 1;
    const present = this.values.map((value, index) => ({ value, index })).filter(({ value }) => value !== null);
    return present.sort((a, b) => sign * (a.value - b.value)).slice(0, 5).map(({ index }) => index);
  }
}

function firstMissing(known, count) {
  for (let index = 0; index < count; index += 1) if (!known.has(index)) return index;
  return null;
}
