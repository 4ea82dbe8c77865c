"""Choose the parts of a context to give as raw text if the whole does not fit.

Evaluation (`e2llm.evaluation.systems`) and training (`e2llm.training.samples.text_contexts`) use the same
functions, so that a decoder is asked with what it was trained on. All counts are decoder tokens.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from e2llm.modeling.bm25 import Bm25Index
from e2llm.modeling.decoder_input import DecoderInput
from e2llm.modeling.processor import E2LLMProcessor

_GAP = "\n...\n"

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class RawText:
    """A part of a context, or all of it, as it appears in the decoder's input.

    Attributes:
        text: What is given; empty for nothing.
        spans: Character spans of the context that it comes from.
    """

    text: str
    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def whole(cls, text: str) -> "RawText":
        """Return the whole context."""
        return cls(text, ((0, len(text)),))


@dataclass(frozen=True)
class Passages:
    """A context split into chunks: texts, character spans and decoder tokens."""

    texts: list[str]
    spans: list[tuple[int, int]]
    token_counts: list[int]

    @classmethod
    def of(cls, processor: E2LLMProcessor, text: str) -> "Passages":
        """Split a context into passages, and count their tokens."""
        chunks = processor.split(text)
        texts = [chunk.text for chunk in chunks]
        counts = [len(row) for row in processor.encode_all(texts)]
        return cls(texts, [(chunk.start, chunk.end) for chunk in chunks], counts)

    @cached_property
    def index(self) -> Bm25Index:
        """An index for ranking the passages by shared words."""
        return Bm25Index(self.texts)


def head_and_tail(text: str, room: int, count_tokens: CountTokens) -> RawText:
    """Return the beginning and the end of a context, half of the room each.

    Args:
        text: The context, longer than the room.
        room: Most tokens, 0 or more.
        count_tokens: Counts a text's tokens.
    """
    half = max(0, room - count_tokens(_GAP)) // 2
    while half:
        head, tail = longest_prefix(text, half, count_tokens), longest_suffix(text, half, count_tokens)
        joined = head + _GAP + tail
        if count_tokens(joined) <= room:  # pieces that are joined may have a token more than they had apart
            return RawText(joined, ((0, len(head)), (len(text) - len(tail), len(text))))
        half -= 1
    return RawText("")


def best_passages(
    text: str, room: int, passages: Passages, scores: Sequence[float], count_tokens: CountTokens
) -> RawText:
    """Return the best passages that fit, each on a separate line, in the order of the context.

    Args:
        text: The context, longer than the room.
        room: Most tokens, 0 or more.
        passages: Those of the context.
        scores: One per passage; of equal ones the earlier is taken first.
        count_tokens: Counts a text's tokens.
    """
    chosen: list[int] = []
    left = room
    for index in sorted(range(len(scores)), key=lambda index: (-scores[index], index)):
        cost = passages.token_counts[index] + 1  # the line's end
        if cost <= left:
            left -= cost
            chosen.append(index)
    while chosen:
        spans = [passages.spans[index] for index in sorted(chosen)]
        joined = "\n".join(text[start:end].strip() for start, end in spans)
        if count_tokens(joined) <= room:  # on separate lines they may have a token more than in the text
            return RawText(joined, tuple(spans))
        chosen.pop()
    return RawText("")


def lay_out_raw(
    processor: E2LLMProcessor,
    text: str,
    prompt: str,
    answer: str | None = None,
    history: Sequence[tuple[str, str]] = (),
) -> DecoderInput:
    """Lay out a sample whose context is raw text, or empty.

    Args:
        processor: Lays out.
        text: The text given of the context; empty for none.
        prompt: The instruction.
        answer: The text to predict; None at inference.
        history: Earlier instructions with their answers, which are predicted as well.
    """
    chunks = [text] if text else []
    return processor.lay_out(
        chunks, prompt, answer, expand=range(len(chunks)), history=history, labels_history=bool(history)
    )


def longest_prefix(text: str, max_tokens: int | None, count_tokens: CountTokens) -> str:
    """Return the longest beginning of a text with at most `max_tokens` tokens; without a limit, all of it."""
    if max_tokens is None:
        return text
    return text[: _longest(len(text), max_tokens, lambda size: count_tokens(text[:size]))]


def longest_suffix(text: str, max_tokens: int | None, count_tokens: CountTokens) -> str:
    """Return the longest end of a text with at most `max_tokens` tokens; without a limit, all of it."""
    if max_tokens is None:
        return text
    start = len(text)
    return text[start - _longest(start, max_tokens, lambda size: count_tokens(text[start - size :])) :]


def _longest(size: int, max_tokens: int, count: Callable[[int], int]) -> int:
    """Return the most characters, up to `size`, for which `count` returns at most `max_tokens`."""
    high = max(1, max_tokens)
    while high < size and count(high) <= max_tokens:
        high *= 2
    return bisect_right(range(1, min(high, size) + 1), max_tokens, key=count)
