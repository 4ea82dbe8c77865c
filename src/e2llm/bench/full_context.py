"""Time and memory of both ways to answer, in one run: soft tokens, and the text itself in the window.

Both ways use the same decoder with the same weights and wording. The full-context way gets as much of the
text, from its start, as the decoder's window takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch

from e2llm.documents import Document
from e2llm.inference.answer import Answer
from e2llm.inference.context import Context
from e2llm.inference.engine import Engine
from e2llm.measuring import PeakMemory, format_bytes
from e2llm.messages import counted
from e2llm.modeling.raw_text import longest_prefix

_WARM_UP_TEXT = "A short text to start all parts with. " * 4


@dataclass(frozen=True)
class Measured:
    """One way to answer and what it took; seconds run from the text and the question, reading included.

    Attributes:
        answer: The answer with its usage and timing.
        context_tokens: Decoder tokens of the text that the way took in; of e2llm, by the share below.
        context_fraction: Share of the text that it took in, from 0 to 1; of e2llm, the share of the chunks
            that the decoder got as text or soft tokens.
        input_positions: Positions of the decoder's input.
        peak_extra_bytes: Most memory during the call (reading included) above that at its start: resident
            memory of the process on a CPU, allocated memory on a GPU; None where it is unknown.
    """

    answer: Answer
    context_tokens: int
    context_fraction: float
    input_positions: int
    peak_extra_bytes: int | None

    @property
    def first_token_seconds(self) -> float:
        """To the first token."""
        return self.answer.timing.read_seconds + (self.answer.timing.first_token_seconds or 0.0)

    @property
    def total_seconds(self) -> float:
        """To the whole answer."""
        return self.answer.timing.read_seconds + self.answer.timing.total_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a program to read."""
        names = ("context_tokens", "context_fraction", "input_positions", "first_token_seconds")
        return {
            "text": self.answer.text,
            **{name: getattr(self, name) for name in (*names, "total_seconds", "peak_extra_bytes")},
            "read_seconds": self.answer.timing.read_seconds,
        }


@dataclass(frozen=True)
class Comparison:
    """Both ways on one text and question: by soft tokens and by raw text, in one window (None: unstated)."""

    e2llm: Measured
    full_context: Measured
    window: int | None
    device: str
    num_threads: int


def compare_with_full_context(
    engine: Engine,
    source: str | PathLike[str] | Document | Sequence[PathLike[str] | Document],
    question: str,
    *,
    max_new_tokens: int = 64,
    **options: Any,
) -> Comparison:
    """Answer a question by soft tokens and by raw text, one after the other, and measure both.

    Everything is run once before it is measured. Memory that a call frees is given back to the system before
    the next, so that their order matters little.

    Args:
        engine: The model.
        source: What `Engine.read` takes.
        question: The instruction.
        max_new_tokens: Longest answer of either way, in tokens.
        options: For `Engine.ask`, used for the answer by soft tokens alone.

    Raises:
        ContextOverflowError: If the soft tokens do not fit the window.
    """
    documents = engine.documents(source)
    for expand in ([], [0]):
        engine.ask(engine.read(_WARM_UP_TEXT, progress=False), question, expand=expand, max_new_tokens=2)
    with PeakMemory(engine.device) as memory:
        context = engine.read(documents)
        answer = engine.ask(context, question, max_new_tokens=max_new_tokens, **options)
    positions = answer.usage.soft_tokens + answer.usage.raw_tokens
    share = 1 - answer.left_out / len(context)
    ours = Measured(answer, round(share * context.num_tokens), share, positions, memory.extra_bytes)
    text = "\n\n".join(item.text for item in documents)
    around = len(engine.processor.lay_out([], question).input_ids)
    room = None if engine.window is None else engine.window - max_new_tokens - around
    prefix = longest_prefix(text, room, engine.count_tokens)
    with PeakMemory(engine.device) as memory:
        answer = engine.ask(
            Context.of_text(prefix), question, expand=[0], max_new_tokens=max_new_tokens, sources="ranked"
        )
    share = len(prefix) / len(text)
    full = Measured(answer, engine.count_tokens(prefix), share, answer.usage.raw_tokens, memory.extra_bytes)
    return Comparison(ours, full, engine.window, str(engine.device), torch.get_num_threads())


def format_comparison(comparison: Comparison) -> str:
    """Return a plain table of both ways, a column each."""
    pair = (comparison.e2llm, comparison.full_context)
    rows = [
        ("", "e2llm", "full context"),
        ("text taken in", *(f"{item.context_fraction:.1%}" for item in pair)),
        ("tokens of text", *(f"{item.context_tokens:,}" for item in pair)),
        ("decoder positions", *(f"{item.input_positions:,}" for item in pair)),
        ("first token", *(f"{item.first_token_seconds:.2f} s" for item in pair)),
        ("whole answer", *(f"{item.total_seconds:.2f} s" for item in pair)),
        ("peak extra memory", *(format_bytes(item.peak_extra_bytes) for item in pair)),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{name:<{widths[0]}}  {ours:>{widths[1]}}  {theirs:>{widths[2]}}" for name, ours, theirs in rows
    ]
    window = "no stated window" if comparison.window is None else f"window of {comparison.window:,} positions"
    lines.append(
        f"(same decoder, {window}, {comparison.device}, {counted(comparison.num_threads, 'thread')}; of "
        f"e2llm's time {comparison.e2llm.answer.timing.read_seconds:.2f} s is reading, once per text)"
    )
    lines.append(f"answer from full context: {comparison.full_context.answer.text}")
    return "\n".join(lines)
