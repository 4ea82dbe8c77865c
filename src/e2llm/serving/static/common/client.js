// The API as this page uses it.

import { readEvents } from "./events.js";

/** An answer of the server that is an error, or none at all (status 0). */
export class ApiError extends Error {
  /**
   * @param {string} message For people.
   * @param {number} status HTTP status; 0 if nothing came.
   * @param {number | null} retryAfter Seconds after which to try again.
   */
  constructor(message, status, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** @returns {boolean} Whether an error only says that somebody gave up. */
export const isAbort = (error) => error?.name === "AbortError";

/** Asks the server that the page came from. */
export class Client {
  /** @param {() => string | null} apiKey Gives the key to send, if any. */
  constructor(apiKey) {
    this.apiKey = apiKey;
  }

  /** @returns {Promise<object>} The model that is served. */
  async model() {
    return (await this.#json("v1/models")).data[0];
  }

  /** @returns {Promise<object[]>} All contexts, newest first. */
  async contexts() {
    const found = [];
    let after = "";
    do {
      const page = await this.#json(`v1/contexts?limit=1000${after}`);
      found.push(...page.data);
      after = page.has_more ? `&after=${page.next}` : "";
    } while (after);
    return found;
  }

  /** @returns {Promise<object>} A context with the spans of its chunks. */
  context(id, signal) {
    return this.#json(`v1/contexts/${id}`, { signal });
  }

  /** @returns {Promise<object>} That it is gone. */
  remove(id) {
    return this.#json(`v1/contexts/${id}`, { method: "DELETE" });
  }

  /** @returns {Promise<object>} A chunk with its text. */
  async chunk(id, index, signal) {
    return (await this.#json(`v1/contexts/${id}/chunks?start=${index}&count=1`, { signal })).data[0];
  }

  /** @returns {Promise<number[]>} How relevant each chunk is to a question. */
  async relevance(id, question, select, signal) {
    const path = `v1/contexts/${id}/relevance`;
    return (await this.#json(path, { ...sending({ question, select }), signal })).scores;
  }

  /** @returns {Promise<object>} How well `count` chunks survived, from chunk `start` on. */
  fidelity(id, start, count, level, signal) {
    const query = new URLSearchParams({ start, count, ...level });
    return this.#json(`v1/contexts/${id}/fidelity?${query}`, { signal });
  }

  /**
   * Read documents, as a new context or at the end of one.
   *
   * @param {{files?: File[], text?: string, name?: string, contextId?: string}} what Files or a text.
   * @param {AbortSignal} signal Stops the reading.
   * @yields {object} Events: `context.progress`, at the end the context.
   */
  read({ files, text, name, contextId }, signal) {
    const path = contextId ? `v1/contexts/${contextId}/documents` : "v1/contexts";
    if (!files) return this.#events(path, { text, ...(name && { name }), stream: true }, signal);
    const form = new FormData();
    for (const file of files) form.append("file", file);
    if (name) form.append("name", name);
    form.append("stream", "true");
    return this.#events(path, form, signal);
  }

  /**
   * Answer a conversation.
   *
   * @param {object} request As /v1/chat/completions takes it.
   * @param {AbortSignal} signal Stops the answer, on the server too.
   * @yields {object} Chunks.
   */
  answer(request, signal) {
    const streaming = { stream: true, stream_options: { include_usage: true } };
    return this.#events("v1/chat/completions", { ...request, ...streaming }, signal);
  }

  async *#events(path, body, signal) {
    const response = await this.#fetch(path, { ...sending(body), signal });
    try {
      for await (const event of readEvents(response.body)) {
        if (event.error) throw new ApiError(event.error.message, response.status);
        yield event;
      }
    } catch (error) {
      if (error instanceof TypeError) throw new ApiError("The connection to the server was lost.", 0);
      throw error;
    }
  }

  async #json(path, options) {
    return (await this.#fetch(path, options)).json();
  }

  async #fetch(path, options = {}) {
    const key = this.apiKey();
    const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
    let response;
    try {
      response = await fetch(new URL(path, document.baseURI), { ...options, headers });
    } catch (error) {
      if (isAbort(error)) throw error;
      throw new ApiError("The server cannot be reached. Is it running, and is the network up?", 0);
    }
    if (!response.ok) throw await errorOf(response);
    return response;
  }
}

function sending(body) {
  if (body instanceof FormData) return { method: "POST", body };
  return { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
}

async function errorOf(response) {
  const answer = await response.json().catch(() => null);
  const message = answer?.error?.message ?? `The server answered with status ${response.status}.`;
  const wait = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  return new ApiError(message, response.status, Number.isNaN(wait) ? null : wait);
}
