"""Split a document into chunks that the encoder can read.

The rule is the paper's (arXiv 2409.06679, the chunker): take a span of at most
`chunk_size_chars` characters, step back inside it to the last natural break, cut there, and start the next
span at the cut. The breaks are those of `e2llm.chunk_breaks`; overlap and the token limit are ours. To add a
kind of text, write a break finder and add a line to `CHUNKERS`.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from bisect import bisect_left
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from e2llm.chunk_breaks import find_code_break, find_prose_break
from e2llm.errors import E2LLMError
from e2llm.surrogates import reject_lone_surrogates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BreakFinder = Callable[[str, int, int, int], int]
Reach = Callable[[int], int]

DEFAULT_CHUNK_SIZE_CHARS = 512  # the paper's

_MEASURE_BATCH = 1024  # chunks per tokenizer call: bounds the memory that offsets take
_BLOCK_CHARS = 1 << 16  # a whole text is tokenized in blocks of this many characters

_ZWJ = "\u200d"
_MAX_CLUSTER_CHARS = 32
_WORD_START = re.compile(r"(?<=[\s。！？；，、])\S")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document; `text == source[start:end]`.

    Attributes:
        start: First character in the source text, counted from 0.
        end: One past the last character in the source text.
        text: The characters themselves, white space included.
    """

    start: int
    end: int
    text: str


class _Span(NamedTuple):
    """A chunk's place; `[start, fresh)` repeats the chunk before it, `[fresh, end)` is new."""

    start: int
    fresh: int
    end: int


CHUNKERS: dict[str, BreakFinder] = {
    "prose": find_prose_break,
    "code": find_code_break,
    "tokens": find_prose_break,  # the same breaks; `split_text` measures the span in encoder tokens
}


def split_text(
    text: str,
    chunk_size_chars: int = DEFAULT_CHUNK_SIZE_CHARS,
    overlap_chars: int = 0,
    kind: str = "prose",
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    max_tokens: int | None = None,
    fitting: Container[str] = (),
) -> list[Chunk]:
    """Split a text into chunks that cover it completely, in order.

    Without overlap, the joined chunk texts are the text. The rule for prose is the paper's chunker, and the
    overlap its optional variant. An overlap begins at a word if one starts in its first half.

    Args:
        text: Any string; an empty one gives no chunks.
        chunk_size_chars: Most characters in a chunk, 1 or more; `tokens` ignores it (and warns if set).
        overlap_chars: How many characters before the end of one chunk the next one starts, at most; 0 or
            more and below `chunk_size_chars`. Where tokens set a chunk's size, also at most half that chunk.
        kind: `prose`, `code` or `tokens`: a key of `CHUNKERS`.
        tokenizer: The encoder's fast tokenizer. Chunks that exceed `max_tokens` are split again.
        max_tokens: Most encoder tokens in a chunk, special tokens included. Text that looks like a special
            token counts as text (`split_special_tokens=True`).
        fitting: Texts that fit `max_tokens` and need not be measured.

    Returns:
        The chunks; each one ends after the one before it.

    Raises:
        E2LLMError: If an argument is outside its range, or one character alone exceeds `max_tokens`.
    """
    _check_arguments(text, chunk_size_chars, overlap_chars, kind)
    meter = _make_meter(text, kind, tokenizer, max_tokens, fitting)
    if not text:
        return []
    find_break = CHUNKERS[kind]
    everything = _Span(0, 0, len(text))
    if kind == "tokens":
        spans = [everything]
    else:
        spans = _walk(text, everything, lambda at: at + chunk_size_chars, find_break, overlap_chars)
    if meter is not None:
        spans = _split_until_fit(text, spans, meter, find_break, overlap_chars)
    return [Chunk(start, end, text[start:end]) for start, _, end in spans]


def _check_arguments(text: str, chunk_size_chars: int, overlap_chars: int, kind: str) -> None:
    if not isinstance(text, str):
        raise E2LLMError(f"text must be a string, got {type(text).__name__}; decode bytes first")
    check_splitting(chunk_size_chars, overlap_chars, kind)
    if kind == "tokens" and chunk_size_chars != DEFAULT_CHUNK_SIZE_CHARS:
        warnings.warn(
            f"chunk_size_chars={chunk_size_chars} has no effect with kind='tokens', where max_tokens sets "
            "the size",
            stacklevel=3,
        )


def check_splitting(chunk_size_chars: int, overlap_chars: int, kind: str) -> None:
    """Raise `E2LLMError` unless these are a size, an overlap and a kind that `split_text` takes together."""
    if kind not in CHUNKERS:
        raise E2LLMError(f"kind={kind!r} is unknown; choose one of: {', '.join(CHUNKERS)}")
    if type(chunk_size_chars) is not int or chunk_size_chars < 1:
        raise E2LLMError(f"chunk_size_chars must be a whole number of 1 or more, got {chunk_size_chars!r}")
    if type(overlap_chars) is not int or overlap_chars < 0:
        raise E2LLMError(f"overlap_chars must be a whole number of 0 or more, got {overlap_chars!r}")
    if kind != "tokens" and overlap_chars >= chunk_size_chars:
        raise E2LLMError(
            f"overlap_chars={overlap_chars} must be below chunk_size_chars={chunk_size_chars}; "
            "lower the overlap or raise the chunk size"
        )


def _make_meter(
    text: str,
    kind: str,
    tokenizer: PreTrainedTokenizerFast | None,
    max_tokens: int | None,
    fitting: Container[str],
) -> _TokenMeter | None:
    """Return a meter if both the tokenizer and its limit are given, or None without both."""
    if tokenizer is None and max_tokens is None:
        if kind == "tokens":
            raise E2LLMError("kind='tokens' needs tokenizer and max_tokens; pass both or use kind='prose'")
        return None
    if tokenizer is None or max_tokens is None:
        missing = "tokenizer" if tokenizer is None else "max_tokens"
        raise E2LLMError(f"{missing} is missing; pass tokenizer and max_tokens together, or neither")
    if not getattr(tokenizer, "is_fast", False):
        raise E2LLMError(f"{type(tokenizer).__name__} is not a fast tokenizer; load it with AutoTokenizer")
    num_special = tokenizer.num_special_tokens_to_add(pair=False)
    if type(max_tokens) is not int or max_tokens <= num_special:
        raise E2LLMError(
            f"max_tokens must be a whole number above {num_special}, the special tokens; got {max_tokens!r}"
        )
    reject_lone_surrogates(text)
    return _TokenMeter(tokenizer, max_tokens - num_special, max_tokens, fitting)


def _walk(
    text: str, span: _Span, reach: Reach, find_break: BreakFinder, overlap_chars: int, by_tokens: bool = False
) -> list[_Span]:
    """Cut a span into spans that each end within `reach(start)`; their ends strictly rise to `span.end`."""
    start, fresh, last = span
    spans = []
    while True:
        stop = reach(start)
        if stop <= fresh and start < fresh:  # nothing new would fit after the overlap: drop it
            start = fresh
            stop = reach(start)
        if stop >= last:
            spans.append(_Span(start, fresh, last))
            return spans
        end = find_break(text, start, fresh + 1, stop)
        if text[end] > "\x7f" or text[end] == "\n":
            end = _avoid_split_cluster(text, end, fresh + 1)
        spans.append(_Span(start, fresh, end))
        if overlap_chars:
            earliest = start + (end - start + 1) // 2 if by_tokens else start + 1
            start = _overlap_start(text, max(end - overlap_chars, earliest), end)
        else:
            start = end
        fresh = end


def _avoid_split_cluster(text: str, position: int, floor: int) -> int:
    """Return `position`, or the place before the character cluster that a cut there would split.

    Clusters are approximate: combining marks, variation selectors, joined emoji, skin tones, flags and CRLF.
    A cluster that is longer than 32 characters, or that begins before `floor`, is split anyway.
    """
    at = position
    lowest = max(floor, position - _MAX_CLUSTER_CHARS)
    while _continues_cluster(text, at):
        at -= 1
        if at < lowest:
            return position
    return at


def _continues_cluster(text: str, position: int) -> bool:
    """Return whether the character at `position` belongs to the one before it."""
    here, before = text[position], text[position - 1]
    if here == "\n":
        return before == "\r"
    if "\U0001f1e6" <= here <= "\U0001f1ff":  # a flag is a pair of regional indicators
        run = position
        while (
            run > 0 and position - run < _MAX_CLUSTER_CHARS and "\U0001f1e6" <= text[run - 1] <= "\U0001f1ff"
        ):
            run -= 1
        return (position - run) % 2 == 1
    return (
        here == _ZWJ
        or (before == _ZWJ and here > "\x7f")
        or "\U0001f3fb" <= here <= "\U0001f3ff"
        or unicodedata.category(here)[0] == "M"
    )


def _overlap_start(text: str, earliest: int, end: int) -> int:
    """Return where an overlap of at most `end - earliest` begins: at a word in its first half, if any."""
    word = _WORD_START.search(text, earliest, (earliest + end) // 2 + 1)
    if word:
        return word.start()
    start = earliest
    while start < end and _continues_cluster(text, start):
        start += 1
    return start


class _TokenMeter:
    """Measures spans in encoder tokens, without special tokens."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, budget: int, max_tokens: int, fitting: Container[str]
    ) -> None:
        self._tokenizer = tokenizer
        self._fitting = fitting
        self.budget = budget
        self.max_tokens = max_tokens

    def starts(self, text: str, span: _Span) -> list[int]:
        """Return where each token of the span starts, as rising positions in `text`."""
        blocks = _walk(text, _Span(span.start, span.start, span.end), _block_end, find_prose_break, 0)
        encoded = self._encode([text[block.start : block.end] for block in blocks], offsets=True)
        return sorted(
            block.start + offset
            for block, offsets in zip(blocks, encoded["offset_mapping"], strict=True)
            for offset, _ in offsets
        )

    def fits(self, text: str, spans: list[_Span]) -> list[bool]:
        """Return for each span whether it is within the budget."""
        pieces = [text[start:end] for start, _, end in spans]
        answers = [piece in self._fitting for piece in pieces]
        unknown = [place for place, known in enumerate(answers) if not known]
        for at in range(0, len(unknown), _MEASURE_BATCH):
            places = unknown[at : at + _MEASURE_BATCH]
            encoded = self._encode([pieces[place] for place in places])["input_ids"]
            for place, ids in zip(places, encoded, strict=True):
                answers[place] = len(ids) <= self.budget
        return answers

    def _encode(self, texts: list[str], offsets: bool = False) -> dict[str, list[Any]]:
        encoded: dict[str, list[Any]] = self._tokenizer(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_offsets_mapping=offsets,
            verbose=False,
        )
        return encoded


def _block_end(start: int) -> int:
    return start + _BLOCK_CHARS


def _split_until_fit(
    text: str, spans: list[_Span], meter: _TokenMeter, find_break: BreakFinder, overlap_chars: int
) -> list[_Span]:
    """Split the spans that exceed the meter's budget until all fit.

    Each piece is measured again: a cut inside a word may change the tokens on both sides. The pieces get
    shorter every round, so it ends.
    """
    done: list[_Span] = []
    while spans:
        fits = meter.fits(text, spans)
        done += [span for span, fit in zip(spans, fits, strict=True) if fit]
        misfits = [span for span, fit in zip(spans, fits, strict=True) if not fit]
        spans = [
            piece for span in misfits for piece in _split_misfit(text, span, meter, find_break, overlap_chars)
        ]
    done.sort(key=lambda span: span.end)
    kept: list[_Span] = []
    for span in done:  # an overlap that reaches back over a short piece makes that piece redundant
        while kept and span.start <= kept[-1].start:
            kept.pop()
        kept.append(span)
    return kept


def _split_misfit(
    text: str, span: _Span, meter: _TokenMeter, find_break: BreakFinder, overlap_chars: int
) -> list[_Span]:
    """Cut one span that exceeds the budget between its tokens; every piece is shorter than the span."""
    if span.end - span.start == 1:
        raise E2LLMError(
            f"max_tokens={meter.max_tokens} is too small: the character {text[span.start]!r} at {span.start} "
            f"alone takes more than the {meter.budget} tokens left after special tokens; raise max_tokens"
        )
    starts = meter.starts(text, span)

    def reach(at: int) -> int:
        next_token = bisect_left(starts, at) + meter.budget
        stop = starts[next_token] if next_token < len(starts) else span.end
        return max(at + 1, min(stop, span.end - 1) if at == span.start else stop)

    return _walk(text, span, reach, find_break, overlap_chars, by_tokens=True)
