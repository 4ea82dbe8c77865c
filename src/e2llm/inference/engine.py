"""The engine: read a text of any length once, then ask, stream, restate and summarize."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.context import Context
from e2llm.inference.documents import Document, load_documents
from e2llm.inference.reader import encode_texts
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import DecoderInput, E2LLMProcessor
from e2llm.prompts import SUMMARY_PROMPT, UNDERSTANDING_PROMPT


@dataclass(frozen=True)
class Usage:
    """What an answer took of the decoder's window.

    Attributes:
        context_tokens: Tokens that the context's text would take.
        chunks: Chunks of the context.
        soft_tokens_per_chunk: K.
        soft_tokens: Soft tokens in the decoder's input.
        raw_tokens: Ordinary tokens in the decoder's input: instruction, template and expanded chunks.
        new_tokens: Tokens of the answer.
        compression: Context tokens per decoder position that stands for the context.
    """

    context_tokens: int
    chunks: int
    soft_tokens_per_chunk: int
    soft_tokens: int
    raw_tokens: int
    new_tokens: int
    compression: float


@dataclass(frozen=True)
class Timing:
    """Seconds that an answer took.

    Attributes:
        read_seconds: Reading the context, once for any number of questions.
        first_token_seconds: From the question to the first token; None with beams.
        total_seconds: From the question to the whole answer.
    """

    read_seconds: float
    first_token_seconds: float | None
    total_seconds: float


@dataclass(frozen=True)
class Answer:
    """An answer with its cost.

    Attributes:
        text: The answer.
        usage: Positions.
        timing: Seconds.
        expanded: Character spans `(start, end)` of the chunks that were given as raw text.
    """

    text: str
    usage: Usage
    timing: Timing
    expanded: list[tuple[int, int]] = field(default_factory=list)


class Engine:
    """A model with its processor, ready to read and answer.

    Args:
        model: Used in evaluation mode.
        processor: The processor that belongs to it.
    """

    def __init__(self, model: E2LLMForConditionalGeneration, processor: E2LLMProcessor) -> None:
        self.model = model.eval()
        self.processor = processor
        if processor.chunk_token_id != model.config.chunk_token_id:
            raise E2LLMError(
                f"the processor's placeholder has id {processor.chunk_token_id}, the model's "
                f"{model.config.chunk_token_id}; they do not belong together"
            )

    @classmethod
    def from_pretrained(cls, name: str | PathLike[str], *, device: str | None = None, **kwargs: Any) -> "Engine":
        """Load a model by folder, hub id, or the name of an embedded one (`mini`).

        Args:
            name: What to load.
            device: Such as `cpu` or `cuda`; by default a GPU if there is one.
            kwargs: For the model's `from_pretrained` (`dtype`, `revision`, `quantization_config`, ...).
        """
        model = E2LLMForConditionalGeneration.from_pretrained(str(name), **kwargs)
        processor = E2LLMProcessor.from_pretrained(str(name))
        if "device_map" not in kwargs:
            model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(model, processor)

    @property
    def window(self) -> int | None:
        """Positions that the decoder takes, or None if its configuration states none."""
        return getattr(self.model.config.text_config, "max_position_embeddings", None)

    @property
    def device(self) -> torch.device:
        """Where the decoder's input goes."""
        return self.model.get_input_embeddings().weight.device

    # --- reading -------------------------------------------------------------------------------------------------

    def read(
        self,
        source: str | PathLike[str] | Document | Sequence[PathLike[str] | Document],
        *,
        progress: bool | None = None,
    ) -> Context:
        """Read a context: split it into chunks and encode them.

        Args:
            source: A text (`str`), a file or folder (`Path`), a `Document`, or several files and documents.
            progress: Show a bar; by default on a terminal when there is much to read.

        Raises:
            E2LLMError: If there is no text.
        """
        started = time.perf_counter()
        documents = self._documents(source)
        chunks, sources = [], []
        for document in documents:
            pieces = self.processor.split(document.text)
            chunks += pieces
            sources += [document.name] * len(pieces)
        if not any(chunk.text.strip() for chunk in chunks):
            raise E2LLMError("the context is empty; give a text to read")
        soft_tokens = encode_texts(self.model, self.processor, [chunk.text for chunk in chunks], progress=progress)
        num_tokens = sum(len(self.processor.encode(document.text)) for document in documents)
        return Context(chunks, sources, soft_tokens, num_tokens, time.perf_counter() - started)

    @staticmethod
    def _documents(source: Any) -> list[Document]:
        items = [source] if isinstance(source, str | PathLike | Document) else list(source)
        documents = []
        for item in items:
            if isinstance(item, str):
                documents.append(Document("text", item))
            elif isinstance(item, Document):
                documents.append(item)
            else:
                documents += load_documents([Path(item)])
        return documents

    # --- answering -----------------------------------------------------------------------------------------------

    def ask(
        self,
        context: Context,
        question: str,
        *,
        soft_tokens: int | None = None,
        expand: Sequence[int] = (),
        max_new_tokens: int = 64,
        **generation: Any,
    ) -> Answer:
        """Answer a question about a context.

        Args:
            context: What `read` returned.
            question: The instruction.
            soft_tokens: K per chunk, from 1 to the model's most; by default as many as the window takes.
            expand: Indices of chunks whose raw text stands in the place of their soft tokens.
            max_new_tokens: Longest answer, in tokens.
            generation: More arguments of transformers' `generate` (`num_beams`, `do_sample`, `streamer`, ...); greedy
                by default.

        Raises:
            ContextOverflowError: If the input does not fit the window; says by how much and what to turn.
        """
        started = time.perf_counter()
        sample, per_chunk = self._lay_out(context, question, soft_tokens, expand, max_new_tokens)
        clock = FirstTokenClock(generation.pop("streamer", None))
        if generation.get("num_beams", 1) == 1:
            generation["streamer"] = clock
        ids = self._generate(context, [sample], [expand], max_new_tokens=max_new_tokens, **generation)[0]
        first = None if clock.first_token_at is None else clock.first_token_at - started
        timing = Timing(context.read_seconds, first, time.perf_counter() - started)
        usage = self._usage(context, sample, per_chunk, expand, len(ids))
        spans = [(context.chunks[index].start, context.chunks[index].end) for index in sorted(set(expand))]
        return Answer(self.processor.decode_answer(ids), usage, timing, spans)

    def stream(
        self,
        context: Context,
        question: str,
        *,
        soft_tokens: int | None = None,
        expand: Sequence[int] = (),
        max_new_tokens: int = 64,
        **generation: Any,
    ) -> Iterator[str]:
        """Answer piece by piece; the pieces joined are the text that `ask` returns.

        Arguments and errors are those of `ask`. Closing the iterator stops the work.
        """
        sample, _ = self._lay_out(context, question, soft_tokens, expand, max_new_tokens)
        return self._stream(context, sample, expand, max_new_tokens=max_new_tokens, **generation)

    def restate(self, context: Context, chunks: Sequence[int], *, soft_tokens: int | None = None) -> list[str]:
        """Restate chunks from their soft tokens alone, each by itself: what the decoder knows of them.

        Args:
            context: What `read` returned.
            chunks: Indices.
            soft_tokens: K per chunk; by default the model's most.
        """
        texts = []
        for index in chunks:
            if not 0 <= index < len(context):
                raise E2LLMError(f"chunk {index} does not exist; the context has chunks 0 to {len(context) - 1}")
            part = Context(
                [context.chunks[index]], [context.sources[index]], context.soft_tokens[index : index + 1], 0, 0.0
            )
            longest = len(self.processor.encode(context.chunks[index].text)) * 3 // 2 + 8
            answer = self.ask(part, UNDERSTANDING_PROMPT, soft_tokens=soft_tokens, max_new_tokens=longest)
            texts.append(answer.text)
        return texts

    def summarize(self, context: Context, **options: Any) -> Answer:
        """Summarize a context; options are those of `ask`."""
        return self.ask(context, SUMMARY_PROMPT, **{"max_new_tokens": 256, **options})

    # --- pieces --------------------------------------------------------------------------------------------------

    def _lay_out(
        self,
        context: Context,
        question: str,
        soft_tokens: int | None,
        expand: Sequence[int],
        max_new_tokens: int,
    ) -> tuple[DecoderInput, int]:
        """Lay out a question; K is the given one, or the largest that fits the window."""
        if not question.strip():
            raise E2LLMError("the question is empty")
        if max_new_tokens < 1:
            raise E2LLMError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
        per_chunk = self.model.check_num_soft_tokens(soft_tokens)
        texts = [chunk.text for chunk in context.chunks]
        bare = self.processor.lay_out(texts, question, num_soft_tokens=0, expand=expand)
        num_soft_chunks = len(bare.chunks)
        if self.window is not None:
            room = self.window - max_new_tokens - len(bare.input_ids)
            most = room // max(1, num_soft_chunks)
            if (soft_tokens or 1) > most and num_soft_chunks:
                raise ContextOverflowError(self._overflow(context, room, soft_tokens or 1, num_soft_chunks, most))
            if soft_tokens is None:
                per_chunk = min(per_chunk, most)
        return self.processor.lay_out(texts, question, num_soft_tokens=per_chunk, expand=expand), per_chunk

    def _overflow(self, context: Context, room: int, per_chunk: int, num_chunks: int, most: int) -> str:
        need = per_chunk * num_chunks
        remedy = (
            f"use soft_tokens={most} or less"
            if most >= 1
            else f"shorten the context by {num_chunks - max(0, room)} chunks, the question or max_new_tokens"
        )
        return (
            f"{num_chunks} chunks at {per_chunk} soft token(s) each need {need} positions; the decoder's window of "
            f"{self.window} leaves {max(0, room)}: {need - max(0, room)} too many; {remedy}"
        )

    def _generate(
        self, context: Context, samples: list[DecoderInput], expands: list[Sequence[int]], **generation: Any
    ) -> list[torch.Tensor]:
        """Ids of the answers, without the prompts."""
        inputs = self._inputs(context, samples, expands)
        generation.setdefault("do_sample", False)
        ids = self.model.generate(**inputs, **generation)
        return [row[inputs["input_ids"].shape[1] :] for row in ids]

    def _inputs(
        self, context: Context, samples: list[DecoderInput], expands: list[Sequence[int]]
    ) -> dict[str, torch.Tensor]:
        """Decoder inputs with the context's soft tokens."""
        bare = [DecoderInput(sample.input_ids, sample.labels) for sample in samples]
        inputs = {name: value.to(self.device) for name, value in self.processor.collate(bare).items()}
        rows = [
            index for expand in expands for index in range(len(context)) if index not in set(expand)
        ]
        if rows:
            inputs["chunk_embeds"] = context.soft_tokens[rows].to(self.device)
        return inputs

    def _stream(
        self, context: Context, sample: DecoderInput, expand: Sequence[int], **generation: Any
    ) -> Iterator[str]:
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop = StopEvent()
        failure: list[BaseException] = []
        criteria = StoppingCriteriaList([*(generation.pop("stopping_criteria", None) or []), stop])

        def work() -> None:
            try:
                self._generate(
                    context, [sample], [expand], streamer=streamer, stopping_criteria=criteria, **generation
                )
            except BaseException as error:
                failure.append(error)
                streamer.end()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield from strip_stream(streamer)
        finally:
            stop.event.set()
            thread.join()
        if failure:
            raise failure[0]

    def _usage(
        self, context: Context, sample: DecoderInput, per_chunk: int, expand: Sequence[int], new_tokens: int
    ) -> Usage:
        soft = len(sample.chunks) * per_chunk
        raw = len(sample.input_ids) - soft
        expanded = sum(len(self.processor.encode(context.chunks[index].text)) for index in set(expand))
        return Usage(
            context_tokens=context.num_tokens,
            chunks=len(context),
            soft_tokens_per_chunk=per_chunk,
            soft_tokens=soft,
            raw_tokens=raw,
            new_tokens=new_tokens,
            compression=round(context.num_tokens / max(1, soft + expanded), 2),
        )


class FirstTokenClock(BaseStreamer):  # type: ignore[misc]
    """Notes when the first new token comes, and passes all on to another streamer."""

    def __init__(self, inner: BaseStreamer | None = None) -> None:
        self.inner = inner
        self.first_token_at: float | None = None
        self._saw_prompt = False

    def put(self, value: torch.Tensor) -> None:
        """The first call brings the prompt, the second the first token."""
        if self._saw_prompt and self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        self._saw_prompt = True
        if self.inner is not None:
            self.inner.put(value)

    def end(self) -> None:
        """Tell the other streamer."""
        if self.inner is not None:
            self.inner.end()


class StopEvent(StoppingCriteria):  # type: ignore[misc]
    """Stops generation when its event is set."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """One verdict per row."""
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


def strip_stream(pieces: Any) -> Iterator[str]:
    """Pass pieces on, without the white space before the first and after the last word."""
    held, begun = "", False
    for piece in pieces:
        text = held + piece
        if not begun:
            text = text.lstrip()
        body = text.rstrip()
        held = text[len(body) :]
        if body:
            begun = True
            yield body
