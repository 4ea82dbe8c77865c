// The figure with the strip: its legend, and what is said of it in words.

import { byId, make } from "../common/dom.js";
import { count, counted, digits } from "../common/format.js";
import { colourInCss } from "./colours.js";
import { levelText, levelsIn } from "./levels.js";
import { Strip } from "./strip.js";

const HINT = "Choose a chunk to see its text.";

/** The strip of the chosen context, coloured by a lens. */
export class StripView {
  #lens;
  #open;
  #strip;
  #sources = [];
  #shownNotable = "";

  /**
   * @param {import("./lens.js").Lens} lens Gives the numbers.
   * @param {(index: number) => void} open Opens a chunk's text.
   */
  constructor(lens, open) {
    this.#lens = lens;
    const point = (index) => {
      byId("pointed").textContent = index === null ? HINT : this.describe(index);
    };
    this.#strip = new Strip(byId("strip"), { open, point, describe: (index) => this.describe(index) });
    this.#open = open;
    byId("goForm").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#strip.moveTo(Number(byId("goTo").value) - 1);
      open(this.#strip.cursor);
    });
    byId("measureButton").addEventListener("click", () => {
      if (!lens.isMeasuring) lens.measure();
      else {
        lens.pause();
        this.update();
      }
    });
  }

  /** A new context, or a new version of it, or none. */
  reset() {
    if (!this.#lens.context) {
      this.#strip.count = 0;
      return;
    }
    const { context } = this.#lens;
    this.#strip.count = context.chunks;
    this.#strip.cursor = Math.min(this.#strip.cursor, context.chunks - 1);
    this.#strip.breaks = new Set(
      context.spans.filter(({ chunk, document }) => chunk && document !== context.spans[chunk - 1].document)
        .map(({ chunk }) => chunk),
    );
    byId("breakKey").hidden = context.documents.length < 2;
    byId("strip").setAttribute("aria-label", `Chunks of ${context.name}`);
    byId("goTo").max = context.chunks;
    this.update();
  }

  /** Go to the first chunk. */
  rewind() {
    this.#strip.cursor = 0;
  }

  /** @param {(number | null)[]} indices Sources of the last answer, in order; null for one of elsewhere. */
  mark(indices) {
    this.#sources = indices;
    this.#strip.marks = new Set(indices.filter((index) => index !== null));
    this.update();
  }

  /** @param {number | null} index The chunk whose text is open. */
  showOpen(index) {
    this.#strip.open = index;
    if (index !== null) this.#strip.cursor = index;
    this.#strip.describe();
    this.#strip.draw();
  }

  /** @returns {string} A chunk in words. */
  describe(index) {
    const span = this.#lens.context.spans[index];
    const value = this.#lens.values[index];
    const document = this.#lens.context.documents[span.document].name;
    const { mode, levels, dial } = this.#lens;
    const source = this.#sources.indexOf(index);
    return [
      `Chunk ${count(index + 1)} of ${count(this.#lens.context.chunks)}`,
      `${document}, characters ${count(span.start)} to ${count(span.end)}`,
      ...(mode === "detail" ? [] : [value === null ? `${mode} unknown` : `${mode} ${digits(value)}`]),
      ...(index < levels.length ? [`given as ${levelText(levels[index], dial)}`] : []),
      ...(source >= 0 ? [`source ${source + 1} of the last answer`] : []),
    ].join(", ");
  }

  /** Show what the lens knows now. */
  update() {
    if (!this.#lens.context) return;
    this.#strip.scale = this.#lens.mode;
    this.#strip.shares = this.#lens.shares;
    this.#strip.describe();
    this.#strip.draw();
    byId("pointed").textContent = HINT;
    this.#showLegend();
    this.#showNotable();
    this.#showMeasuring();
  }

  #showLegend() {
    const { range, mode } = this.#lens;
    byId("legend").classList.toggle("empty", range === null);
    byId("ramp").className = `ramp ${mode}`;
    byId("legendLow").textContent = range ? digits(range[0]) : "";
    byId("legendHigh").textContent = range ? digits(range[1]) : "";
    byId("unknownKey").hidden = mode === "detail" && this.#lens.levels.length > 0;
    byId("sourceKey").hidden = !this.#strip.marks.size;
    byId("levelKeys").replaceChildren(...(mode === "detail" ? this.#levelKeys() : []));
    const texts = {
      relevance: () => this.#relevanceText(),
      fidelity: () => this.#fidelityText(),
      detail: () => this.#detailText(),
    };
    byId("lensText").textContent = texts[mode]();
  }

  #levelKeys() {
    const { levels, dial } = this.#lens;
    return [...levelsIn(levels, dial)].map(([level, { share, chunks }]) => {
      const swatch = make("span.swatch");
      if (share !== null) swatch.style.background = colourInCss("detail", share);
      return make("span.key", {}, swatch, `${levelText(level, dial)}: ${counted(chunks, "chunk")}`);
    });
  }

  #detailText() {
    if (!this.#lens.levels.length) return "Ask a question to see what the decoder gets of each chunk.";
    return "What the decoder got of each chunk for the last answer: full text, soft tokens (fine to coarse) or nothing.";
  }

  #relevanceText() {
    const { question, range } = this.#lens;
    if (!question) return "Type a question below to colour the chunks by relevance.";
    if (range[0] === range[1]) return "No chunk stands out for this question.";
    return `Relevance of each chunk to “${question}”, from lowest to highest.`;
  }

  #fidelityText() {
    const known = [...this.#lens.fidelity.values()];
    if (!known.length) return "How well the decoder can restate each chunk from its soft tokens.";
    const mean = known.reduce((sum, item) => sum + item.score, 0) / known.length;
    const { softTokens, rate } = known[0];
    const level = rate === null ? counted(softTokens, "soft token") : `soft tokens (rate ${rate})`;
    return [
      `How well the decoder can restate each chunk from its ${level}:`,
      "the geometric mean of its tokens' probabilities, 0 to 1.",
      `Mean of ${counted(known.length, "chunk")}: ${digits(mean)}; colours run from lowest to highest.`,
    ].join(" ");
  }

  #showNotable() {
    const { notable, mode } = this.#lens;
    const shown = `${mode} ${notable}`;
    if (shown === this.#shownNotable) return; // the focus may be on one of the buttons
    this.#shownNotable = shown;
    const title = mode === "relevance" ? "Most relevant:" : "Least preserved:";
    const buttons = notable.map((index) =>
      make("button.small", { type: "button", onclick: () => this.#open(index) }, `Chunk ${count(index + 1)}`),
    );
    byId("notable").replaceChildren(...(buttons.length ? [make("span.quiet", {}, title), ...buttons] : []));
  }

  #showMeasuring() {
    const lens = this.#lens;
    byId("measureBox").hidden = lens.mode !== "fidelity" || lens.isMeasured;
    byId("measureProgress").max = lens.context.chunks;
    byId("measureProgress").value = lens.fidelity.size;
    byId("measureButton").textContent = lens.isMeasuring ? "Pause" : "Continue measuring";
  }
}
