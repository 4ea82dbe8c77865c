"""Contexts as systems need them, prepared once for all questions on a text: read, split, counted."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from e2llm.inference.context import Context
from e2llm.inference.engine import Engine
from e2llm.measuring import PeakMemory
from e2llm.modeling.raw_text import Passages

_KEPT = 4  # texts of a kind; questions on one text come one after the other
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Reading:
    """A context that was read.

    Attributes:
        context: For the engine.
        seconds: Time that reading took.
        peak_bytes: The most memory that it took above that before; None where unknown.
    """

    context: Context
    seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Cutting:
    """A text cut into passages, the engine's chunks, without reading them.

    Attributes:
        passages: The passages, indexed.
        seconds: Time that cutting and indexing took.
    """

    passages: Passages
    seconds: float


class Readings:
    """Prepared texts of one engine; the last few are kept.

    Args:
        engine: Reads.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._kept: dict[str, OrderedDict[str, object]] = {}

    def context(self, text: str) -> Reading:
        """The text as the engine read it."""
        return self.once("context", text, self._read)

    def cutting(self, text: str) -> Cutting:
        """The text as passages, with their BM25 index."""
        return self.once("cutting", text, self._cut)

    def token_ids(self, text: str) -> list[int]:
        """Decoder ids of the text."""
        return self.once("ids", text, self.engine.processor.encode)

    def question_ids(self, prompt: str) -> list[int]:
        """Decoder ids of a question with the template around it and nothing of a context."""
        return self.once("question", prompt, self._lay_out)

    def count_tokens(self, text: str) -> int:
        """Decoder tokens of the text."""
        return len(self.token_ids(text))

    def once(self, kind: str, text: str, make: Callable[[str], _Made]) -> _Made:
        """What was made of a text; it is made where it is not kept.

        Args:
            kind: Name of what is made; the last few texts of a kind are kept.
            text: What it is made of.
            make: Makes it.
        """
        kept = self._kept.setdefault(kind, OrderedDict())
        if text not in kept:
            kept[text] = make(text)
            if len(kept) > _KEPT:
                kept.popitem(last=False)
        kept.move_to_end(text)
        return kept[text]  # type: ignore[return-value]

    def _lay_out(self, prompt: str) -> list[int]:
        return self.engine.processor.lay_out([], prompt).input_ids

    def _read(self, text: str) -> Reading:
        with PeakMemory(self.engine.device) as memory:
            context = self.engine.read(text, progress=False) if text.strip() else Context.empty()
        return Reading(context, context.read_seconds, memory.extra_bytes)

    def _cut(self, text: str) -> Cutting:
        started = time.perf_counter()
        passages = Passages.of(self.engine.processor, text)
        _ = passages.index
        return Cutting(passages, time.perf_counter() - started)
