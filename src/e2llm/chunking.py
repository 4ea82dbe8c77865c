"""Splits a document into chunks that the encoder can read.

The rule is the paper's (arXiv 2409.06679, the chunker): take a span of at most
`chunk_size_chars` characters, step back inside it to the last natural break, cut there, and start the next
span at the cut. Which breaks are natural, how far a step back may go, code, overlap and the limit in tokens
are chosen here.

A *break finder* gets `(text, start, floor, stop)` and returns where the chunk that began at `start` ends: a
position in `[floor, stop]`, with `start < floor <= stop < len(text)`. Adding a kind of text is one such
function and one line in `CHUNKERS`.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from e2llm.errors import E2LLMError
from e2llm.surrogates import reject_lone_surrogates

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BreakFinder = Callable[[str, int, int, int], int]
Reach = Callable[[int], int]

DEFAULT_CHUNK_SIZE_CHARS = 512  # the paper's

# How much of a span a step back must leave, as a divisor: a sentence end or a line end may leave a quarter of
# the span, a clause or a space half of it. Without a minimum, one early break would make crumbs of the text.
_STRONG_DIVISOR = 4
_WEAK_DIVISOR = 2

_MEASURE_BATCH = 1024  # chunks per tokenizer call: bounds the memory that offsets take
_BLOCK_CHARS = 1 << 16  # a whole text is tokenized in blocks of this many characters

_CLOSERS = "\"'”’»›)\\]}）」』】》〉］｝"
# Scripts without spaces end a sentence by the mark alone; "." also stands in numbers and names, so that it
# counts only before white space.
_LINE_ENDS = r"\n\v\f\x85\u2028\u2029"
_SPACED_ENDS, _BARE_ENDS = ".!?…؟۔։።", "。！？｡．।॥။"
_SPACED_CLAUSES, _BARE_CLAUSES = ",;:—–،؛", "，；：、､·"
_SPACED_TAIL, _BARE_TAIL = r"(?:[ \t\u00a0]+|(?=\s))", r"[ \t\u3000]*"

# `.*` runs to the end of the window and steps back in C: the first match is the last break. One set of all
# marks goes before the alternatives because that halves the time.
_LAST_STRONG = re.compile(
    rf"(?s:.*)[{_LINE_ENDS}\r{_SPACED_ENDS}{_BARE_ENDS}]"
    rf"(?:(?<=[{_SPACED_ENDS}])[{_CLOSERS}]*{_SPACED_TAIL}|(?<=[{_BARE_ENDS}])[{_CLOSERS}]*{_BARE_TAIL}"
    rf"|(?<=[{_LINE_ENDS}])|(?<=\r)(?!\n))"
)
_LAST_CLAUSE = re.compile(
    rf"(?s:.*)[{_SPACED_CLAUSES}{_BARE_CLAUSES}]"
    rf"(?:(?<=[{_SPACED_CLAUSES}]){_SPACED_TAIL}|(?<=[{_BARE_CLAUSES}]){_BARE_TAIL})"
)
_LAST_SPACE = re.compile(r"(?s:.*)\s")
_LAST_BLANK_LINE = re.compile(r"(?s:.*)\n[ \t]*\r?\n")
_LAST_LINE = re.compile(r"(?s:.*)\n")

_INDENT = r"[ \t]{0,4}"
_MODIFIERS = (
    r"export|default|async|public|private|protected|internal|static|final|abstract|sealed|partial|override|"
    r"virtual|inline|extern|unsafe|const|pub(?:\([a-z]{1,9}\))?"
)
_ATTACHED = rf"{_INDENT}(?:@|#|//|/\*|\*)"  # a decorator, an attribute or a comment line
# Such lines directly above a definition go with it; the bounds on them keep the search linear in the text.
_DEFINITION = re.compile(
    rf"\n(?=(?:{_ATTACHED}[^\n]{{0,200}}\n){{0,16}}{_INDENT}"
    rf"(?:(?:{_MODIFIERS}) +){{0,5}}"
    r"(?:(?:def|class|func|fn|function|fun|interface|struct|enum|trait|impl|module|namespace)\b"
    r"|(?:public|private|protected)\b))"
)
_ATTACHED_LINE = re.compile(rf"{_ATTACHED}[^\n]*\n")
_DEFINITION_LOOKAHEAD_CHARS = 512

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


def find_prose_break(text: str, start: int, floor: int, stop: int) -> int:
    """Finds the last natural break of running text, as the paper's chunker does.

    In this order: the last line end (so also paragraph break) or sentence end that leaves at least a quarter
    of the span; the last clause end, then the last white space, that leaves at least half; `stop` itself.
    White space stays at the end of the chunk that it closes.

    Args:
        text: The whole document.
        start: Where the chunk begins.
        floor: The smallest position that may be returned.
        stop: The largest position that may be returned.

    Returns:
        The end of the chunk, in `[floor, stop]`.
    """
    size = stop - start
    strong = max(floor, start + size // _STRONG_DIVISOR) - 1
    weak = max(floor, start + size // _WEAK_DIVISOR) - 1
    # One character more than the span holds, so that a sentence or word ending at its very edge is seen.
    found = (
        _LAST_STRONG.match(text, strong, stop + 1)
        or _LAST_CLAUSE.match(text, weak, stop + 1)
        or _LAST_SPACE.match(text, weak, stop + 1)
    )
    return min(found.end(), stop) if found else stop


def find_code_break(text: str, start: int, floor: int, stop: int) -> int:
    """Finds the break of program text that keeps definitions whole where it can.

    In this order, each leaving at least a quarter of the span: before the last definition indented by at
    most four characters (its decorators and comment lines stay with it), after the last blank line, at the
    last line end; then as `find_prose_break`. Chosen here; the paper has no rule for code. The arguments
    and the result are those of `find_prose_break`.
    """
    low = max(floor, start + (stop - start) // _STRONG_DIVISOR)
    before_definition = _last_definition(text, start, low, stop)
    if before_definition is not None:
        return before_definition
    found = _LAST_BLANK_LINE.match(text, max(low - 2, 0), stop) or _LAST_LINE.match(text, low - 1, stop)
    return found.end() if found else find_prose_break(text, start, floor, stop)


def _last_definition(text: str, start: int, low: int, stop: int) -> int | None:
    """Returns where the last definition with its decorators begins, in `[low, stop]`; None without one."""
    last = None
    covered = _skip_attached_lines(text, start, stop)
    for match in _DEFINITION.finditer(text, start, stop + _DEFINITION_LOOKAHEAD_CHARS):
        place = match.end()
        if place > stop:
            break
        if place <= covered:  # a further decorator, or the definition under one
            continue
        covered = _skip_attached_lines(text, place, stop)
        if place >= low:
            last = place
    return last


def _skip_attached_lines(text: str, position: int, stop: int) -> int:
    """Returns the position after the decorator and comment lines that begin at `position` and end by `stop`.

    A line that goes on beyond `stop` holds no place to cut, and is not read to its end: it may be the text.
    """
    while position < stop and (line := _ATTACHED_LINE.match(text, position, stop)):
        position = line.end()
    return position


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
) -> list[Chunk]:
    """Splits a text into chunks that cover it completely, in order.

    At `overlap_chars=0` the chunk texts joined give the text back. The rule for
    prose is the paper's chunker, and the overlap its optional variant; the rest is chosen here. An overlap
    begins at a word if one starts in its first half, so that it repeats no half word.

    Args:
        text: Any string; an empty one gives no chunks.
        chunk_size_chars: Most characters in a chunk, 1 or more; `tokens` does not use it (and warns if set).
        overlap_chars: How many characters before the end of one chunk the next one starts, at most; 0 or
            more and below `chunk_size_chars`. Where tokens set a chunk's size, also at most half that chunk.
        kind: `prose`, `code` or `tokens`: a key of `CHUNKERS`.
        tokenizer: The encoder's tokenizer, a fast one. Every chunk then fits `max_tokens`; one that does not
            is split again.
        max_tokens: Most encoder tokens in a chunk, special tokens included. Text that looks like a special
            token counts as text (`split_special_tokens=True`).

    Returns:
        The chunks; each one ends after the one before it.

    Raises:
        E2LLMError: If an argument is outside its range, or one character alone exceeds `max_tokens`.
    """
    _check_arguments(text, chunk_size_chars, overlap_chars, kind)
    meter = _make_meter(text, kind, tokenizer, max_tokens)
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
    if kind not in CHUNKERS:
        raise E2LLMError(f"kind={kind!r} is unknown; choose one of: {', '.join(CHUNKERS)}")
    if type(chunk_size_chars) is not int or chunk_size_chars < 1:
        raise E2LLMError(f"chunk_size_chars={chunk_size_chars!r}; give a whole number, 1 or more")
    if type(overlap_chars) is not int or overlap_chars < 0:
        raise E2LLMError(f"overlap_chars={overlap_chars!r}; give a whole number, 0 or more")
    if kind == "tokens":
        if chunk_size_chars != DEFAULT_CHUNK_SIZE_CHARS:
            warnings.warn(
                f"chunk_size_chars={chunk_size_chars} is not used by kind='tokens': max_tokens sets the size",
                stacklevel=3,
            )
    elif overlap_chars >= chunk_size_chars:
        raise E2LLMError(
            f"overlap_chars={overlap_chars} must be below chunk_size_chars={chunk_size_chars}; "
            "lower the overlap or raise the chunk size"
        )


def _make_meter(
    text: str, kind: str, tokenizer: PreTrainedTokenizerFast | None, max_tokens: int | None
) -> _TokenMeter | None:
    """Checks the two arguments that come together and returns the meter they make, or None."""
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
            f"max_tokens={max_tokens!r}; give a whole number above {num_special} (special tokens)"
        )
    reject_lone_surrogates(text)
    return _TokenMeter(tokenizer, max_tokens - num_special, max_tokens)


def _walk(
    text: str, span: _Span, reach: Reach, find_break: BreakFinder, overlap_chars: int, by_tokens: bool = False
) -> list[_Span]:
    """Cuts a span into spans that each end within `reach(start)`; their ends strictly rise to `span.end`."""
    start, fresh, last = span
    spans = []
    while True:
        stop = reach(start)
        if stop <= fresh and start < fresh:  # nothing new would fit behind the overlap: go without it
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
    """Returns `position`, or the place before the character cluster that a cut there would tear apart.

    Clusters are approximate: combining marks, variation selectors, joined emoji, skin tones, flags and CRLF.
    One that is longer than 32 characters, or that begins before `floor`, is cut all the same.
    """
    at = position
    lowest = max(floor, position - _MAX_CLUSTER_CHARS)
    while _continues_cluster(text, at):
        at -= 1
        if at < lowest:
            return position
    return at


def _continues_cluster(text: str, position: int) -> bool:
    """Whether the character at `position` belongs to the one before it."""
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
    """Returns where an overlap of at most `end - earliest` begins: at a word in its first half, if one is."""
    word = _WORD_START.search(text, earliest, (earliest + end) // 2 + 1)
    if word:
        return word.start()
    start = earliest
    while start < end and _continues_cluster(text, start):
        start += 1
    return start


class _TokenMeter:
    """Measures spans in encoder tokens, special tokens left out."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, budget: int, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self.budget = budget
        self.max_tokens = max_tokens

    def starts(self, text: str, span: _Span) -> list[int]:
        """Returns where each token of the span starts, as positions in `text`, in rising order."""
        blocks = _walk(text, _Span(span.start, span.start, span.end), _block_end, find_prose_break, 0)
        encoded = self._encode([text[block.start : block.end] for block in blocks], offsets=True)
        return sorted(
            block.start + offset
            for block, offsets in zip(blocks, encoded["offset_mapping"], strict=True)
            for offset, _ in offsets
        )

    def fits(self, text: str, spans: list[_Span]) -> list[bool]:
        """Says for each span whether it is within the budget."""
        answers: list[bool] = []
        for at in range(0, len(spans), _MEASURE_BATCH):
            batch = [text[start:end] for start, _, end in spans[at : at + _MEASURE_BATCH]]
            answers += [len(ids) <= self.budget for ids in self._encode(batch)["input_ids"]]
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
    """Splits the spans that exceed the meter's budget until all fit.

    A piece is measured again on its own: a cut inside a word may change the tokens on both sides. Every
    round makes the pieces shorter, so it ends.
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
    """Cuts one span that exceeds the budget where its tokens say; every piece is shorter than the span."""
    if span.end - span.start == 1:
        raise E2LLMError(
            f"max_tokens={meter.max_tokens} is too small: the character {text[span.start]!r} at {span.start} "
            f"alone needs more than the {meter.budget} tokens left beside special tokens; raise max_tokens"
        )
    starts = meter.starts(text, span)

    def reach(at: int) -> int:
        next_token = bisect_left(starts, at) + meter.budget
        stop = starts[next_token] if next_token < len(starts) else span.end
        return max(at + 1, min(stop, span.end - 1) if at == span.start else stop)

    return _walk(text, span, reach, find_break, overlap_chars, by_tokens=True)
