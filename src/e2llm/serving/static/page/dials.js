// How to answer: the sliders, and what they mean for the decoder's window.

import { byId } from "../common/dom.js";
import { count } from "../common/format.js";

/** The settings below the question. */
export class Dials {
  #model = null;
  #context = null;

  /** @param {() => void} changed Called after the level or the way of comparing was changed. */
  constructor(changed) {
    for (const id of ["softTokens", "expand", "maxTokens"]) {
      byId(id).addEventListener("input", () => this.#show());
    }
    for (const id of ["softTokens", "select"]) byId(id).addEventListener("change", changed);
  }

  /** @param {object} model From the server. */
  set model(model) {
    this.#model = model;
    const { dial, rates, max_soft_tokens } = model.e2llm;
    if (dial === "rate") byId("softTokensLabel").textContent = "Text tokens per soft token (rate)";
    byId("softTokens").max = dial === "rate" ? rates.length : max_soft_tokens;
    byId("modelNote").textContent = model.e2llm.note ? `Note: ${model.e2llm.note}.` : "";
    const { window } = model.e2llm;
    if (window && window < 4 * Number(byId("maxTokens").value)) byId("maxTokens").value = Math.floor(window / 4);
    this.#show();
  }

  /** @param {object | null} context The context of the questions. */
  set context(context) {
    this.#context = context;
    this.#show();
  }

  /** @returns {{soft_tokens?: number, rate?: number | string}} What the slider says; empty for the server's choice. */
  get level() {
    const place = Number(byId("softTokens").value);
    if (!place || !this.#model) return {};
    const { dial, rates } = this.#model.e2llm;
    return dial === "rate" ? { rate: rates.at(-place) } : { soft_tokens: place }; // to the right: more soft tokens
  }

  /** @returns {"bm25" | "encoder" | "fused"} How chunks are compared with a question. */
  get select() {
    return byId("select").value;
  }

  /** @returns {object} Fields of a request for an answer. */
  get request() {
    const expand = Number(byId("expand").value);
    return {
      model: this.#model.id,
      ...this.level,
      ...(expand < 0 ? {} : { expand }), // else the server's choice
      max_tokens: Number(byId("maxTokens").value),
      select: this.select,
      sources: this.#model.e2llm.measures_sources ? "measured" : "ranked",
      overflow: byId("overflow").checked ? "select" : "error",
    };
  }

  #show() {
    const { rate, soft_tokens } = this.level;
    const shown = rate === "one" ? "one per chunk" : String(rate ?? soft_tokens ?? "auto");
    byId("softTokensShown").value = shown;
    byId("softTokens").setAttribute("aria-valuetext", shown);
    const expand = byId("expand").value;
    byId("expandShown").value = expand < 0 ? "auto" : expand;
    byId("expand").setAttribute("aria-valuetext", byId("expandShown").value);
    const { text, isTooMuch } = this.#positions(rate === "one" ? 1 : (soft_tokens ?? null));
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
    return { text: isTooMuch ? `${text}: too many to leave room for the answer` : text, isTooMuch };
  }
}
