// A question with its answer, and below it what the answer took.

import { make } from "../common/dom.js";
import { bytes, count, counted, digits, seconds, times } from "../common/format.js";
import { levelText } from "./levels.js";

const ENDS = {
  stopped: "Stopped.",
  length: "Cut off: the answer reached its maximum length.",
};

const EXCERPT_CHARS = 160;
const SIGNIFICANT_NATS = 1; // as on the server: hiding a chunk that does not matter loses less than this
const MOST_TIMES = 1000;

/** A turn of the conversation on the page. */
export class TurnView {
  #text = make("div.answer");
  #sources = make("div.sources");
  #cost = make("div.cost");
  #openChunk;

  /**
   * @param {object} turn As `Chat` keeps it.
   * @param {(chunk: object) => void} openChunk Opens the text of a chunk that was given.
   */
  constructor(turn, openChunk) {
    this.#openChunk = openChunk;
    const question = make("h3.question", {}, turn.question);
    this.element = make("li", {}, question, this.#text, this.#sources, this.#cost);
    this.add(turn.answer);
    this.showSources(turn);
    if (turn.state === "streaming") this.element.classList.add("streaming");
    else this.finish(turn);
  }

  /** @param {string} piece More of the answer. */
  add(piece) {
    this.#text.append(piece);
  }

  /** @param {object} turn With the chunks that the answer may rest on; turns of older pages have none. */
  showSources({ sources = [], dial }) {
    const hadFocus = this.#sources.contains(document.activeElement);
    const most = Math.max(...sources.map(({ weight }) => weight ?? 0));
    const isClear = most >= SIGNIFICANT_NATS;
    const items = sources.map((source, place) => {
      const name = make("span.place", {}, `[${place + 1}] ${source.document}, ${source.place}`);
      const excerpt = make("span.excerpt", {}, source.text.trim().slice(0, EXCERPT_CHARS));
      const open = () => this.#openChunk(source);
      return make(
        "li",
        {},
        make("button.source", { type: "button", onclick: open }, name, " ", excerpt),
        make("p.quiet", {}, isClear ? barOf(source.weight / most) : null, aboutSource(source, dial)),
      );
    });
    const title = make("h4.quiet", {}, isClear ? "Sources" : "Possible sources");
    this.#sources.replaceChildren(...(items.length ? [title, make("ol", {}, ...items)] : []));
    if (hadFocus) this.#sources.querySelector("button")?.focus();
  }

  /** @param {object} turn The turn, at its end. */
  finish(turn) {
    this.element.classList.remove("streaming");
    const end = turn.problem ?? ENDS[turn.state] ?? ENDS[turn.finish] ?? null;
    if (!turn.answer && turn.state === "done") this.#text.append(make("span.quiet", {}, "The answer is empty."));
    this.#cost.replaceChildren(...(end ? [make("p.end", {}, end)] : []), ...costOf(turn));
  }
}

/** What the decoder got of a source, and what the answer would be without it. */
function aboutSource({ level, weight }, dial) {
  const given = `Given as ${levelText(level, dial)}.`;
  if (weight === null) return given;
  if (weight < SIGNIFICANT_NATS) return `${given} The answer hardly depends on it.`;
  const ratio = Math.exp(weight);
  const factor = ratio > MOST_TIMES ? `over ${count(MOST_TIMES)}` : digits(Number(ratio.toPrecision(2)));
  return `${given} Without it, the answer is ${factor} times less likely.`;
}

function barOf(share) {
  const bar = make("span.bar", { "aria-hidden": "true" }, make("span"));
  bar.firstChild.style.width = `${Math.min(100, Math.max(0.5, share * 100))}%`;
  return bar;
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
  const number = make("dd.number", {}, value);
  return make("div", {}, make("dt", {}, name), number, make("dd.quiet", {}, barOf(share), ...against));
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
