"""Contexts as systems need them, prepared once for all questions on a text: read, split, counted."""

import time
from dataclasses import dataclass
from functools import lru_cache

from e2llm.inference.context import Context
from e2llm.inference.engine import Engine
from e2llm.measuring import PeakMemory
from e2llm.modeling.raw_text import Passages

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
            context = self.engine.read(text, progress=False) if text.strip() else Context.empty()
        return TimedContext(context, context.read_seconds, memory.extra_bytes)

    def _cut(self, text: str) -> Cutting:
        started = time.perf_counter()
        passages = Passages.of(self.engine.processor, text)
        _ = passages.index
        return Cutting(passages, time.perf_counter() - started)
