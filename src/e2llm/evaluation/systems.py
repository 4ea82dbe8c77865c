"""Systems: what a user might do with a long text and one decoder, behind one small contract.

All systems answer with the same decoder, the same wording and the same number of decoder positions (the
budget, answer included); they differ in what of the context stands in these positions.

| system | what the decoder gets of the context |
|---|---|
| `e2llm` | soft tokens of all chunks; `rate=R` or `soft_tokens=K`, and `expand=N`, fix how they stand |
| `hybrid` | soft tokens of all chunks, and the raw text of the most relevant ones in what is left |
| `full` | the whole text; refuses what does not fit |
| `truncate` | its beginning and its end, half of the room each |
| `bm25` | the passages that share most words with the question, in document order |
| `dense` | the passages nearest to the question by the encoder's embeddings, in document order |
| `closed-book` | nothing |
| `streaming` | all of it, one block after the other, through a cache of sinks and recent tokens |
| `llmlingua2` | the words that LLMLingua-2 keeps of it; needs the package llmlingua |
| `kvpress` | the cached keys and values of it that a press of kvpress keeps; needs that package |
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from e2llm.errors import ContextOverflowError
from e2llm.evaluation.items import Item
from e2llm.evaluation.readings import Readings
from e2llm.inference.answer import Answer
from e2llm.inference.context import Context
from e2llm.inference.decoding.likelihood import Likelihood, answer_ids
from e2llm.inference.engine import Engine
from e2llm.measuring import PeakMemory
from e2llm.modeling.rates import Rate, parse_rate
from e2llm.modeling.raw_text import RawText, best_passages, head_and_tail

Select = Literal["bm25", "encoder"]


@dataclass(frozen=True)
class Cost:
    """What an answer took.

    Attributes:
        decoder_positions: Positions of the input; of a stream, the most that the cache held.
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
    """What a system said, what it took, and what the decoder had got of the context.

    Attributes:
        text: The answer.
        cost: What it took.
        given: What stood in the decoder's input: `soft_tokens_per_chunk`, `rate` if all have one, `note`
            if the user should know something, `raw_spans` (character spans of the
            context given as text), `left_out` (chunks that it did not get), and what a system adds.
    """

    text: str
    cost: Cost
    given: dict[str, Any]


@dataclass(frozen=True)
class View:
    """What a system gives the decoder of an item's context.

    Attributes:
        context: For `Engine.ask`.
        options: For `Engine.ask`.
        read_seconds: Time that preparing the context took, for all its questions.
        read_peak_bytes: The most memory that took.
        raw_spans: Character spans of the context given as text, where the engine does not know them.
        rewritten: What a system says of a text that is no part of the context but made of it; its keys stand
            in `Output.given`.
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

    The fields after the first three of a subclass are its options: `NAME:option=value:option=value`. Their
    types say what values they take, `metadata["least"]` the least number.

    Attributes:
        engine: Has the decoder.
        readings: Contexts that have been read; shared by systems of one engine.
        budget: Decoder positions for input and answer; None for the decoder's window.
    """

    engine: Engine
    readings: Readings
    budget: int | None

    name: ClassVar[str]

    @abstractmethod
    def view(self, item: Item, max_new_tokens: int) -> View:
        """Choose what the decoder gets.

        Raises:
            ContextOverflowError: If the system refuses the item: it cannot give what it promises.
        """

    def answer(self, item: Item, max_new_tokens: int) -> Output:
        """Answer an item and measure it.

        Raises:
            ContextOverflowError: If the system refuses the item.
        """
        with PeakMemory(self.engine.device) as memory:
            view = self.view(item, max_new_tokens)
            answer = self.engine.ask(
                view.context,
                item.prompt,
                window=self.budget,
                max_new_tokens=max_new_tokens,
                **view.options,
            )
        return Output(answer.text, self._cost(item, view, answer, memory.extra_bytes), given(view, answer))

    def score(self, item: Item, texts: Sequence[str]) -> list[Likelihood]:
        """How likely the decoder holds given answers to be.

        Raises:
            ContextOverflowError: If the system refuses the item.
        """
        longest = max(len(answer_ids(self.engine.processor, text)) for text in texts)
        view = self.view(item, longest)
        return self.engine.score(view.context, item.prompt, texts, window=self.budget, **view.options)

    @property
    def positions(self) -> int | None:
        """Positions for input and answer: the budget, or the decoder's window."""
        return self.engine.window if self.budget is None else self.budget

    def overhead(self, item: Item) -> int:
        """Positions of question and template."""
        return len(self.readings.question_ids(item.prompt))

    def room(self, item: Item, max_new_tokens: int) -> int | None:
        """Positions that the budget leaves to the context; None without a limit.

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
                f"question and template need {around} positions and the answer {max_new_tokens}, the budget "
                f"is {budget}; raise --budget"
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
    """What stood in the decoder's input, so that it can be made again."""
    spans = () if view.rewritten else view.raw_spans or tuple(answer.expanded)
    per_chunk = answer.usage.soft_tokens_per_chunk if answer.usage.soft_tokens else 0
    rate = {} if answer.usage.rate is None or not per_chunk else {"rate": answer.usage.rate}
    note = {} if answer.usage.note is None else {"note": answer.usage.note}
    return {
        "soft_tokens_per_chunk": per_chunk,
        **rate,
        **note,
        "raw_spans": [list(span) for span in spans],
        "left_out": answer.left_out,
        **view.rewritten,
    }


def raw_view(raw: RawText, **reading: Any) -> View:
    """A view that gives a text raw; `e2llm.modeling.raw_text.lay_out_raw` lays the same out for training."""
    if not raw.text:
        return View(Context.empty(), {}, **reading)
    return View(Context.of_text(raw.text), {"expand": [0]}, raw_spans=raw.spans, **reading)


@dataclass
class SoftSystem(System):
    """Soft tokens of all chunks; what does not fit at one per chunk is left out by relevance, and counted.

    Attributes:
        soft_tokens: Per chunk; None for the most that fits.
        rate: Encoder tokens per soft token, in the place of their number; None for the model's, or a coarser
            one that fits.
        expand: Chunks chosen by the question to stand as raw text.
        select: How they are chosen, `bm25` or `encoder`.
    """

    soft_tokens: int | None = field(default=None, metadata={"least": 1})
    expand: int = field(default=0, metadata={"least": 0})
    select: Select = "bm25"
    rate: Rate | None = field(default=None, metadata={"parse": parse_rate})
    name: ClassVar[str] = "e2llm"

    def __post_init__(self) -> None:
        """Refuse what the model cannot make before anything is asked of it."""
        self.engine.dial.check(self.soft_tokens, self.rate)

    def view(self, item: Item, max_new_tokens: int) -> View:
        """The context as it was read."""
        reading = self.readings.context(item.context)
        options: dict[str, Any] = {
            "soft_tokens": self.soft_tokens,
            "rate": self.rate,
            "expand": self.expand,
            "select": self.select,
            "overflow": "select",
        }
        return View(reading.context, options, reading.seconds, reading.peak_bytes)


@dataclass
class HybridSystem(System):
    """Soft tokens of all chunks in half of the room or less, raw text of the most relevant ones in the rest.

    Attributes:
        select: How these are chosen, `bm25` or `encoder`.
    """

    select: Select = "bm25"
    name: ClassVar[str] = "hybrid"

    def view(self, item: Item, max_new_tokens: int) -> View:
        """The context with the plan that fills the budget."""
        reading = self.readings.context(item.context)
        plan = self.engine.fit(
            reading.context,
            self.budget,
            question=item.prompt,
            max_new_tokens=max_new_tokens,
            select=self.select,
            overflow="select",
        )
        options = {**plan.options, "select": self.select, "overflow": "select"}
        return View(reading.context, options, reading.seconds, reading.peak_bytes)


@dataclass
class FullSystem(System):
    """The whole text; what does not fit is refused, not cut."""

    name: ClassVar[str] = "full"

    def view(self, item: Item, max_new_tokens: int) -> View:
        """The whole text."""
        room = self.room(item, max_new_tokens)
        needed = self.readings.count_tokens(item.context)
        if room is not None and needed > room:
            raise ContextOverflowError(f"the context has {needed:,} tokens, there is room for {room:,}")
        return raw_view(RawText.whole(item.context))


@dataclass
class TruncateSystem(System):
    """The beginning and the end of the text, half of the room each; the middle is left out."""

    name: ClassVar[str] = "truncate"

    def view(self, item: Item, max_new_tokens: int) -> View:
        """Head and tail."""
        text, room = item.context, self.room(item, max_new_tokens)
        if room is None or self.readings.count_tokens(text) <= room:
            return raw_view(RawText.whole(text))
        return raw_view(head_and_tail(text, room, self.engine.count_tokens))


@dataclass
class PassageSystem(System):
    """The passages that score best for the question, in document order."""

    def scores(self, item: Item) -> tuple[list[float], dict[str, Any]]:
        """A score per passage, and the time and memory of preparing the context."""
        raise NotImplementedError

    def view(self, item: Item, max_new_tokens: int) -> View:
        """The best passages that fit, each on a line of its own."""
        text, room = item.context, self.room(item, max_new_tokens)
        if room is None or self.readings.count_tokens(text) <= room:
            return raw_view(RawText.whole(text))
        passages = self.readings.cutting(text).passages
        scores, reading = self.scores(item)
        return raw_view(best_passages(text, room, passages, scores, self.engine.count_tokens), **reading)


@dataclass
class Bm25System(PassageSystem):
    """Passages by shared words."""

    name: ClassVar[str] = "bm25"

    def scores(self, item: Item) -> tuple[list[float], dict[str, Any]]:
        """BM25 of each passage."""
        cutting = self.readings.cutting(item.context)
        return cutting.passages.index.scores(item.prompt), {"read_seconds": cutting.seconds}


@dataclass
class DenseSystem(PassageSystem):
    """Passages by the similarity of the encoder's embeddings."""

    name: ClassVar[str] = "dense"

    def scores(self, item: Item) -> tuple[list[float], dict[str, Any]]:
        """Cosine similarity of each passage to the question."""
        reading = self.readings.context(item.context)
        ranks = self.engine.rank(reading.context, item.prompt, select="encoder")
        return ranks, {"read_seconds": reading.seconds, "read_peak_bytes": reading.peak_bytes}


@dataclass
class ClosedBookSystem(System):
    """The question alone: what the decoder knows by itself, or guesses."""

    name: ClassVar[str] = "closed-book"

    def view(self, item: Item, max_new_tokens: int) -> View:
        """Nothing."""
        return raw_view(RawText(""))
