"""Read a text of any length once; then ask, stream, restate and summarize."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from e2llm.documents import Document, documents_of
from e2llm.documents.loading import Readable
from e2llm.errors import E2LLMError, E2LLMWarning
from e2llm.inference.answer import Answer, Doubt, Source
from e2llm.inference.content import Content, Splitting, note_on_limit, read_content
from e2llm.inference.context import Context
from e2llm.inference.context_file import is_context_file
from e2llm.inference.decoding.generation import check_options, generate_answer, generate_pieces
from e2llm.inference.decoding.likelihood import Likelihood, answer_ids, likelihood
from e2llm.inference.decoding.rounds import call_tools, refine
from e2llm.inference.decoding.sources import (
    coarse_sources,
    measured_sources,
    measures_sources,
    ranked_sources,
)
from e2llm.inference.dial import Dial, Level
from e2llm.inference.fidelity import FidelityReport, measure_fidelity, restate
from e2llm.inference.layout import ContextLayout, LaidOut
from e2llm.inference.loading import choose_device, load_pair
from e2llm.inference.options import AskRequest
from e2llm.inference.planning import Plan, Room
from e2llm.inference.reader import ChunkReader
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.rates import Rate
from e2llm.prompts import SUMMARY_PROMPT
from e2llm.store.chunk_store import ChunkStore


class Engine:
    """A model with its processor, ready to read and answer.

    Several threads may read and ask at once; greedy answers do not depend on this. Sampled
    answers use torch's global generator, so a seed does not fix them if several threads sample.

    Args:
        model: Used in evaluation mode.
        processor: The processor that belongs to it.
        store: Store to look up and keep encoded chunks in, unless a call names another.
        reader: Reads chunks with this model and processor; by default a new `ChunkReader`.

    Raises:
        E2LLMError: If model and processor do not belong together.
    """

    def __init__(
        self,
        model: E2LLMForConditionalGeneration,
        processor: E2LLMProcessor,
        *,
        store: ChunkStore | None = None,
        reader: ChunkReader | None = None,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.store = store
        self.reader = ChunkReader(model, processor) if reader is None else reader
        self._tokenizing = self.reader.lock
        self.dial = Dial(model)
        self._layout = ContextLayout(self.reader, self.dial)
        if processor.chunk_token_id != model.config.chunk_token_id:
            raise E2LLMError(
                f"the processor's placeholder has id {processor.chunk_token_id}, the model's "
                f"{model.config.chunk_token_id}; they do not belong together"
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str],
        *,
        device: str | None = None,
        store: ChunkStore | None = None,
        finest_rate: int | None = None,
        **kwargs: Any,
    ) -> "Engine":
        """Load a model from a folder, a hub id, or the name of an embedded model (`smol`).

        Args:
            name: What to load.
            device: Such as `cpu` or `cuda`; by default a GPU if there is one.
            store: Where chunks that were read are looked up and kept.
            finest_rate: Keep one state per `finest_rate` encoder tokens (`model.set_finest_rate`).
            kwargs: For the model's `from_pretrained` (`dtype`, `revision`, `quantization_config`, ...). On a
                GPU the weights are bfloat16 (float16 where the GPU has none) unless `dtype` says otherwise.

        Raises:
            E2LLMError: If the device is unknown or unavailable, or the checkpoint cannot be loaded.
        """
        model, processor = load_pair(str(name), choose_device(device), kwargs)
        if finest_rate is not None:
            model.set_finest_rate(finest_rate)
        return cls(model, processor, store=store)

    @property
    def window(self) -> int | None:
        """The most positions that the decoder takes; None if its configuration states no limit."""
        return self._layout.window

    @property
    def device(self) -> torch.device:
        """The device of the decoder's input."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    # --- reading ------------------------------------------------------------------------------------------

    def read(
        self,
        source: Readable | Sequence[Readable],
        *,
        chunk_size_chars: int | None = None,
        store: ChunkStore | None = None,
        progress: bool | None = None,
    ) -> Context:
        """Split a text or documents into chunks, encode them, and return the context.

        Args:
            source: A file or folder, a text, a `Document`, or several of them. A `str` of one line that names
                a file or folder is a path; `read_text` takes a text literally.
            chunk_size_chars: Longest chunk, in characters; by default the processor's. Smaller chunks lose
                less and take more of the window.
            store: Store to look up and keep encoded chunks in; by default the
                engine's.
            progress: Show a bar; by default on a terminal when there is much to read.

        Raises:
            FileNotFoundError: If there is no such file, or a text looks like a path and names no file.
            E2LLMError: If there is no text, or a file cannot be read.
            MissingExtraError: If a file needs the extra `documents`, which is not installed.
        """
        started = time.perf_counter()
        store = self.store if store is None else store
        splitting = Splitting.of(self.processor, chunk_size_chars)
        documents = self.documents(source)
        if not any(document.text.strip() for document in documents):
            raise E2LLMError("the context is empty; give a text to read")
        content = read_content(documents, splitting, self.reader, store=store, progress=progress)
        if chunk_size_chars is not None and (note := note_on_limit(content, splitting, self.processor)):
            warnings.warn(note, E2LLMWarning, stacklevel=2)
        return self.bind(content, splitting, time.perf_counter() - started, store=store)

    def read_text(self, text: str, **options: Any) -> Context:
        """Read a text, also one that is the name of a file; options and errors are those of `read`."""
        return self.read(Document("text", text), **options)

    def new_context(self) -> Context:
        """Return a context without documents, to append to."""
        empty = self.reader.empty(0)
        return self.bind(Content((), [], [], [], 0, empty), Splitting.of(self.processor), 0.0)

    def bind(
        self, content: Content, splitting: Splitting, read_seconds: float, *, store: ChunkStore | None = None
    ) -> Context:
        """Return a context for content that this engine's model has read."""
        return Context(
            content,
            splitting,
            self.reader,
            read_seconds=read_seconds,
            store=self.store if store is None else store,
        )

    @staticmethod
    def documents(source: Readable | Sequence[Readable], num_before: int = 0) -> list[Document]:
        """Return the documents of anything that `read` accepts; they follow `num_before` others."""
        for item in source if isinstance(source, list | tuple) else [source]:
            if isinstance(item, str | PathLike) and is_context_file(Path(item)):
                raise E2LLMError(
                    f"{item} is a saved context; open it with Context.load({str(item)!r}, engine)"
                )
        return documents_of(source, num_before)

    # --- answering ----------------------------------------------------------------------------------------

    def ask(
        self, context: Context, question: str, *, on_piece: Callable[[str], Any] | None = None, **options: Any
    ) -> Answer:
        """Answer a question about a context.

        Args:
            context: What `read` returned.
            question: The question or instruction.
            on_piece: Called with each piece of the answer as it comes; the pieces joined are the text. With
                `refine` or `tool_calls` the whole text is one piece.
            options: The fields of `AskOptions` (`budget`, `policy`, `rate`, `soft_tokens`, `expand`,
                `select`, `overflow`, `max_new_tokens`, `sources`, `refine`, `tool_calls`), which describes
                them; `history`, earlier questions with their answers, oldest first; and arguments of
                transformers' `generate` (`num_beams`, `do_sample`, ...). A `temperature` from 0 to 2 samples
                if it is above 0; by default answers are greedy.

        Raises:
            ContextOverflowError: If the input does not fit the window; says by how much and what to turn.
            E2LLMError: If an option is wrong or excludes another, or another model read the context.
        """
        started = time.perf_counter()
        request = AskRequest.take(question, options)
        in_rounds = bool(request.refine or request.tool_calls)

        def answer_once(request: AskRequest) -> tuple[LaidOut, Answer]:
            laid, seconds = self.lay_out(context, request), context.read_seconds
            listener = None if in_rounds else on_piece
            return laid, generate_answer(laid, self._decode, listener, started, seconds, request, **options)

        answer = refine(answer_once, *call_tools(answer_once, request))
        if in_rounds and on_piece is not None:
            on_piece(answer.text)
        return answer

    def stream(self, context: Context, question: str, **options: Any) -> Iterator[str]:
        """Yield the answer piece by piece; joined, the pieces are the text that `ask` returns.

        Options and errors are those of `ask`. The work begins when the first piece is requested, in a
        separate thread; closing the iterator stops it at the next token.
        """
        request = AskRequest.take(question, options)
        laid = self.lay_out(context, request)
        check_options(self.model, options, wants_pieces=True)
        return generate_pieces(laid, self._decode, max_new_tokens=request.max_new_tokens, **options)

    def lay_out(self, context: Context, request: AskRequest) -> LaidOut:
        """Return the decoder's input for a question, as `ask` makes it.

        Raises:
            ContextOverflowError: If the input does not fit the window.
            E2LLMError: As in `ask`.
        """
        return self._layout.lay_out(context, request)

    def plan(self, content: Content, request: AskRequest, room: Room) -> Plan:
        """Choose the form of each chunk within a given room (`ContextLayout.plan`)."""
        return self._layout.plan(content, request, room)

    def check_room(
        self, documents: Sequence[Document], request: AskRequest, chunk_size_chars: int | None = None
    ) -> None:
        """Refuse documents that cannot fit the window, before they are read (`ContextLayout.check_room`)."""
        self._layout.check_room(documents, request, chunk_size_chars)

    def count_positions(
        self, question: str, history: Sequence[tuple[str, str]] = (), *, has_tools: bool = False
    ) -> int:
        """Return the decoder positions of a question with its history and template (and of the tools)."""
        return self._layout.count_positions(question, history, has_tools)

    def score(
        self, context: Context, question: str, answers: Sequence[str], **options: Any
    ) -> list[Likelihood]:
        """Return the likelihood of each of the given answers.

        Args:
            context: What `read` returned.
            question: The instruction.
            answers: Texts to score; each is scored with the end that an answer has.
            options: `soft_tokens`, `rate`, `expand`, ... as in `ask`; room is kept for the longest answer.

        Raises:
            ContextOverflowError: If input and answer do not fit the window.
            E2LLMError: If there is no answer, or an option is unknown.
        """
        if not answers:
            raise E2LLMError("give at least one answer to score")
        with self._tokenizing:
            rows = [answer_ids(self.processor, text) for text in answers]
        if unknown := sorted(options.keys() - AskRequest.model_fields.keys()):
            raise E2LLMError(f"score has no option {', '.join(unknown)}")
        request = AskRequest.take(question, {**options, "max_new_tokens": max(map(len, rows))})
        laid = self.lay_out(context, request)
        return [likelihood(self.model, laid.sample.input_ids, laid.soft_tokens, row) for row in rows]

    def find_sources(self, laid: LaidOut, answer: str, wanted: str | None) -> tuple[list[Source], str]:
        """Return the sources of an answer that was given elsewhere, and the answer with their numbers.

        Args:
            laid: What `lay_out` returned.
            answer: Its text.
            wanted: As `sources` of `ask`.

        Raises:
            E2LLMError: If the decoder does not allow what is wanted.
        """
        if not measures_sources(self.model, wanted):
            return ranked_sources(laid), answer
        with self._tokenizing:
            ids = answer_ids(self.processor, answer)
        return measured_sources(laid, ids, self._decode)

    def doubt(self, context: Context, question: str, answer: Answer, **options: Any) -> Doubt:
        """Return how unlikely the decoder finds an answer, as it was given and with its sources as text.

        Args:
            context: What `read` returned.
            question: The question.
            answer: What `ask` returned for it.
            options: Those that `ask` got: `policy`, `budget`, `rate`, ...

        Raises:
            E2LLMError: As in `score`, or if the answer is no `Answer`.
        """
        if not isinstance(answer, Answer):
            name = type(answer).__name__
            raise E2LLMError(f"doubt takes the Answer that ask returned, got {name}; score takes texts")
        laid = self.lay_out(context, AskRequest.take(question, dict(options)))
        coarse = coarse_sources(laid, answer.sources)
        used = self.score(context, question, [answer.text], **options)[0]
        named = {"expand": sorted([*answer.expanded_chunks, *coarse]), "overflow": "select"}
        finer = self.score(context, question, [answer.text], **options | named)[0] if coarse else used
        return Doubt(used.mean_loss_nats, finer.mean_loss_nats, used.num_tokens)

    def rank(self, context: Context, question: str, *, select: str = "bm25") -> list[float]:
        """Return the relevance of each chunk to a question; higher is more relevant.

        Args:
            context: What `read` returned.
            question: The instruction.
            select: See `ask`.
        """
        return self._layout.rank(context, AskRequest.take(question, {"select": select}))

    def restate(
        self,
        context: Context,
        chunks: Sequence[int],
        *,
        soft_tokens: int | None = None,
        rate: Rate | None = None,
    ) -> list[str]:
        """Let the decoder restate each chunk from its soft tokens alone.

        Args:
            context: What `read` returned.
            chunks: Indices.
            soft_tokens: Per chunk; by default as many as the model makes.
            rate: Instead of a number, for models with the `pooling` adapter; by default the finest one.

        Raises:
            E2LLMError: If a chunk does not exist.
        """
        content = self._layout.content_of(context)
        counts = self._level(content, soft_tokens, rate).counts
        indices = [content.check_chunk(index) for index in chunks]
        return [restate(self.reader, content, index, counts[index]) for index in indices]

    def _level(self, content: Content, soft_tokens: int | None, rate: Rate | None) -> Level:
        """Return the requested level, or the finest one."""
        self.dial.check(soft_tokens, rate)
        level = self.dial.level(content.read.num_tokens.tolist(), soft_tokens, rate)
        self.dial.note_on([] if level.rate is None else [level.rate])
        return level

    def summarize(self, context: Context, **options: Any) -> Answer:
        """Summarize a context with the options of `ask`; by default 256 tokens and policy `uniform`."""
        return self.ask(context, SUMMARY_PROMPT, **{"max_new_tokens": 256, "policy": "uniform", **options})

    def fidelity(
        self,
        context: Context,
        *,
        soft_tokens: int | None = None,
        rate: Rate | None = None,
        chunks: Sequence[int] | None = None,
        progress: bool | None = None,
    ) -> FidelityReport:
        """Measure how well the decoder can restate each chunk from its soft tokens.

        Args:
            context: What `read` returned.
            soft_tokens: See `restate`.
            rate: See `restate`.
            chunks: Indices; by default all.
            progress: Show a bar; by default on a terminal when there is much to do.

        Raises:
            E2LLMError: If a chunk does not exist.
        """
        content = self._layout.content_of(context)
        level = self._level(content, soft_tokens, rate)
        indices = chunks if chunks is None else [content.check_chunk(index) for index in chunks]
        return measure_fidelity(self.reader, content, level, indices, progress=progress)

    def _decode(self, ids: list[int]) -> str:
        with self._tokenizing:
            return self.processor.decode_answer(ids)

    def count_tokens(self, text: str) -> int:
        """Return the number of decoder tokens of a text."""
        with self._tokenizing:
            return len(self.processor.encode(text))
