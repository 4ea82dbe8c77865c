"""Operations on the texts of the records: normal spacing, windows around a span, pieces of long texts."""

import random
import re
from dataclasses import dataclass

from e2llm.chunk_breaks import SENTENCE_END

MAX_ANSWER_WORDS = 60
_SNAP_CHARS = 400
_WRAPPED = (45, 90)  # usual width of a wrapped line in characters
_BREAK = re.compile(r"\n\s*")


def one_line(text: str) -> str:
    """Return the text with one space instead of every run of white space."""
    return " ".join(text.split())


def ask(text: str) -> str:
    """Return a question that begins with a capital and ends with a mark, a question mark if it had none."""
    text = re.sub(r"[\s?]+\?$", "?", one_line(text)).rstrip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith(("?", ".", "!", ":")) else f"{text}?"


def is_short(answer: str) -> bool:
    """Whether an answer has at most `MAX_ANSWER_WORDS` words."""
    return len(answer.split()) <= MAX_ANSWER_WORDS


def detokenize(text: str, *, joins_hyphens: bool = False) -> str:
    """Return the text without the spaces that a tokenizer put around punctuation.

    Args:
        text: Text such as `the World 's end ( 1963 ) .`.
        joins_hyphens: Whether ` - ` between words is a hyphen.
    """
    text = re.sub(r"`` ?", '"', text)
    text = re.sub(r" ?''(?!\w)", '"', text)
    text = re.sub(r" (n't|'(?:s|re|ve|ll|d|m)?\b)", r"\1", text)
    text = re.sub(r" ([.,;:!?%)\]}])", r"\1", text)
    text = re.sub(r"([(\[{$£€]) ", r"\1", text)
    return re.sub(r"(?<=\w) - (?=\w)", "-", text) if joins_hyphens else text


def find_detokenized(original: str, detokenized: str, answer: str, start: int) -> tuple[int, int] | None:
    """Return the span in the detokenized text of an answer that began at `start` in the original.

    Args:
        original: The text before `detokenize`.
        detokenized: The same after it.
        answer: The detokenized answer.
        start: The answer's offset in the original, which tells which of several places is meant.
    """
    places = [match.start() for match in re.finditer(re.escape(answer), detokenized)] if answer else []
    if not places:
        return None
    expected = start * len(detokenized) / max(1, len(original))
    place = min(places, key=lambda place: abs(place - expected))
    return place, place + len(answer)


def unwrap(text: str) -> str:
    """Return the text with a space instead of each line end within a paragraph of wrapped lines.

    The length stays the same, so that offsets stay right. Verse and lists, whose lines are short, are kept.
    """
    paragraphs = text.split("\n\n")
    for place, paragraph in enumerate(paragraphs):
        lines = paragraph.split("\n")
        widths = sorted(len(line) for line in lines[:-1])
        if widths and _WRAPPED[0] <= widths[len(widths) // 2] <= _WRAPPED[1]:
            paragraphs[place] = paragraph.replace("\n", " ")
    return "\n\n".join(paragraphs)


@dataclass(frozen=True)
class Window:
    """A stretch of a text that begins and ends at natural breaks, with spans relative to it."""

    text: str
    spans: tuple[tuple[int, int], ...]


def window(
    text: str,
    spans: tuple[tuple[int, int], ...],
    rng: random.Random,
    shortest: int = 1500,
    longest: int = 4000,
) -> Window:
    """Return a stretch of `shortest` to `longest` characters around the first span, at a random offset.

    Spans outside the stretch are dropped. The stretch is longer where the first span is.

    Args:
        text: The whole text.
        spans: Where the answer is; without any, the stretch is anywhere.
        rng: Source of the length and the offset.
        shortest: Least length in characters, before it is cut at natural breaks.
        longest: Greatest length in characters.
    """
    length = rng.randint(shortest, longest)
    if spans:
        first, last = spans[0]
    else:
        first = last = rng.randrange(max(1, len(text) - length)) + length // 2
        first = last = min(first, len(text))
    room = max(0, length - (last - first))
    before = rng.randint(0, room) if spans else room // 2
    start = start_of_sentence(text, max(0, first - before), first)
    end = end_of_sentence(text, last, min(len(text), last + room - before))
    inside = tuple((a - start, b - start) for a, b in spans if start <= a and b <= end)
    return Window(text[start:end], inside)


def start_of_sentence(text: str, start: int, latest: int) -> int:
    """Return the first beginning of a paragraph or sentence from `start` to `latest`, else `start`."""
    if start == 0:
        return 0
    stop = min(latest, start + _SNAP_CHARS)
    for pattern in (_BREAK, SENTENCE_END):
        match = pattern.search(text, start, stop + 1)
        if match and match.end() <= stop:
            place = match.end()
            while place < latest and text[place].isspace():
                place += 1
            return place
    space = text.find(" ", start, stop)
    return space + 1 if space >= 0 else start


def end_of_sentence(text: str, earliest: int, end: int) -> int:
    """Return the last end of a paragraph or sentence from `earliest` to `end`, else the last space."""
    if end >= len(text):
        return len(text)
    begin = max(earliest, end - _SNAP_CHARS)
    paragraph = text.rfind("\n", begin, end)
    if paragraph > earliest:
        return paragraph
    sentences = [match.end() for match in SENTENCE_END.finditer(text, begin, end)]
    if sentences:
        return sentences[-1]
    space = text.rfind(" ", begin, end)
    return space if space > earliest else max(earliest, end)


def pieces(text: str, count: int, rng: random.Random, shortest: int, longest: int) -> list[str]:
    """Return up to `count` pieces of a long text that do not overlap, spread evenly over it.

    The first and the last fiftieth of the text, where titles and licences are, are left out of long texts.
    """
    margin = len(text) // 50 if len(text) > 100_000 else 0
    low, high = margin, len(text) - margin
    if high - low <= longest:
        return [text.strip()] if text.strip() else []
    slot = (high - low) // max(1, min(count, (high - low) // longest))
    found = []
    for number in range(min(count, (high - low) // longest)):
        length = rng.randint(shortest, longest)
        begin = low + number * slot + rng.randint(0, slot - length)
        begin = start_of_sentence(text, begin, begin + length // 2)
        end = end_of_sentence(text, begin + length // 2, min(begin + length, high))
        piece = text[begin:end].strip()
        if piece:
            found.append(piece)
    return found
