// The text of a chunk, with what is known of it.

import { byId, make } from "../common/dom.js";
import { count, counted, digits, percent } from "../common/format.js";

/** The panel beside the page, or below it on a phone. */
export class ChunkPanel {
  #on;
  #opener = null;
  #index = null;
  #total = 0;

  /**
   * @param {{step: (index: number) => void, measure: (index: number) => Promise<void>,
   *     closed: () => void}} on What to do for another chunk, to measure one, and after closing.
   */
  constructor(on) {
    this.#on = on;
    byId("closeChunk").addEventListener("click", () => this.close(true));
    byId("previousChunk").addEventListener("click", () => on.step(this.#index - 1));
    byId("nextChunk").addEventListener("click", () => on.step(this.#index + 1));
    byId("measureChunk").addEventListener("click", () => on.measure(this.#index));
    byId("chunk").addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close(true);
    });
  }

  /** @returns {number | null} The chunk that is shown, if it is one of the context. */
  get index() {
    return byId("chunk").hidden ? null : this.#index;
  }

  /**
   * @param {{index: number | null, total: number, document: string, start: number, end: number,
   *     tokens: number | null, text: string}} chunk What to show; index null for a piece of a message.
   */
  show(chunk) {
    if (byId("chunk").hidden) this.#opener = document.activeElement;
    this.#index = chunk.index;
    this.#total = chunk.total;
    const isKept = chunk.index !== null;
    byId("chunkTitle").textContent = isKept
      ? `Chunk ${count(chunk.index + 1)} of ${count(chunk.total)}`
      : "Part of an older message";
    const place = `${chunk.document}, characters ${count(chunk.start)} to ${count(chunk.end)}`;
    byId("chunkPlace").textContent = chunk.tokens ? `${place}, ${counted(chunk.tokens, "token")}` : place;
    byId("chunkText").textContent = chunk.text;
    byId("chunkText").scrollTop = 0;
    byId("previousChunk").disabled = !isKept || chunk.index === 0;
    byId("nextChunk").disabled = !isKept || chunk.index === chunk.total - 1;
    byId("chunk").hidden = false;
    if (!byId("chunk").contains(document.activeElement)) byId("chunkTitle").focus();
  }

  /**
   * @param {number | null} relevance To the question; null if none was asked.
   * @param {object | null} fidelity As the server measures it; null if it was not.
   */
  showNumbers(relevance, fidelity) {
    const rows = [];
    if (relevance !== null) rows.push(["Relevance to the question", digits(relevance)]);
    if (fidelity) {
      rows.push(["Fidelity score", digits(fidelity.score)]);
      rows.push(["What soft tokens add", `${digits(fidelity.gain)} nats per token`]);
      rows.push(["Tokens restored", percent(fidelity.token_accuracy)]);
      if (fidelity.numbers_kept !== null) rows.push(["Numbers kept", percent(fidelity.numbers_kept)]);
      if (fidelity.names_kept !== null) rows.push(["Names kept", percent(fidelity.names_kept)]);
    }
    const items = rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
    byId("chunkNumbers").replaceChildren(...items);
    byId("measureChunk").hidden = this.#index === null || fidelity !== null;
  }

  /** @param {boolean} returnsFocus Whether the focus goes back to where it was. */
  close(returnsFocus) {
    if (byId("chunk").hidden) return;
    byId("chunk").hidden = true;
    if (returnsFocus && this.#opener?.isConnected) this.#opener.focus();
    this.#opener = null;
    this.#on.closed();
  }
}
