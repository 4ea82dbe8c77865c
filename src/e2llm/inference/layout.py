"""From a question to what the decoder gets: which chunks, in which form, and the ids around them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.answer import Answer, Timing, Usage
from e2llm.inference.content import Content, Splitting, chunk_texts
from e2llm.inference.context import Context
from e2llm.inference.dial import UNTRAINED, Dial
from e2llm.inference.documents import Document
from e2llm.inference.options import AskRequest
from e2llm.inference.planning import Plan, choose_expanded, fill_window, make_plan, plan_raw
from e2llm.inference.reader import ChunkReader, soft_tokens_of
from e2llm.modeling.decoder_input import DecoderInput
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.rates import Rate


@dataclass(frozen=True)
class LaidOut:
    """A question laid out on a context: what the decoder gets.

    Attributes:
        content: The context.
        plan: Which of its chunks are given in which form.
        sample: Ids, with a placeholder for each soft token.
        model: Makes the soft tokens.
        note: What the user has to know of the answer; else None.
    """

    content: Content
    plan: Plan
    sample: DecoderInput
    model: E2LLMForConditionalGeneration
    note: str | None = None

    @cached_property
    def soft_tokens(self) -> torch.Tensor | None:
        """`[R, D]` of the chunks that are kept and not expanded, one after the other; None without any."""
        places = [place for place in zip(self.plan.kept, self.plan.counts, strict=True) if place[1]]
        if not places:
            return None
        indices, counts = zip(*places, strict=True)
        return soft_tokens_of(self.model, self.content.read, indices, counts)


class ContextLayout:
    """Lays questions out on contexts.

    Args:
        reader: The engine's; its model and processor are used.
        dial: The engine's.
    """

    def __init__(self, reader: ChunkReader, dial: Dial) -> None:
        self.reader = reader
        self.dial = dial
        self.model = reader.model
        self.processor = reader.processor

    @property
    def window(self) -> int | None:
        """Positions that the decoder takes, or None if its configuration states none."""
        return getattr(self.model.config.text_config, "max_position_embeddings", None)

    def lay_out(self, context: Context, request: AskRequest) -> LaidOut:
        """Choose what is in the window, and lay it out."""
        content = self.content_of(context)
        counts = content.token_counts
        if not context.fingerprint:
            with self.reader.lock:
                counts = [len(self.processor.encode(text)) for text in content.texts]
        self.dial.check(request.soft_tokens, request.rate)
        window, note = self._within(request.window), None
        if context.fingerprint and content.chunks and self.dial.answers_raw(request.rate):
            plan = self._plan_raw(content, counts, request, window)
            note = f"{UNTRAINED} of {len(plan.kept):,} of {len(content.chunks):,} chunks"
        else:
            plan = self._plan(content, counts, request, window)
            note = self.dial.note_on(_rates_used(plan, request))
        places = {index: place for place, index in enumerate(plan.kept)}
        with self.reader.lock:
            sample = self.processor.lay_out(
                [content.texts[index] for index in plan.kept],
                request.question,
                num_soft_tokens=plan.counts,
                expand=[places[index] for index in plan.expand],
                history=request.history,
            )
        return LaidOut(content, plan, sample, self.model, note)

    def _plan(
        self, content: Content, token_counts: Sequence[int], request: AskRequest, window: int | None
    ) -> Plan:
        """Plan soft tokens of all chunks that fit, and the raw text of those that the request expands."""
        expand = request.indices
        if request.chooses:
            expand = choose_expanded(
                self._rank(content, request),
                token_counts,
                count=request.num_expanded or None,
                max_tokens=request.expand_tokens,
                only_positive=request.select == "bm25",
            )
        levels = self.dial.levels(content.read.num_tokens.tolist(), request.soft_tokens, request.rate)
        overhead = self._overhead(request)

        def plan(expand: list[int]) -> Plan:
            return make_plan(
                token_counts,
                levels,
                overhead=overhead,
                expand=expand,
                window=window,
                max_new_tokens=request.max_new_tokens,
                is_wanted=request.soft_tokens is not None or request.rate is not None,
                overflow=request.overflow,
                rank=lambda: self._rank(content, request),
                may_drop=request.chooses,
            )

        try:
            return plan(expand)
        except ContextOverflowError:
            if request.expand is not None or request.expand_tokens is not None or not expand:
                raise
            return plan([])  # the chunk that does not fit was the default

    def _plan_raw(
        self, content: Content, token_counts: Sequence[int], request: AskRequest, window: int | None
    ) -> Plan:
        """Plan the best chunks as raw text: those that fit `RAW_TOKENS`, or that the request names."""
        return plan_raw(
            token_counts,
            overhead=self._overhead(request),
            expand=request.indices,
            window=window,
            max_new_tokens=request.max_new_tokens,
            max_tokens=request.expand_tokens,
            rank=lambda: self._rank(content, request),
        )

    def fit(self, context: Context, request: AskRequest, window: int | None, *, by_question: bool) -> Plan:
        """Choose the level and the raw chunks that fill a window; `Engine.fit` describes it."""
        window = self._within(window)
        if window is None:
            raise E2LLMError("the decoder states no window; give window=, the positions to fill")
        content = self.content_of(context)
        if self.dial.answers_raw(request.rate):
            return self._plan_raw(content, content.token_counts, request, window)
        return fill_window(
            content.token_counts,
            self.dial.finest_first(content.read.num_tokens.tolist()),
            self._rank(content, request) if by_question else [0.0] * len(content.chunks),
            overhead=self._overhead(request),
            window=window,
            max_new_tokens=request.max_new_tokens,
            overflow=request.overflow,
        )

    def check_room(
        self, documents: Sequence[Document], request: AskRequest, chunk_size_chars: int | None = None
    ) -> None:
        """Refuse documents whose chunks cannot fit the window, whatever the encoder makes of them.

        Splitting is quick and reading is not. `Engine.ask` may still refuse what passes here: a chunk given
        as text counts as one position, the least that it can take.

        Raises:
            ContextOverflowError: As `Engine.ask` does.
            E2LLMError: If the soft tokens, the rate or the chunk size are out of range.
        """
        self.dial.check(request.soft_tokens, request.rate)
        window = self.window if request.window is None else request.window
        if window is None or request.overflow == "select" or not self.model.is_trained:
            return
        splitting = Splitting.of(self.processor, chunk_size_chars)
        texts = [text for item in documents for text in chunk_texts(item, splitting, self.processor)]
        lengths = [1] * len(texts)  # by the default at least one soft token each
        if request.rate is not None:
            lengths = [len(row) for row in self.processor.encode_chunk_ids(texts)]
        levels = self.dial.levels(lengths, request.soft_tokens, request.rate)
        is_wanted = request.soft_tokens is not None or request.rate is not None
        num_raw = request.num_expanded + len(request.indices)
        if request.expand_tokens is not None:
            num_raw = len(texts)
        longest_first = sorted(range(len(texts)), key=lambda index: -levels[0].counts[index])
        make_plan(
            [1] * len(texts),
            levels,
            overhead=self._overhead(request),
            expand=longest_first[:num_raw] if is_wanted else (),
            window=window,
            max_new_tokens=request.max_new_tokens,
            is_wanted=is_wanted,
            overflow="error",
            rank=list,
        )

    def rank(self, context: Context, request: AskRequest) -> list[float]:
        """Relevance of each chunk to the question; `Engine.rank` describes it."""
        return self._rank(self.content_of(context), request)

    def _rank(self, content: Content, request: AskRequest) -> list[float]:
        return rank_chunks(self.reader, content, request.question, request.select)

    def count_positions(self, question: str, history: Sequence[tuple[str, str]] = ()) -> int:
        """Positions of template, question and history."""
        with self.reader.lock:
            return len(self.processor.lay_out([], question, history=history).input_ids)

    def _overhead(self, request: AskRequest) -> int:
        return self.count_positions(request.question, request.history)

    def _within(self, window: int | None) -> int | None:
        """The positions that may be used: the requested window, or the decoder's."""
        if window is None:
            return self.window
        if type(window) is not int or not 1 <= window <= (self.window or window):
            raise E2LLMError(f"window must be from 1 to the decoder's {self.window}, got {window!r}")
        return window

    def content_of(self, context: Context) -> Content:
        """The content of a context at this moment; raises if another model read it."""
        if context.fingerprint and context.fingerprint != self.reader.fingerprint:
            if context.finest_rate != self.reader.finest_rate:
                raise E2LLMError(
                    f"this context keeps one state per {context.finest_rate} encoder tokens, the engine now "
                    f"keeps one per {self.reader.finest_rate}; read the documents again with this engine, or "
                    f"set finest_rate={context.finest_rate}"
                )
            raise E2LLMError(
                "this context was read by another model, or the model's weights have changed since; read the "
                "documents again with this engine"
            )
        return context.content


def _rates_used(plan: Plan, request: AskRequest) -> list[Rate]:
    """Rates of the chunks that a plan gives as soft tokens."""
    if plan.rate is not None:
        return [plan.rate] if any(plan.counts) else []
    rates = request.rate if isinstance(request.rate, list) else []
    return [rates[index] for index, count in zip(plan.kept, plan.counts, strict=True) if rates and count]


def rank_chunks(reader: ChunkReader, content: Content, question: str, select: str) -> list[float]:
    """Relevance of each chunk to a question, by `bm25` or by the `encoder`.

    Args:
        reader: Reads the question.
        content: The chunks.
        question: Any text; the encoder reads its first chunk.
        select: `bm25` or `encoder`.
    """
    if select == "bm25":
        return content.bm25.scores(question)
    if not content.read.vectors.numel():  # nothing was read
        return [0.0] * len(content.chunks)
    with reader.lock:
        first = reader.processor.split(question)[0].text
    vector = reader.read([first], progress=False).vectors
    similarity = torch.nn.functional.cosine_similarity(content.read.vectors.float(), vector.float(), dim=1)
    return list(similarity.tolist())


def answer_of(text: str, laid: LaidOut, timing: Timing, new_tokens: int) -> Answer:
    """An answer with what it took."""
    content, plan = laid.content, laid.plan
    spans = [(content.chunks[index].start, content.chunks[index].end) for index in plan.expand]
    return Answer(text, usage_of(laid, new_tokens), timing, spans, list(plan.expand), plan.left_out)


def usage_of(laid: LaidOut, new_tokens: int = 0) -> Usage:
    """What a laid-out input takes of the decoder's window, and an answer of `new_tokens` tokens."""
    content, plan = laid.content, laid.plan
    soft = sum(plan.counts)
    expanded_tokens = sum(content.token_counts[index] for index in plan.expand)
    return Usage(
        context_tokens=content.num_tokens,
        chunks=len(content.chunks),
        soft_tokens_per_chunk=plan.soft_tokens,
        soft_tokens=soft,
        raw_tokens=len(laid.sample.input_ids) - soft,
        new_tokens=new_tokens,
        compression=round(content.num_tokens / max(1, soft + expanded_tokens), 2),
        rate=plan.rate,
        note=laid.note,
    )
