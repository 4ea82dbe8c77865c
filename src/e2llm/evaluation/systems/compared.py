"""The systems that need no further package: soft tokens, whole or cut text, passages, and no context."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from e2llm.errors import ContextOverflowError
from e2llm.evaluation.items import Item
from e2llm.evaluation.systems.base import System, View, raw_view
from e2llm.inference.options import Selector
from e2llm.modeling.rates import Rate, parse_rate
from e2llm.modeling.raw_text import RawText, best_passages, head_and_tail


@dataclass
class SoftSystem(System):
    """Soft tokens of all chunks; if even one per chunk does not fit, the least relevant are left out.

    Attributes:
        soft_tokens: Per chunk; None for the most that fits.
        expand: Number of chunks, chosen by the question, to give as text.
        select: How they are chosen, `bm25`, `encoder` or `fused`.
        rate: Encoder tokens per soft token, instead of their number; None for the model's, or a coarser one
            that fits.
    """

    soft_tokens: Annotated[int, Field(ge=1)] | None = None
    expand: Annotated[int, Field(ge=0)] = 0
    select: Selector = "bm25"
    rate: Annotated[Rate, BeforeValidator(parse_rate)] | None = None
    name: ClassVar[str] = "e2llm"

    def __post_init__(self) -> None:
        """Refuse what the model cannot make before any question is asked."""
        self.engine.dial.check(self.soft_tokens, self.rate)

    @property
    def chooses_by_question(self) -> bool:
        """Whether chunks are given as text."""
        return self.expand > 0

    def view(self, item: Item, max_new_tokens: int) -> View:
        """Give the context as it was read."""
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
    """Policy `mixed`: the most relevant chunks as text, soft tokens for the others.

    Attributes:
        select: How these are chosen, `bm25`, `encoder` or `fused`.
    """

    select: Selector = "bm25"
    name: ClassVar[str] = "hybrid"
    gives_text: ClassVar[bool] = True
    chooses_by_question = True

    def view(self, item: Item, max_new_tokens: int) -> View:
        """Give the context as it was read."""
        reading = self.readings.context(item.context)
        options = {"select": self.select}
        return View(reading.context, options, reading.seconds, reading.peak_bytes)


@dataclass
class FullSystem(System):
    """The whole text; refuses a text that does not fit."""

    name: ClassVar[str] = "full"
    gives_text: ClassVar[bool] = True

    def view(self, item: Item, max_new_tokens: int) -> View:
        """Give the whole text, or what `cut` leaves of a text that does not fit."""
        room = self.room(item, max_new_tokens)
        if room is None or self.readings.count_tokens(item.context) <= room:
            return raw_view(RawText.whole(item.context))
        return self.cut(item, room)

    def cut(self, item: Item, room: int) -> View:
        """Refuse the text, which does not fit."""
        count = self.readings.count_tokens(item.context)
        raise ContextOverflowError(f"the context has {count:,} tokens, but there is room for only {room:,}")


@dataclass
class TruncateSystem(FullSystem):
    """The beginning and the end of the text, half of the room each; the middle is left out."""

    name: ClassVar[str] = "truncate"

    def cut(self, item: Item, room: int) -> View:
        """Give head and tail."""
        return raw_view(head_and_tail(item.context, room, self.engine.count_tokens))


@dataclass
class PassageSystem(FullSystem):
    """The passages that score best for the question, in document order."""

    chooses_by_question = True

    def scores(self, item: Item) -> tuple[list[float], dict[str, Any]]:
        """Return a score per passage, and `read_seconds` and `read_peak_bytes` of the view."""
        raise NotImplementedError

    def cut(self, item: Item, room: int) -> View:
        """Give the best passages that fit, each on its own line."""
        passages = self.readings.cutting(item.context).passages
        scores, reading = self.scores(item)
        return raw_view(
            best_passages(item.context, room, passages, scores, self.engine.count_tokens), **reading
        )


@dataclass
class Bm25System(PassageSystem):
    """The passages that share most words with the question (BM25), in document order."""

    name: ClassVar[str] = "bm25"

    def scores(self, item: Item) -> tuple[list[float], dict[str, Any]]:
        """Return BM25 of each passage."""
        cutting = self.readings.cutting(item.context)
        return cutting.passages.index.scores(item.prompt), {"read_seconds": cutting.seconds}


@dataclass
class DenseSystem(PassageSystem):
    """The passages nearest to the question by the encoder's embeddings, in document order."""

    name: ClassVar[str] = "dense"

    def scores(self, item: Item) -> tuple[list[float], dict[str, Any]]:
        """Return the cosine similarity of each passage to the question."""
        reading = self.readings.context(item.context)
        ranks = self.engine.rank(reading.context, item.prompt, select="encoder")
        return ranks, {"read_seconds": reading.seconds, "read_peak_bytes": reading.peak_bytes}


@dataclass
class ClosedBookSystem(System):
    """The question alone, so the decoder answers from its own knowledge."""

    name: ClassVar[str] = "closed-book"

    def view(self, item: Item, max_new_tokens: int) -> View:
        """Give nothing of the context."""
        return raw_view(RawText(""))
