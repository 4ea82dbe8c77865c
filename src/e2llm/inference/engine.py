"""The engine: read a text of any length once, then ask, stream, restate and summarize."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteriaList

from e2llm.errors import E2LLMError
from e2llm.inference.answer import Answer, Timing, Usage
from e2llm.inference.context import Context
from e2llm.inference.documents import Document, load_documents
from e2llm.inference.loading import check_model_name, choose_device
from e2llm.inference.reader import encode_texts
from e2llm.inference.streaming import FirstTokenClock, PieceStreamer, StopEvent
from e2llm.inference.window import fit_soft_tokens
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import DecoderInput, E2LLMProcessor
from e2llm.prompts import SUMMARY_PROMPT, UNDERSTANDING_PROMPT

# Arguments of transformers' generate that would change what comes back.
_ONE_ANSWER_ONLY = ("num_return_sequences", "return_dict_in_generate")
_HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")


class Engine:
    """A model with its processor, ready to read and answer.

    Several threads may read and ask at once: greedy answers are those of one question after another. Sampled
    ones draw from torch's global generator, so that a seed does not fix them when threads take turns.

    Args:
        model: Used in evaluation mode.
        processor: The processor that belongs to it.

    Raises:
        E2LLMError: If model and processor do not belong together.
    """

    def __init__(self, model: E2LLMForConditionalGeneration, processor: E2LLMProcessor) -> None:
        self.model = model.eval()
        self.processor = processor
        # A tokenizer is switched between its settings (padding, special tokens) at each call.
        self._tokenizing = threading.RLock()
        if processor.chunk_token_id != model.config.chunk_token_id:
            raise E2LLMError(
                f"the processor's placeholder has id {processor.chunk_token_id}, the model's "
                f"{model.config.chunk_token_id}; they do not belong together"
            )

    @classmethod
    def from_pretrained(
        cls, name: str | PathLike[str], *, device: str | None = None, **kwargs: Any
    ) -> "Engine":
        """Load a model by folder, hub id, or the name of an embedded one (`mini`).

        Args:
            name: What to load.
            device: Such as `cpu` or `cuda`; by default a GPU if there is one.
            kwargs: For the model's `from_pretrained` (`dtype`, `revision`, `quantization_config`, ...).

        Raises:
            E2LLMError: If the device is unknown or not there, or the checkpoint cannot be loaded.
        """
        place = choose_device(device)
        check_model_name(str(name))
        model = E2LLMForConditionalGeneration.from_pretrained(str(name), **kwargs)
        options = {key: kwargs[key] for key in _HUB_OPTIONS if key in kwargs}
        processor = E2LLMProcessor.from_pretrained(str(name), **options)
        if "device_map" not in kwargs:
            model.to(place)
        return cls(model, processor)

    @property
    def window(self) -> int | None:
        """Positions that the decoder takes, or None if its configuration states none."""
        return getattr(self.model.config.text_config, "max_position_embeddings", None)

    @property
    def device(self) -> torch.device:
        """Where the decoder's input goes."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    # --- reading --------------------------------------------------------------------------------------------

    def read(
        self,
        source: str | PathLike[str] | Document | Sequence[PathLike[str] | Document],
        *,
        chunk_size_chars: int | None = None,
        progress: bool | None = None,
    ) -> Context:
        """Read a context: split it into chunks and encode them.

        Args:
            source: A text (`str`), a file or folder (`Path`), a `Document`, or several files and documents.
            chunk_size_chars: Longest chunk, in characters; by default the processor's. Smaller chunks lose
                less and take more of the window.
            progress: Show a bar; by default on a terminal when there is much to read.

        Raises:
            E2LLMError: If there is no text.
        """
        started = time.perf_counter()
        documents = self.documents(source)
        chunks, sources, num_tokens = [], [], 0
        for document in documents:
            with self._tokenizing:
                pieces = self.processor.split(document.text, chunk_size_chars)
                num_tokens += len(self.processor.encode(document.text))
            chunks += pieces
            sources += [document.name] * len(pieces)
        if not any(chunk.text.strip() for chunk in chunks):
            raise E2LLMError("the context is empty; give a text to read")
        texts = [chunk.text for chunk in chunks]
        soft_tokens = encode_texts(
            self.model, self.processor, texts, progress=progress, lock=self._tokenizing
        )
        return Context(chunks, sources, soft_tokens, num_tokens, time.perf_counter() - started)

    @staticmethod
    def documents(
        source: str | PathLike[str] | Document | Sequence[PathLike[str] | Document],
    ) -> list[Document]:
        """The texts, with their names, of what `read` takes."""
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

    # --- answering ------------------------------------------------------------------------------------------

    def ask(
        self,
        context: Context,
        question: str,
        *,
        soft_tokens: int | None = None,
        expand: Sequence[int] = (),
        max_new_tokens: int = 64,
        on_piece: Callable[[str], Any] | None = None,
        **generation: Any,
    ) -> Answer:
        """Answer a question about a context.

        Args:
            context: What `read` returned.
            question: The instruction.
            soft_tokens: K per chunk, from 1 to the model's most; by default as many as the window takes.
            expand: Indices of chunks whose raw text stands in the place of their soft tokens.
            max_new_tokens: Longest answer, in tokens.
            on_piece: Called with each piece of the answer as it comes; the pieces joined are the text.
            generation: More arguments of transformers' `generate` (`num_beams`, `do_sample`, ...); by default
                greedy.

        Raises:
            ContextOverflowError: If the input does not fit the window; says by how much and what to turn.
            E2LLMError: If an argument is out of range, or does not go with another.
        """
        started = time.perf_counter()
        sample, per_chunk = self._lay_out(context, question, soft_tokens, expand, max_new_tokens)
        self._check_generation(generation, wants_pieces=on_piece is not None)
        if on_piece is not None:
            generation["streamer"] = PieceStreamer(self._decode, on_piece)
        clock = FirstTokenClock(generation.get("streamer"))
        if not self._searches_beams(generation):
            generation["streamer"] = clock
        ids = self._generate(context, sample, expand, max_new_tokens=max_new_tokens, **generation)
        text = self._decode(ids)
        first = None if clock.first_token_at is None else clock.first_token_at - started
        timing = Timing(context.read_seconds, first, time.perf_counter() - started)
        spans = [(context.chunks[index].start, context.chunks[index].end) for index in sorted(set(expand))]
        return Answer(text, self._usage(context, sample, per_chunk, expand, len(ids)), timing, spans)

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

        Arguments and errors are those of `ask`. The work begins with the first piece that is asked for, in a
        thread of its own; closing the iterator stops it at the next token.
        """
        sample, _ = self._lay_out(context, question, soft_tokens, expand, max_new_tokens)
        self._check_generation(generation, wants_pieces=True)
        return self._stream(context, sample, expand, max_new_tokens=max_new_tokens, **generation)

    def restate(
        self, context: Context, chunks: Sequence[int], *, soft_tokens: int | None = None
    ) -> list[str]:
        """Restate chunks from their soft tokens alone, each by itself: what the decoder knows of them.

        Args:
            context: What `read` returned.
            chunks: Indices.
            soft_tokens: K per chunk; by default the model's most.

        Raises:
            E2LLMError: If a chunk does not exist.
        """
        for index in chunks:
            if not 0 <= index < len(context):
                raise E2LLMError(
                    f"chunk {index} does not exist; the context has chunks 0 to {len(context) - 1}"
                )
        texts = []
        for index in chunks:
            text = context.chunks[index].text
            part = Context(
                [context.chunks[index]],
                [context.sources[index]],
                context.soft_tokens[index : index + 1],
                0,
                0.0,
            )
            longest = self.count_tokens(text) * 3 // 2 + 8
            answer = self.ask(part, UNDERSTANDING_PROMPT, soft_tokens=soft_tokens, max_new_tokens=longest)
            texts.append(answer.text)
        return texts

    def summarize(self, context: Context, **options: Any) -> Answer:
        """Summarize a context; options are those of `ask`, with 256 new tokens by default."""
        return self.ask(context, SUMMARY_PROMPT, **{"max_new_tokens": 256, **options})

    # --- pieces ---------------------------------------------------------------------------------------------

    def _lay_out(
        self,
        context: Context,
        question: str,
        soft_tokens: int | None,
        expand: Sequence[int],
        max_new_tokens: int,
    ) -> tuple[DecoderInput, int]:
        """Lay out a question; K is the given one, or the largest that fits the window."""
        if not isinstance(question, str) or not question.strip():
            raise E2LLMError(f"the question is empty or no text: {question!r}")
        if max_new_tokens < 1:
            raise E2LLMError(f"max_new_tokens must be 1 or more, got {max_new_tokens}")
        if not isinstance(expand, Sequence):
            raise E2LLMError(f"expand takes a list of chunk indices, got {expand!r}")
        limit = self.model.check_num_soft_tokens(None)
        if soft_tokens is not None:
            self.model.check_num_soft_tokens(soft_tokens)
        texts = [chunk.text for chunk in context.chunks]
        with self._tokenizing:
            sample = self.processor.lay_out(texts, question, num_soft_tokens=1, expand=expand)
            per_chunk = fit_soft_tokens(
                window=self.window,
                num_chunks=len(sample.chunks),
                raw_tokens=len(sample.input_ids) - len(sample.chunks),
                max_new_tokens=max_new_tokens,
                wanted=soft_tokens,
                limit=limit,
            )
            if per_chunk > 1:
                sample = self.processor.lay_out(texts, question, num_soft_tokens=per_chunk, expand=expand)
        return sample, per_chunk

    def _check_generation(self, generation: dict[str, Any], *, wants_pieces: bool) -> None:
        """Refuse arguments of `generate` that would be dropped in silence or change what comes back."""
        settings = generation.get("generation_config") or self.model.generation_config
        for name in _ONE_ANSWER_ONLY:
            value = generation.get(name, getattr(settings, name, None))
            if value is not None and int(value) > (1 if name == "num_return_sequences" else 0):
                raise E2LLMError(
                    f"{name}={value}: the engine returns one answer; use model.generate for more"
                )
        if wants_pieces and generation.get("streamer") is not None:
            raise E2LLMError("streamer= and pieces exclude each other; give one of them")
        if (wants_pieces or generation.get("streamer") is not None) and self._searches_beams(generation):
            raise E2LLMError(
                "beam search knows its answer only at the end and cannot be streamed; use num_beams=1"
            )

    def _searches_beams(self, generation: dict[str, Any]) -> bool:
        settings = generation.get("generation_config") or self.model.generation_config
        return int(generation.get("num_beams") or getattr(settings, "num_beams", None) or 1) > 1

    def _generate(
        self, context: Context, sample: DecoderInput, expand: Sequence[int], **generation: Any
    ) -> list[int]:
        """Ids of the answer, without the prompt."""
        input_ids = torch.tensor([sample.input_ids], device=self.device)
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        rows = [index for index in range(len(context)) if index not in set(expand)]
        if rows:
            inputs["chunk_embeds"] = context.soft_tokens[rows].to(self.device)
        if generation.get("generation_config") is None:
            generation.setdefault("do_sample", False)
        ids = self.model.generate(**inputs, **generation)
        return list(ids[0, input_ids.shape[1] :].tolist())

    def _stream(
        self, context: Context, sample: DecoderInput, expand: Sequence[int], **generation: Any
    ) -> Iterator[str]:
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        stop = StopEvent()
        failure: list[BaseException] = []
        criteria = StoppingCriteriaList([*(generation.pop("stopping_criteria", None) or []), stop])
        streamer = PieceStreamer(self._decode, pieces.put)

        def work() -> None:
            try:
                self._generate(
                    context, sample, expand, streamer=streamer, stopping_criteria=criteria, **generation
                )
            except BaseException as error:
                failure.append(error)
            finally:
                pieces.put(None)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (piece := pieces.get()) is not None:
                yield piece
        finally:
            stop.event.set()
            thread.join()
        if failure:
            raise failure[0]

    def _decode(self, ids: list[int]) -> str:
        with self._tokenizing:
            return self.processor.decode_answer(ids)

    def count_tokens(self, text: str) -> int:
        """Decoder tokens of a text."""
        with self._tokenizing:
            return len(self.processor.encode(text))

    def _usage(
        self, context: Context, sample: DecoderInput, per_chunk: int, expand: Sequence[int], new_tokens: int
    ) -> Usage:
        soft = len(sample.chunks) * per_chunk
        expanded = sum(self.count_tokens(context.chunks[index].text) for index in set(expand))
        return Usage(
            context_tokens=context.num_tokens,
            chunks=len(context),
            soft_tokens_per_chunk=per_chunk,
            soft_tokens=soft,
            raw_tokens=len(sample.input_ids) - soft,
            new_tokens=new_tokens,
            compression=round(context.num_tokens / max(1, soft + expanded), 2),
        )
