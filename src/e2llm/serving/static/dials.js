// How to answer: the sliders, and what they mean for the decoder's window.

import { byId } from "./dom.js";
import { count } from "./format.js";

const softTokens = () => Number(byId("softTokens").value) || null;

/** The settings below the question. */
export class Dials {
  #model = null;
  #context = null;

  /** @param {() => void} changed Called after k or the way of comparing was changed. */
  constructor(changed) {
    for (const id of ["softTokens", "expand", "maxTokens"]) {
      byId(id).addEventListener("input", () => this.#show());
    }
    for (const id of ["softTokens", "select"]) byId(id).addEventListener("change", changed);
  }

  /** @param {object} model As the server tells of it. */
  set model(model) {
    this.#model = model;
    byId("softTokens").max = model.e2llm.max_soft_tokens;
    const { window } = model.e2llm;
    if (window && window < 4 * Number(byId("maxTokens").value)) byId("maxTokens").value = Math.floor(window / 4);
    this.#show();
  }

  /** @param {object | null} context What is answered from. */
  set context(context) {
    this.#context = context;
    this.#show();
  }

  /** @returns {number | null} Soft tokens per chunk; null to leave it to the server. */
  get softTokens() {
    return softTokens();
  }

  /** @returns {"bm25" | "encoder"} How chunks are compared with a question. */
  get select() {
    return byId("select").value;
  }

  /** @returns {object} Fields of a request for an answer. */
  get request() {
    return {
      model: this.#model.id,
      ...(softTokens() && { soft_tokens: softTokens() }),
      expand: Number(byId("expand").value),
      max_tokens: Number(byId("maxTokens").value),
      select: this.select,
      overflow: byId("overflow").checked ? "select" : "error",
    };
  }

  #show() {
    const k = softTokens();
    const shown = k === null ? "auto" : String(k);
    byId("softTokensShown").value = shown;
    byId("softTokens").setAttribute("aria-valuetext", shown);
    byId("expandShown").value = byId("expand").value;
    const { text, isTooMuch } = this.#positions(k);
    byId("positions").textContent = text;
    byId("positions").classList.toggle("warning", isTooMuch);
  }

  /** Positions that soft tokens take, of those that the window has. */
  #positions(k) {
    const chunks = this.#context?.chunks;
    const window = this.#model?.e2llm.window;
    if (!chunks || !window || k === null) return { text: "", isTooMuch: false };
    const isTooMuch = chunks * k + Number(byId("maxTokens").value) > window;
    const text = `${count(chunks)} chunks × ${k} = ${count(chunks * k)} of ${count(window)} positions`;
    return { text: isTooMuch ? `${text}: too many beside the answer` : text, isTooMuch };
  }
}
