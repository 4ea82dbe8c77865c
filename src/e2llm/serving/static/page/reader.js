// Reading documents: choose, drop or paste, then watch.

import { isAbort } from "../common/client.js";
import { announce, byId } from "../common/dom.js";
import { counted, count, seconds } from "../common/format.js";
import { Strip } from "./strip.js";

/** The form for documents, and the progress of reading. */
export class Reader {
  #client;
  #on;
  #strip = new Strip(byId("readingStrip"));
  #reading = null;
  #quarter = 0;
  #target = null;
  #isOpen = true;

  /**
   * @param {import("../common/client.js").Client} client Asks the server.
   * @param {{read: (context: object) => void, failed: (error: Error) => void, begun: () => void}} on What to
   *     do with a context that was read, with what went wrong, and at the start.
   */
  constructor(client, on) {
    this.#client = client;
    this.#on = on;
    byId("readForm").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#readForm();
    });
    byId("files").addEventListener("change", () => this.#readFiles([...byId("files").files]));
    byId("cancelReading").addEventListener("click", () => this.#reading?.abort());
    byId("closeReader").addEventListener("click", () => {
      this.show(this.#target, false);
      byId("addDocument").focus();
    });
    this.#takeDrops();
  }

  /**
   * @param {object | null} context What to add documents to; null for a new one.
   * @param {boolean} isOpen Whether the form is to be seen.
   */
  show(context, isOpen) {
    this.#target = context;
    this.#isOpen = isOpen;
    byId("readTitle").textContent = context ? `Add to ${context.name}` : "Read a document";
    byId("closeReader").hidden = !context;
    this.#showParts();
  }

  #showParts() {
    const isReading = this.#reading !== null;
    byId("readSection").hidden = !this.#isOpen && !isReading;
    byId("readForm").hidden = isReading;
    byId("progressBox").hidden = !isReading;
  }

  #takeDrops() {
    const page = document.documentElement;
    const over = (event) => {
      const { types } = event.dataTransfer;
      const isText = types.includes("text/plain") && !event.target.matches?.("textarea, input");
      if (!isText && !types.includes("Files")) return;
      event.preventDefault();
      byId("drop").classList.add("over");
    };
    page.addEventListener("dragover", over);
    page.addEventListener("dragleave", () => byId("drop").classList.remove("over"));
    page.addEventListener("drop", (event) => {
      byId("drop").classList.remove("over");
      const files = [...event.dataTransfer.files];
      if (!files.length && event.target.matches?.("textarea, input")) return;
      event.preventDefault();
      if (files.length) this.#readFiles(files);
      else byId("paste").value = event.dataTransfer.getData("text/plain");
    });
  }

  #readFiles(files) {
    if (files.length) this.#read({ files });
  }

  #readForm() {
    const text = byId("paste").value;
    if (!text.trim()) this.#on.failed(new Error("There is no text to read: paste one, or choose a file."));
    else this.#read({ text, name: firstLine(text) });
  }

  async #read(what) {
    if (this.#reading) {
      this.#on.failed(new Error("A text is being read; wait for it, or cancel it."));
      return;
    }
    this.#on.begun();
    const reading = (this.#reading = new AbortController());
    const target = this.#isOpen ? this.#target : null; // dropped beside a closed form: a new context
    const name = byId("readName").value.trim() || what.name;
    this.#begin();
    try {
      let last = null;
      for await (const event of this.#client.read({ ...what, name, contextId: target?.id }, reading.signal)) {
        if (event.object === "context.progress") this.#note(event.chunks_read, event.chunks);
        else last = event;
      }
      this.#end();
      byId("readForm").reset();
      announce(`Read: ${last.name} has ${counted(last.chunks, "chunk")}.`);
      this.#on.read(last);
    } catch (error) {
      this.#end();
      if (isAbort(error)) announce("Reading cancelled.");
      else this.#on.failed(error);
    }
  }

  #begin() {
    this.#quarter = 0;
    this.started = performance.now();
    this.#showParts();
    byId("progress").removeAttribute("value");
    byId("progressText").textContent = "Sending the text";
    this.#strip.count = 0;
    announce("Reading.");
    byId("cancelReading").focus();
  }

  #end() {
    this.#reading = null;
    this.#showParts();
    byId("files").value = "";
  }

  #note(done, total) {
    if (!total) return;
    byId("progress").max = total;
    byId("progress").value = done;
    const spent = (performance.now() - this.started) / 1000;
    const left = done && done < total ? `, about ${seconds((spent / done) * (total - done))} left` : "";
    byId("progressText").textContent = `Read ${count(done)} of ${counted(total, "chunk")}${left}`;
    this.#strip.count = total;
    this.#strip.shares = Array.from({ length: total }, (_, index) => (index < done ? 0.5 : null));
    this.#strip.draw();
    const quarter = Math.floor((4 * done) / total);
    if (quarter > this.#quarter && quarter < 4) announce(`${quarter * 25} percent read.`);
    this.#quarter = quarter;
  }
}

/** The first words of a text, as a name for it. */
function firstLine(text) {
  const [line] = text.trim().split(/[\r\n]/, 1);
  return line.length <= 60 ? line : `${line.slice(0, 60).trimEnd()}…`;
}
