// The conversation about a context, or about nothing.

import { TurnView } from "./answer.js";
import { isAbort } from "../common/client.js";
import { announce, byId } from "../common/dom.js";
import { loadTurns, saveTurns } from "../common/memory.js";
import { problemText } from "../common/problem.js";
import { following, goToEnd } from "./scrolling.js";

/** Asks, shows answers as they come, and keeps the conversation. */
export class Chat {
  #client;
  #on;
  #contextId = null;
  #turns = [];
  #answering = null;

  /** The field that sets the compression: "soft_tokens" or "rate". */
  dial = "soft_tokens";

  /**
   * @param {import("../common/client.js").Client} client Asks the server.
   * @param {{openChunk: (chunk: object) => void, given: (turn: object | undefined) => void,
   *     failed: (error: Error) => void, busy: (isBusy: boolean) => void}} on What to do when a chunk is to be
   *     opened, when sources and levels of the last turn are known, when something went wrong, and around an
   *     answer.
   */
  constructor(client, on) {
    this.#client = client;
    this.#on = on;
    addEventListener("pagehide", () => this.#save(this.#contextId, this.#turns));
  }

  /** @param {string | null} contextId Whose conversation to show. */
  show(contextId) {
    this.stop();
    this.#contextId = contextId;
    this.#turns = loadTurns(contextId);
    byId("turns").replaceChildren(...this.#turns.map((turn) => this.#view(turn).element));
    this.#on.given(this.#turns.at(-1));
    this.#tidy();
  }

  /** @returns {string} The last question; empty if there is none. */
  get lastQuestion() {
    return this.#turns.at(-1)?.question ?? "";
  }

  /** Stop the answer that is coming; the server stops its work as well. */
  stop() {
    this.#answering?.abort();
  }

  /** Forget the conversation. */
  clear() {
    this.stop();
    this.#turns.splice(0); // also for the answer that was stopped, which is kept a moment later
    saveTurns(this.#contextId, []);
    this.show(this.#contextId);
  }

  /**
   * Ask.
   *
   * @param {string} question The next message.
   * @param {object} settings Fields of the request: model, soft_tokens, expand and so on.
   * @param {number} numChunks Chunks of the context; those of compressed messages follow them.
   * @returns {Promise<boolean>} False if nothing came of it, and the question is to be asked again.
   */
  async ask(question, settings, numChunks) {
    const turn = { question, answer: "", state: "streaming", sources: [], dial: this.dial };
    const [contextId, turns] = [this.#contextId, this.#turns];
    const request = {
      ...settings,
      messages: [...messagesOf(turns), { role: "user", content: question }],
      ...(contextId && { context_ids: [contextId] }),
    };
    turns.push(turn);
    const view = this.#view(turn);
    byId("turns").append(view.element);
    this.#begin();
    const answering = (this.#answering = new AbortController());
    try {
      for await (const chunk of this.#client.answer(request, answering.signal)) {
        this.#take(chunk, turn, view, numChunks);
      }
      turn.state = "done";
    } catch (error) {
      turn.state = isAbort(error) ? "stopped" : "broken";
      if (!isAbort(error)) {
        turn.problem = `The answer was interrupted: ${problemText(error)}`;
        this.#on.failed(error);
      }
    }
    const isEmpty = turn.state === "broken" && !turn.answer;
    if (isEmpty) {
      turns.splice(turns.indexOf(turn), 1);
      view.element.remove();
    } else following(() => view.finish(turn));
    this.#save(contextId, turns);
    if (this.#answering === answering) this.#end(turn, isEmpty);
    return !isEmpty;
  }

  #take(chunk, turn, view, numChunks) {
    const [choice] = chunk.choices;
    if (choice?.delta.content) {
      turn.answer += choice.delta.content;
      following(() => view.add(choice.delta.content));
    }
    if (choice?.finish_reason) turn.finish = choice.finish_reason;
    if (chunk.e2llm) {
      [turn.sources] = chunk.e2llm.sources;
      turn.levels = chunk.e2llm.levels.slice(0, numChunks);
      following(() => view.showSources(turn));
      this.#on.given(turn);
    }
    if (chunk.usage) {
      turn.usage = chunk.usage;
      turn.timing = chunk.e2llm.timing;
    }
  }

  #view(turn) {
    return new TurnView(turn, this.#on.openChunk);
  }

  #begin() {
    this.#on.busy(true);
    this.#tidy();
    announce("Answering.");
    goToEnd();
  }

  #end(turn, isEmpty) {
    this.#answering = null;
    this.#on.busy(false);
    this.#tidy();
    if (isEmpty) this.#on.given(this.#turns.at(-1));
    else announce(turn.state === "stopped" ? "Stopped." : `Answer: ${turn.answer}`);
  }

  #tidy() {
    byId("startOver").hidden = !this.#turns.length;
    byId("talkHint").hidden = this.#turns.length > 0;
  }

  #save(contextId, turns) {
    const kept = turns.map((turn, place) => ({
      ...turn,
      state: turn.state === "streaming" ? "stopped" : turn.state,
      levels: place === turns.length - 1 ? turn.levels : undefined, // many, and shown of the last turn only
    }));
    if (saveTurns(contextId, kept)) return;
    announce("This conversation is too long to survive a reload of the page.");
  }
}

function messagesOf(turns) {
  return turns.flatMap(({ question, answer }) => [
    { role: "user", content: question },
    ...(answer ? [{ role: "assistant", content: answer }] : []),
  ]);
}
