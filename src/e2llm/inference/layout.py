"""Make the decoder's input for a question: choose chunks and their forms, and lay out the ids."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch

from e2llm.documents import Document
from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.answer import Usage
from e2llm.inference.content import Content, Splitting, chunk_texts
from e2llm.inference.context import Context
from e2llm.inference.decoding.tools import TOOLS
from e2llm.inference.dial import UNTRAINED, Dial, Level
from e2llm.inference.options import AskRequest
from e2llm.inference.planning import (
    POLICIES,
    TEXT_FORM,
    Plan,
    Policy,
    Room,
    Spending,
    best_first,
    give_level,
    give_named,
    spend,
    spend_uniformly,
)
from e2llm.inference.reader import ChunkReader, soft_tokens_of
from e2llm.messages import counted
from e2llm.modeling.decoder_input import DecoderInput
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.rates import TEXT_LEVEL

_FUSION_OFFSET = 60


@dataclass(frozen=True)
class LaidOut:
    """The decoder's input for a question about a context.

    Attributes:
        content: The context.
        plan: The chunks that are given, and their forms.
        sample: Ids, with a placeholder for each soft token.
        model: Makes the soft tokens.
        budget: Positions that the chunks may take.
        note: A warning about the answer, or None.
    """

    content: Content
    plan: Plan
    sample: DecoderInput
    model: E2LLMForConditionalGeneration
    budget: int
    note: str | None = None

    @property
    def chunk_spans(self) -> list[tuple[int, int]]:
        """First position of each given chunk, and the one after its last."""
        ends = [*accumulate(self.plan.sizes, initial=self.sample.context_start)]
        return list(pairwise(ends))

    @cached_property
    def soft_tokens(self) -> torch.Tensor | None:
        """Soft tokens `[R, D]` of the chunks given as soft tokens, in order; None if there are none."""
        places = [place for place in zip(self.plan.kept, self.plan.counts, strict=True) if place[1]]
        if not places:
            return None
        indices, counts = zip(*places, strict=True)
        return soft_tokens_of(self.model, self.content.read, indices, counts)


class ContextLayout:
    """Make the decoder's input for questions about contexts.

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
        """Return the decoder's input for a question."""
        content = self.content_of(context)
        self.dial.check(request.soft_tokens, request.rate)
        room = self.room(request)
        if context.fingerprint:
            plan = self.plan(content, request, room)
            note = self._note_on(plan, content)
        else:
            plan, note = self._plan_text(content, room), None
        places = {index: place for place, index in enumerate(plan.kept)}
        with self.reader.lock:
            sample = self.processor.lay_out(
                [content.texts[index] for index in plan.kept],
                request.question,
                num_soft_tokens=plan.counts,
                expand=[places[index] for index in plan.expand],
                history=request.history,
                tools=TOOLS if request.tool_calls else (),
            )
        return LaidOut(content, plan, sample, self.model, room.budget, note)

    def plan(self, content: Content, request: AskRequest, room: Room) -> Plan:
        """Choose the form of each chunk.

        Args:
            content: The chunks.
            request: The question, which ranks the chunks, and the user's options.
            room: Positions for the chunks.

        Raises:
            ContextOverflowError: If chosen chunks or levels do not fit; says by how much and what to change.
        """
        num_chunks, lengths = len(content.chunks), content.read.num_tokens.tolist()
        policy = self._policy(request)
        levels = self.dial.finest_first(lengths)
        if request.has_level:
            levels = [self.dial.level(lengths, request.soft_tokens, request.rate)]
        spending = Spending(content.token_counts, levels)
        scores = self._rank(content, request)
        order = best_first(scores, content.unreadable)
        if isinstance(request.expand, list):
            give_named(spending, request.expand, room)
        elif request.expand:
            for chunk in order[: request.expand]:
                if not spending.give(chunk, TEXT_FORM, room.limit):
                    break
        budget = max(room.budget, spending.used)
        text_only = {
            chunk
            for chunk in (content.unreadable if policy.gives_text else ())
            if content.token_counts[chunk] <= budget
        }
        if request.has_level:
            give_level(spending, order, room, select=request.overflow == "select")
        elif policy.is_uniform or (policy.coarse_share and not any(scores) and not text_only):
            spend_uniformly(spending, budget, gives_text=policy.gives_text)  # the question points nowhere
        else:
            spend(spending, order, budget, policy, text_only)
        plan = spending.plan(room.overhead, scores)
        if num_chunks and not plan.kept:
            raise ContextOverflowError(
                f"the best chunk takes {content.token_counts[order[0]]:,} positions as text, but there is "
                f"room for only {budget:,}; raise budget, use smaller chunks or shorten the question"
            )
        return plan

    def _policy(self, request: AskRequest) -> Policy:
        """Return the requested policy or the default; chunks that the user named are the only text then."""
        wants_soft = request.has_level or request.policy not in (None, "raw")
        if self.dial.answers_raw(wants_soft) and not request.expand:
            return POLICIES["raw"]
        name = request.policy or ("mixed" if self.model.is_trained else "raw")
        if request.expand is None:
            return POLICIES[name]
        return replace(POLICIES["soft" if name == "mixed" else name], gives_text=False)

    def room(self, request: AskRequest) -> Room:
        """Return the positions that a question and its options leave for chunks."""
        overhead = self.count_positions(request.question, request.history, bool(request.tool_calls))
        return Room.of(request.budget, self.window, overhead, request.max_new_tokens)

    def _note_on(self, plan: Plan, content: Content) -> str | None:
        """Warn about a plan if necessary, and return the warning."""
        given = sum(
            index in content.unreadable for index, count in zip(plan.kept, plan.counts, strict=True) if count
        )
        notes = [self._note_on_rates(plan, content)]
        if given:
            notes.append(f"the encoder knows little of {given:,} of the chunks given as soft tokens")
        return "; ".join(filter(None, notes)) or None

    def _note_on_rates(self, plan: Plan, content: Content) -> str | None:
        rates: list[Any] = [level for level in dict.fromkeys(plan.levels) if level != TEXT_LEVEL]
        if content.chunks and not rates and not self.model.is_trained:
            return f"{UNTRAINED} of {len(plan.kept):,} of {counted(len(content.chunks), 'chunk')}"
        return self.dial.note_on(rates) if self.dial.has_rate else None

    def _plan_text(self, content: Content, room: Room) -> Plan:
        """Return the plan for chunks without states: all as text."""
        with self.reader.lock:
            counts = [len(self.processor.encode(text)) for text in content.texts]
        spending = Spending(counts, [Level(counts)])
        give_named(spending, range(len(counts)), room)
        return spending.plan(room.overhead)

    def check_room(
        self, documents: Sequence[Document], request: AskRequest, chunk_size_chars: int | None = None
    ) -> None:
        """Refuse documents, before they are read, if their chunks cannot fit at the requested level.

        Splitting is fast and reading is slow. `Engine.ask` may still refuse what passes here: a chunk given
        as text counts as only one position here.

        Raises:
            ContextOverflowError: As `Engine.ask` does.
            E2LLMError: If the soft tokens, the rate or the chunk size are out of range.
        """
        self.dial.check(request.soft_tokens, request.rate)
        room = self.room(request)
        if room.limit is None or not request.has_level or request.overflow == "select":
            return
        splitting = Splitting.of(self.processor, chunk_size_chars)
        texts = [text for item in documents for text in chunk_texts(item, splitting, self.processor)]
        lengths = [len(row) for row in self.processor.encode_chunk_ids(texts)]
        level = self.dial.level(lengths, request.soft_tokens, request.rate)
        spending = Spending([1] * len(texts), [level])
        longest_first = best_first(level.counts)
        expand = request.expand or 0
        give_named(spending, longest_first[: len(expand) if isinstance(expand, list) else expand], room)
        give_level(spending, longest_first, room, select=False)

    def rank(self, context: Context, request: AskRequest) -> list[float]:
        """Return the relevance of each chunk to the question; see `Engine.rank`."""
        return self._rank(self.content_of(context), request)

    def _rank(self, content: Content, request: AskRequest) -> list[float]:
        return rank_chunks(self.reader, content, request.ranking or request.question, request.select)

    def count_positions(
        self, question: str, history: Sequence[tuple[str, str]] = (), has_tools: bool = False
    ) -> int:
        """Return the positions of template, question and history."""
        tools = TOOLS if has_tools else ()
        with self.reader.lock:
            return len(self.processor.lay_out([], question, history=history, tools=tools).input_ids)

    def content_of(self, context: Context) -> Content:
        """Return the current content of a context; raise `E2LLMError` if another model read it."""
        if not isinstance(context, Context):
            raise E2LLMError(f"ask about a Context, which Engine.read returns; got {type(context).__name__}")
        if context.fingerprint and context.fingerprint != self.reader.fingerprint:
            if context.finest_rate != self.reader.finest_rate:
                raise E2LLMError(
                    f"this context keeps one state per {context.finest_rate} encoder tokens, but the engine "
                    f"now keeps one per {self.reader.finest_rate}; read the documents again with this "
                    f"engine, or set finest_rate={context.finest_rate}"
                )
            raise E2LLMError(
                "this context was read by another model, or the model's weights have changed since; read the "
                "documents again with this engine"
            )
        return context.content


def rank_chunks(reader: ChunkReader, content: Content, question: str, select: str) -> list[float]:
    """Return the relevance of each chunk to a question.

    Args:
        reader: Reads the question.
        content: The chunks.
        question: Any text; the encoder reads only its first chunk.
        select: `bm25`, `encoder`, or `fused`.
    """
    if select == "bm25" or not content.read.vectors.numel():  # without states
        return content.bm25.scores(question)
    with reader.lock:
        first = reader.processor.split(question)[0].text
    vector = reader.read([first], progress=False).vectors
    similarity = torch.nn.functional.cosine_similarity(content.read.vectors.float(), vector.float(), dim=1)
    scores: list[float] = similarity.tolist()
    if select == "fused" and any(words := content.bm25.scores(question)):
        return fuse(words, scores)
    return scores


def fuse(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Combine two lists of scores by rank (reciprocal rank fusion, Cormack et al. 2009)."""
    fused = [0.0] * len(first)
    for scores in (first, second):
        for rank, index in enumerate(best_first(scores), start=1):
            fused[index] += 1 / (_FUSION_OFFSET + rank)
    return fused


def usage_of(laid: LaidOut, new_tokens: int = 0) -> Usage:
    """Return the decoder positions of an input and of an answer of `new_tokens` tokens."""
    content, plan = laid.content, laid.plan
    soft = plan.num_soft_tokens
    expanded_tokens = sum(content.token_counts[index] for index in plan.expand)
    return Usage(
        context_tokens=content.num_tokens,
        chunks=len(content.chunks),
        soft_tokens_per_chunk=-(-soft // max(1, len(plan.kept) - len(plan.expand))),
        soft_tokens=soft,
        raw_tokens=len(laid.sample.input_ids) - soft,
        new_tokens=new_tokens,
        compression=round(content.num_tokens / max(1, soft + expanded_tokens), 2),
        rate=plan.rate if laid.model.adapter.dial == "rate" else None,
        note=laid.note,
        positions=plan.positions_by_level,
        unknown_fraction=content.unknown_fraction,
    )
