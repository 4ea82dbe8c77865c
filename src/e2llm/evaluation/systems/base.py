"""The contract of systems: ways in which a user might deal with a long text and one decoder.

All systems answer with the same decoder, the same wording and the same number of decoder positions (the
budget, answer included); they differ in what of the context is in these positions.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from e2llm.errors import ContextOverflowError
from e2llm.evaluation.items import Item
from e2llm.inference.answer import Answer
from e2llm.inference.context import Context
from e2llm.inference.decoding.likelihood import Likelihood, answer_ids
from e2llm.inference.engine import Engine
from e2llm.measuring import PeakMemory
from e2llm.modeling.raw_text import Passages, RawText

_KEPT = 4  # texts of a kind; questions on one text come one after the other


@dataclass(frozen=True)
class TimedContext:
    """A context that was read, with time and peak memory of reading (None where unknown)."""

    context: Context
    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Cutting:
    """A text cut into passages, the engine's chunks, with their BM25 index and the time it took."""

    passages: Passages
    seconds: float


class Readings:
    """Prepared texts of one engine; the last few are kept.

    Attributes:
        engine: Reads.
        context: Returns a text as the engine read it.
        cutting: Returns a text cut into passages, without reading them.
        token_ids: Returns the decoder ids of a text.
        question_ids: Returns the decoder ids of a question with the template around it and no context.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.context = lru_cache(_KEPT)(self._read)
        self.cutting = lru_cache(_KEPT)(self._cut)
        self.token_ids = lru_cache(_KEPT)(engine.processor.encode)
        self.question_ids = lru_cache(_KEPT)(self._lay_out)

    def count_tokens(self, text: str) -> int:
        """Return the number of decoder tokens of the text."""
        return len(self.token_ids(text))

    def _lay_out(self, prompt: str) -> list[int]:
        return self.engine.processor.lay_out([], prompt).input_ids

    def _read(self, text: str) -> TimedContext:
        with PeakMemory(self.engine.device) as memory:
            context = self.engine.read_text(text, progress=False) if text.strip() else Context.empty()
        return TimedContext(context, context.read_seconds, memory.extra_bytes)

    def _cut(self, text: str) -> Cutting:
        started = time.perf_counter()
        passages = Passages.of(self.engine.processor, text)
        _ = passages.index
        return Cutting(passages, time.perf_counter() - started)


@dataclass(frozen=True)
class Cost:
    """The cost of an answer.

    Attributes:
        decoder_positions: Positions of the input; for a cache, the most that it held.
        context_tokens: Decoder tokens of the context that the decoder got, as text or as soft tokens.
        context_fraction: Share of the context's characters that it got, 0 to 1.
        read_seconds: Preparing the context (encoding, indexing), once for all its questions.
        first_token_seconds: From the question to the first token.
        ms_per_token: Milliseconds per further token; None for answers of one token.
        peak_extra_bytes: Most memory in use above that before, reading included; None where unknown.
        new_tokens: Tokens of the answer.
    """

    decoder_positions: int
    context_tokens: int
    context_fraction: float
    read_seconds: float
    first_token_seconds: float | None
    ms_per_token: float | None
    peak_extra_bytes: int | None
    new_tokens: int


@dataclass(frozen=True)
class Output:
    """An answer of a system.

    Attributes:
        text: The answer.
        cost: Its cost.
        given: Content of the decoder's input: `soft_tokens_per_chunk`, `rate` if all chunks have one, `note`
            if the user should know something, `raw_spans` (character spans of the context given as text),
            `left_out` (number of chunks left out), and what a system adds.
    """

    text: str
    cost: Cost
    given: dict[str, Any]


@dataclass(frozen=True)
class View:
    """The part of an item's context that a system gives the decoder.

    Attributes:
        context: For `Engine.ask`.
        options: For `Engine.ask`.
        read_seconds: Time that preparing the context took, for all its questions.
        read_peak_bytes: Most memory that it took.
        raw_spans: Character spans of the context given as text, where the engine does not know them.
        rewritten: Facts about a text that is made of the context but is no part of it, for `Output.given`.
    """

    context: Context
    options: dict[str, Any]
    read_seconds: float = 0.0
    read_peak_bytes: int | None = 0
    raw_spans: tuple[tuple[int, int], ...] = ()
    rewritten: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class System(ABC):
    """One way to answer.

    The fields after the first three of a subclass are its options: `NAME:option=value:option=value`.
    Pydantic reads their values by their types.

    Attributes:
        engine: Has the decoder.
        readings: Contexts that have been read; shared by systems of one engine.
        budget: Decoder positions for input and answer; None for the decoder's window.
    """

    engine: Engine
    readings: Readings
    budget: int | None

    name: ClassVar[str]
    gives_text: ClassVar[bool] = False
    """Whether the decoder gets text of the context, which it could copy."""

    @property
    def chooses_by_question(self) -> bool:
        """Whether the question decides which parts of the context are given as text."""
        return False

    @abstractmethod
    def view(self, item: Item, max_new_tokens: int) -> View:
        """Choose what the decoder gets.

        Raises:
            ContextOverflowError: If the system refuses the item: it cannot give what it promises.
        """

    def answer(self, item: Item, max_new_tokens: int) -> Output:
        """Answer an item and measure the cost.

        Raises:
            ContextOverflowError: If the system refuses the item.
        """
        with PeakMemory(self.engine.device) as memory:
            view = self.view(item, max_new_tokens)
            answer = self.engine.ask(
                view.context,
                item.prompt,
                budget=self.input_budget(max_new_tokens),
                max_new_tokens=max_new_tokens,
                sources="ranked",
                **view.options,
            )
        return Output(answer.text, self._cost(item, view, answer, memory.extra_bytes), given(view, answer))

    def score(self, item: Item, texts: Sequence[str]) -> list[Likelihood]:
        """Return how likely the decoder finds given answers.

        Raises:
            ContextOverflowError: If the system refuses the item.
        """
        longest = max(len(answer_ids(self.engine.processor, text)) for text in texts)
        view = self.view(item, longest)
        budget = self.input_budget(longest)
        return self.engine.score(view.context, item.prompt, texts, budget=budget, **view.options)

    def input_budget(self, max_new_tokens: int) -> int | None:
        """Positions that the input may take, or None without a budget."""
        return None if self.budget is None else max(1, self.budget - max_new_tokens)

    @property
    def positions(self) -> int | None:
        """Positions for input and answer: the budget, or the decoder's window."""
        return self.engine.window if self.budget is None else self.budget

    def overhead(self, item: Item) -> int:
        """Return the positions of question and template."""
        return len(self.readings.question_ids(item.prompt))

    def room(self, item: Item, max_new_tokens: int) -> int | None:
        """Return the positions that the budget leaves to the context; None without a limit.

        Raises:
            ContextOverflowError: If the question alone does not fit.
        """
        budget = self.positions
        if budget is None:
            return None
        around = self.overhead(item)
        room = budget - around - max_new_tokens
        if room < 0:
            raise ContextOverflowError(
                f"question and template need {around} positions and the answer {max_new_tokens}, but the "
                f"budget is {budget}; raise --budget"
            )
        return room

    def _cost(self, item: Item, view: View, answer: Answer, peak: int | None) -> Cost:
        usage, timing = answer.usage, answer.timing
        tokens, fraction = usage.context_tokens, 1.0
        if view.raw_spans or view.rewritten or not usage.chunks:
            lengths = [end - start for start, end in view.raw_spans]
            if view.rewritten:
                lengths = [len(chunk.text) for chunk in view.context.chunks]
            fraction = sum(lengths) / max(1, len(item.context))
            tokens = usage.raw_tokens - self.overhead(item)
        elif answer.left_out:
            fraction = 1 - answer.left_out / usage.chunks
        first, per_token = timing.first_token_seconds, None
        if first is not None and usage.new_tokens > 1:
            per_token = 1000 * (timing.total_seconds - first) / (usage.new_tokens - 1)
        known = [value for value in (peak, view.read_peak_bytes) if value is not None]
        return Cost(
            decoder_positions=usage.soft_tokens + usage.raw_tokens,
            context_tokens=tokens,
            context_fraction=fraction,
            read_seconds=view.read_seconds,
            first_token_seconds=first,
            ms_per_token=per_token,
            peak_extra_bytes=max(known) if known else None,
            new_tokens=usage.new_tokens,
        )


def given(view: View, answer: Answer) -> dict[str, Any]:
    """Return the content of the decoder's input, so that it can be made again (`Output.given`)."""
    usage = answer.usage
    per_chunk = usage.soft_tokens_per_chunk if usage.soft_tokens else 0
    spans = () if view.rewritten else view.raw_spans or tuple(answer.expanded)
    facts = {
        "soft_tokens_per_chunk": per_chunk,
        "rate": usage.rate if per_chunk else None,
        "note": usage.note,
        "raw_spans": [list(span) for span in spans],
        "left_out": answer.left_out,
        **view.rewritten,
    }
    return {name: value for name, value in facts.items() if value is not None}


def raw_view(raw: RawText, **reading: Any) -> View:
    """Return a view that gives a text; `e2llm.modeling.raw_text.lay_out_raw` lays it out so for training."""
    if not raw.text:
        return View(Context.empty(), {}, **reading)
    return View(Context.of_text(raw.text), {"expand": [0]}, raw_spans=raw.spans, **reading)
