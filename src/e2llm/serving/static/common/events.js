// Server-sent events out of a fetch: EventSource sends no body and no Authorization header.

/**
 * Take events out of text that comes in pieces; a piece may end anywhere, within a line too.
 * Only `data` fields matter here; comments and other fields are passed over.
 */
export class EventParser {
  #rest = "";
  #data = [];

  /**
   * @param {string} piece The next piece of text.
   * @returns {string[]} Data of the events that it completes.
   */
  push(piece) {
    // A carriage return at the end waits: it may be the first half of a line end.
    const text = this.#rest + piece;
    const held = text.endsWith("\r") ? 1 : 0;
    const lines = text.slice(0, text.length - held).split(/\r\n|\r|\n/);
    this.#rest = lines.pop() + text.slice(text.length - held);
    return lines.map((line) => this.#take(line)).filter((data) => data !== null);
  }

  #take(line) {
    if (line === "") {
      const data = this.#data.length ? this.#data.join("\n") : null;
      this.#data = [];
      return data;
    }
    if (line.startsWith("data:")) this.#data.push(line.slice(5).replace(/^ /, ""));
    return null;
  }
}

/**
 * Values of a response's events, until `[DONE]`.
 *
 * @param {ReadableStream<Uint8Array>} body The response's body.
 * @yields {object} Each event's data, read as JSON.
 */
export async function* readEvents(body) {
  const parser = new EventParser();
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new TypeError("the stream was interrupted");
      for (const data of parser.push(value)) {
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // what is left has no reader; a broken stream says so again here
  }
}
