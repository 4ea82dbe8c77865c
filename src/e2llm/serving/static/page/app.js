// The page: the open context is part of the address (#ctx_...); this file connects the parts.

import { Chat } from "./chat.js";
import { ChunkPanel } from "./chunk_panel.js";
import { Client, isAbort } from "../common/client.js";
import { closeContexts, foldContexts, showContexts } from "./contexts.js";
import { Dials } from "./dials.js";
import { announce, byId, debounced } from "../common/dom.js";
import { counted } from "../common/format.js";
import { Lens } from "./lens.js";
import { loadKey, saveKey, saveTurns } from "../common/memory.js";
import { clearProblem, showProblem } from "../common/problem.js";
import { Reader } from "./reader.js";
import { StripView } from "./strip_view.js";

const TYPING_MILLISECONDS = 400;
const MOST_NAMES = 6;
let context = null;
let lastQuestion = "";
let readFrom;
let loading = new AbortController();

const client = new Client(loadKey);
const lens = new Lens(client, onLens, fail);
const strip = new StripView(lens, openChunk);
const dials = new Dials(onDials);
const panel = new ChunkPanel({ step: openChunk, measure: measureChunk, closed: () => strip.showOpen(null) });
const reader = new Reader(client, { read: onRead, failed: fail, begun: onBegun });
const chat = new Chat(client, { openChunk: openGiven, given: showGiven, failed: fail, busy: showBusy });

// --- what is looked at --------------------------------------------------------------------------------------

async function start() {
  clearProblem();
  byId("forgetKey").hidden = !loadKey();
  try {
    const model = await client.model();
    byId("keySection").hidden = true;
    byId("modelName").textContent = model.id;
    dials.model = model;
    lens.dial = chat.dial = model.e2llm.dial;
    await listContexts();
    await route();
  } catch (error) {
    fail(error);
  }
}

const chosenId = () => /^#(ctx_[0-9a-f]{24})$/.exec(location.hash)?.[1] ?? null;

async function listContexts() {
  showContexts(await client.contexts(), chosenId());
}

/** Show what the address names. */
async function route() {
  loading.abort();
  loading = new AbortController();
  const { signal } = loading;
  const id = chosenId();
  try {
    const found = id && (await client.context(id, signal));
    if (signal.aborted) return;
    show(found);
    await listContexts();
  } catch (error) {
    if (isAbort(error)) return;
    if (error.status === 404) {
      saveTurns(id, []);
      history.replaceState(null, "", "#");
      show(null);
    }
    fail(error);
  }
}

function show(found) {
  const isOther = found?.id !== context?.id;
  context = found;
  panel.close(false);
  reader.show(context, context === null);
  byId("contextSection").hidden = context === null;
  byId("talkHint").textContent = context
    ? "Ask about the text. The answer comes from its soft tokens."
    : "Without a context this is a plain chat; long messages are compressed.";
  document.title = context ? `${context.name} – e2llm` : "e2llm";
  if (context) describeContext();
  if (isOther) strip.rewind();
  lens.look(context);
  strip.reset();
  dials.context = context;
  if (isOther || !byId("turns").childElementCount) chat.show(context?.id ?? null);
  lastQuestion = chat.lastQuestion;
  compare();
  if (lens.mode === "fidelity" && context) lens.measure();
}

function describeContext() {
  byId("contextName").textContent = context.name;
  const documents = context.documents.map(({ name }) => name);
  byId("contextFacts").textContent = [
    ...(documents.length > 1 ? [`${counted(documents.length, "document")}: ${listed(documents)}`] : []),
    counted(context.characters, "character"),
    counted(context.context_tokens, "token"),
    counted(context.chunks, "chunk"),
  ].join(" · ");
}

function listed(names) {
  const more = names.length - MOST_NAMES;
  return [...names.slice(0, MOST_NAMES), ...(more > 0 ? [`and ${more} more`] : [])].join(", ");
}

function onBegun() {
  clearProblem();
  readFrom = context?.id;
}

/** Open the context that was read, unless another one is open by now. */
async function onRead(read) {
  if (context?.id !== readFrom) {
    await listContexts().catch(fail);
    return;
  }
  if (context?.id !== read.id) history.pushState(null, "", `#${read.id}`);
  await route();
  byId("question").focus();
}

async function removeContext() {
  const { id } = context;
  try {
    await client.remove(id);
    chat.clear();
    location.hash = "";
    announce("Deleted.");
  } catch (error) {
    fail(error);
  }
}

// --- chunks -------------------------------------------------------------------------------------------------

function onLens() {
  strip.update();
  showNumbers();
}

function onDials() {
  lens.level = dials.level;
  compare();
  if (lens.mode === "fidelity" && context) lens.measure();
  else onLens();
}

function compare() {
  lens.compare(byId("question").value.trim() || lastQuestion, dials.select);
}

/** Show on the strip what the last answer got, and rests on. */
function showGiven({ sources = [], levels = [] } = {}) {
  lens.levels = context ? levels : [];
  strip.mark(sources.map(({ context_id, context_chunk }) => (context_id === context?.id ? context_chunk : null)));
}

async function openChunk(index) {
  const { id, chunks } = context;
  try {
    const chunk = await client.chunk(id, index);
    if (context?.id !== id || !chunk) return;
    showChunk({ ...chunk, index, total: chunks, document: chunk.document_name });
  } catch (error) {
    fail(error);
  }
}

/** Open a chunk as an answer got it; the context may have changed since. */
function openGiven(chunk) {
  const isKept = chunk.context_chunk !== null && context !== null;
  const tokens = isKept ? (context.spans[chunk.context_chunk]?.tokens ?? null) : null;
  const index = isKept ? chunk.context_chunk : null;
  showChunk({ ...chunk, index, total: context?.chunks ?? 0, tokens });
}

function showChunk(chunk) {
  panel.show(chunk);
  strip.showOpen(chunk.index);
  showNumbers();
}

function showNumbers() {
  const { index } = panel;
  if (index === null) panel.showNumbers(null, null);
  else panel.showNumbers(lens.scores?.[index] ?? null, lens.fidelity.get(index) ?? null);
}

async function measureChunk(index) {
  byId("measureChunk").disabled = true;
  try {
    await lens.measureOne(index);
    byId("chunkTitle").focus();
  } catch (error) {
    fail(error);
  } finally {
    byId("measureChunk").disabled = false;
  }
}

// --- asking -------------------------------------------------------------------------------------------------

async function ask() {
  const field = byId("question");
  const question = field.value.trim();
  if (!question) {
    field.focus();
    return;
  }
  if (byId("askButton").hidden || !isValid()) return;
  clearProblem();
  field.value = "";
  lastQuestion = question;
  compare();
  const isAnswered = await chat.ask(question, dials.request, context?.chunks ?? 0);
  if (!isAnswered && !field.value) field.value = question;
}

/** Whether the settings can be sent; what cannot is shown. */
function isValid() {
  const form = byId("askForm");
  if (!form.checkValidity()) form.querySelector("details").open = true;
  return form.reportValidity();
}

function showBusy(isBusy) {
  const hadFocus = document.activeElement === byId("stopButton");
  byId("askButton").hidden = isBusy;
  byId("stopButton").hidden = !isBusy;
  byId("turns").setAttribute("aria-busy", isBusy);
  if (hadFocus) byId("question").focus();
}

function fail(error) {
  if (error.status !== 401) {
    showProblem(error);
    return;
  }
  byId("keyProblem").textContent = error.message;
  byId("keySection").hidden = false;
  byId("key").focus();
}

// --- listening ----------------------------------------------------------------------------------------------

const onClick = (id, work) => byId(id).addEventListener("click", work);

function listen() {
  addEventListener("hashchange", async () => {
    clearProblem();
    closeContexts();
    await route();
    if (context) byId("contextName").focus();
  });
  byId("keyForm").addEventListener("submit", (event) => {
    event.preventDefault();
    saveKey(byId("key").value.trim());
    byId("key").value = "";
    start();
  });
  onClick("forgetKey", () => {
    chat.clear();
    saveKey(null);
    location.hash = "";
    location.reload();
  });
  onClick("skip", () => byId("question").focus());
  onClick("newContext", () => {
    location.hash = "";
    closeContexts();
    byId("files").focus();
  });
  onClick("addDocument", () => {
    reader.show(context, true);
    byId("files").focus();
  });
  onClick("deleteContext", () => {
    byId("deleteTitle").textContent = `Delete ${context.name}?`;
    byId("deleteDialog").returnValue = "";
    byId("deleteDialog").showModal();
  });
  byId("deleteDialog").addEventListener("close", () => {
    if (byId("deleteDialog").returnValue === "delete") removeContext();
  });
  for (const choice of document.getElementsByName("lens")) {
    choice.addEventListener("change", () => {
      lens.mode = choice.value;
      if (lens.mode === "fidelity") lens.measure();
      else lens.pause();
      onLens();
    });
  }
  listenToQuestion();
}

function listenToQuestion() {
  byId("askForm").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  byId("question").addEventListener("input", debounced(compare, TYPING_MILLISECONDS));
  byId("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  onClick("stopButton", () => chat.stop());
  onClick("startOver", () => {
    chat.clear();
    lastQuestion = "";
    compare();
    byId("question").focus();
  });
}

foldContexts();
listen();
start();
