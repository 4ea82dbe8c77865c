"""Contexts as systems need them, prepared once for all questions on a text: read, split, counted."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from e2llm.inference.context import Context
from e2llm.inference.engine import Engine
from e2llm.inference.peak_memory import PeakMemory
from e2llm.modeling.raw_text import Passages

_KEPT = 4  # texts; questions on one text come one after the other
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
        self._kept: OrderedDict[tuple[str, str], object] = OrderedDict()

    def context(self, text: str) -> Reading:
        """The text as the engine read it."""
        return self._once("context", text, self._read)

    def cutting(self, text: str) -> Cutting:
        """The text as passages, with their BM25 index."""
        return self._once("cutting", text, self._cut)

    def count_tokens(self, text: str) -> int:
        """Decoder tokens of the text."""
        return self._once("count", text, self.engine.count_tokens)

    def _once(self, kind: str, text: str, make: Callable[[str], _Made]) -> _Made:
        key = (kind, text)
        if key not in self._kept:
            self._kept[key] = make(text)
            while len(self._kept) > 3 * _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]  # type: ignore[return-value]

    def _read(self, text: str) -> Reading:
        with PeakMemory(self.engine.device) as memory:
            context = self.engine.read(text, progress=False) if text.strip() else Context.empty()
        return Reading(context, context.read_seconds, memory.extra_bytes)

    def _cut(self, text: str) -> Cutting:
        started = time.perf_counter()
        passages = Passages.of(self.engine.processor, text)
        _ = passages.index
        return Cutting(passages, time.perf_counter() - started)
