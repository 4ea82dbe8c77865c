// A question with its answer, and below it what the answer took.

import { make } from "../common/dom.js";
import { bytes, count, counted, digits, seconds, times } from "../common/format.js";

const ENDS = {
  stopped: "Stopped.",
  length: "Cut off: the answer reached its maximum length.",
};

/** A turn of the conversation on the page. */
export class TurnView {
  #text = make("div.answer");
  #chunks = make("div.expanded");
  #cost = make("div.cost");
  #openChunk;

  /**
   * @param {object} turn As `Chat` keeps it.
   * @param {(chunk: object) => void} openChunk Opens the text of a chunk that was given.
   */
  constructor(turn, openChunk) {
    this.#openChunk = openChunk;
    const question = make("h3.question", {}, turn.question);
    this.element = make("li", {}, question, this.#text, this.#chunks, this.#cost);
    this.add(turn.answer);
    this.showExpanded(turn.expanded);
    if (turn.state === "streaming") this.element.classList.add("streaming");
    else this.finish(turn);
  }

  /** @param {string} piece More of the answer. */
  add(piece) {
    this.#text.append(piece);
  }

  /** @param {object[]} expanded Chunks that the decoder got as text. */
  showExpanded(expanded) {
    if (!expanded.length) {
      this.#chunks.replaceChildren();
      return;
    }
    const buttons = expanded.map((chunk) => {
      const label = chunk.context_chunk === null ? chunk.document : `Chunk ${count(chunk.context_chunk + 1)}`;
      return make("button.small", { type: "button", onclick: () => this.#openChunk(chunk) }, label);
    });
    this.#chunks.replaceChildren(make("span.quiet", {}, "Given as full text:"), ...buttons);
  }

  /** @param {object} turn The turn, at its end. */
  finish(turn) {
    this.element.classList.remove("streaming");
    const end = turn.problem ?? ENDS[turn.state] ?? ENDS[turn.finish] ?? null;
    if (!turn.answer && turn.state === "done") this.#text.append(make("span.quiet", {}, "The answer is empty."));
    this.#cost.replaceChildren(...(end ? [make("p.end", {}, end)] : []), ...costOf(turn));
  }
}

function costOf({ usage, timing }) {
  if (!usage) return [];
  const notes = make("p.quiet", {}, notesOf(usage, timing).join(" · "));
  if (usage.original_tokens <= usage.prompt_tokens) return [notes];
  return [make("dl.savings", {}, ...savingsOf(usage, timing)), notes];
}

const ENOUGH_POSITIONS = 256; // a pass over fewer says little of how long many take
let secondsPerPosition = null; // of the last answer whose prompt was read, not remembered by the server

function noteSpeed(usage, timing) {
  const read = usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens;
  if (timing?.prompt_seconds && read >= ENOUGH_POSITIONS) secondsPerPosition = timing.prompt_seconds / read;
}

function savingsOf(usage, timing) {
  noteSpeed(usage, timing);
  const ratio = usage.original_tokens / usage.prompt_tokens;
  const fewer = `${times(ratio)} fewer`;
  const items = [
    saving("Decoder positions", count(usage.prompt_tokens), 1 / ratio, [
      `instead of ${count(usage.original_tokens)}: ${fewer}`,
    ]),
    saving("Cache memory", bytes(usage.kv_cache_bytes), 1 / ratio, [
      `instead of ${bytes(usage.original_kv_cache_bytes)}: ${times(usage.original_kv_cache_bytes / usage.kv_cache_bytes)} less`,
    ]),
  ];
  if (timing?.first_token_seconds && secondsPerPosition) {
    const whole = usage.original_tokens * secondsPerPosition;
    items.push(
      saving("Time to the first token", seconds(timing.first_token_seconds), timing.first_token_seconds / whole, [
        `estimate for full context: ${seconds(whole)}`,
        " or more (the cost of attention grows faster than length)",
      ]),
    );
  }
  return items;
}

function saving(name, value, share, against) {
  const bar = make("span.bar", { "aria-hidden": "true" }, make("span"));
  bar.firstChild.style.width = `${Math.min(100, Math.max(0.5, share * 100))}%`;
  const number = make("dd.number", {}, value);
  return make("div", {}, make("dt", {}, name), number, make("dd.quiet", {}, bar, ...against));
}

/** Earlier questions are compressed with their answers, so an odd number counts the new message as well. */
function compressionOf(count) {
  const older = count - (count % 2);
  return [
    ...(older ? [`${older} older messages are compressed`] : []),
    ...(count % 2 ? ["the middle of this message is compressed"] : []),
  ];
}

function notesOf(usage, timing) {
  const notes = usage.note ? [usage.note] : [];
  if (usage.soft_tokens) {
    const about = usage.rate === null ? "" : ` (rate ${usage.rate})`;
    notes.push(
      `${counted(usage.soft_tokens_per_chunk, "soft token")} per chunk${about}`,
      `${digits(usage.compression)} tokens of text per position`,
    );
  } else notes.push(`${counted(usage.prompt_tokens, "position")}, all of them text`);
  notes.push(...compressionOf(usage.messages_compressed));
  if (usage.chunks_left_out) notes.push(`${counted(usage.chunks_left_out, "chunk")} left out`);
  const took = timing ? ` in ${seconds(timing.total_seconds)}` : "";
  notes.push(`${counted(usage.completion_tokens, "token")} of answer${took}`);
  return notes;
}
