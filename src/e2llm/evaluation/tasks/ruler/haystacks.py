"""Texts of any length to hide needles in, and the places where the needles go."""

import random
import re
import uuid
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from e2llm.data.needle_wording import ADJECTIVES, NOUNS
from e2llm.errors import E2LLMError

NOISE = "The stones are gray. The leaves are red. The clouds are white. On we march. Round and home again."
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s)|[。！？]")
_LINE_END = re.compile(r"(?=\n)")
_WORD_END = re.compile(r"(?=\s)")
_REACH_CHARS = 300  # how far from its depth a needle may go to be between two sentences
_BLOCK_CHARS = 1_000_000


@dataclass(frozen=True, slots=True)
class Passage:
    """A context, and the spans `(start, end)` that its question is about, in text order."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()

    def after(self, prefix: str) -> "Passage":
        """Return the passage with a text in front of it."""
        shift = len(prefix)
        return Passage(prefix + self.text, tuple((start + shift, end + shift) for start, end in self.spans))


class Haystack:
    """A text that grows as far as it is read.

    Args:
        pieces: Its parts; at least as many as the longest cut needs.
        joint: Text between two parts: a space, or a line end where every part is a line.
    """

    def __init__(self, pieces: Iterable[str], joint: str) -> None:
        self.joint = joint
        self._pieces = iter(pieces)
        self._text = ""

    def cut(self, num_chars: int) -> str:
        """Return the first whole words, at most `num_chars` characters."""
        parts, missing = [self._text] if self._text else [], num_chars + 1 - len(self._text)
        while missing > 0:
            parts.append(next(self._pieces))
            missing -= len(parts[-1]) + len(self.joint)
        self._text = self.joint.join(parts)
        return cut_words(self._text, num_chars)


def cut_words(text: str, num_chars: int) -> str:
    """Return the first whole words of a text, at most `num_chars` characters; a longer first word is cut.

    A hyphen ends a word too, so that a UUID of many tokens may be cut.
    """
    if len(text) <= num_chars:
        return text
    end = max(text.rfind(mark, 0, num_chars + 1) for mark in " \n-")
    return text[: end if end > 0 else num_chars].rstrip()


def essay(haystacks: Sequence[str]) -> Haystack:
    """Return the given texts one after another, over and over; see `passages`."""
    return Haystack(passages(haystacks, _BLOCK_CHARS), " ")


def passages(haystacks: Sequence[str], num_chars: int) -> Iterator[str]:
    """Yield passages of whole words with single spaces, about `num_chars` characters each, without end."""
    if not any(text.strip() for text in haystacks):
        raise E2LLMError("no haystack holds text; give at least one text to hide needles in")
    for text in cycle(haystacks):
        start = 0
        while start < len(text):
            space = text.find(" ", start + num_chars)
            end = space if space >= 0 else len(text)
            if block := " ".join(text[start:end].split()):
                yield block
            start = end


def noise() -> Haystack:
    """Return five dull sentences per line, over and over."""
    return Haystack(cycle([NOISE]), "\n")


def hide(hay: str, joint: str, needles: Sequence[str], depths: Sequence[float]) -> Passage:
    """Put needles into a text; returns the spans of all needles, in the order of `needles`.

    Args:
        hay: The text.
        joint: Joint of its `Haystack`: with a space, needles go between sentences; with a line end, on
            separate lines, ahead of the last one, which may have been cut.
        needles: Short sentences.
        depths: Depth of each in `hay`, from 0 (before it) to 1; the nearest place for it is taken.
    """
    places = [_nearest_place(hay, joint, depth) for depth in depths]
    parts: list[str] = []
    spans = [(0, 0)] * len(needles)
    length = done = 0

    def add(part: str) -> None:
        nonlocal length
        if not part:
            return
        if parts and not parts[-1][-1].isspace() and not part[0].isspace():
            parts.append(joint)
            length += len(joint)
        parts.append(part)
        length += len(part)

    for number in sorted(range(len(needles)), key=lambda number: (places[number], depths[number])):
        add(hay[done : places[number]])
        add(needles[number])
        spans[number] = (length - len(needles[number]), length)
        done = places[number]
    add(hay[done:])
    return Passage("".join(parts), tuple(spans))


def _nearest_place(hay: str, joint: str, depth: float) -> int:
    """Return the end of a sentence or line, else of a word, that is nearest to a depth."""
    goal = round(depth * len(hay))
    first, last = max(0, goal - _REACH_CHARS), min(len(hay), goal + _REACH_CHARS)
    places = [0] if first == 0 else []
    for pattern in (_SENTENCE_END if joint == " " else _LINE_END, _WORD_END):
        places += [match.end() for match in pattern.finditer(hay, first, min(len(hay), last + 1))]
        if joint == " " and last == len(hay):
            places.append(len(hay))
        if places:
            at = bisect_left(places, goal)
            return min(places[max(0, at - 1) : at + 1], key=lambda place: abs(place - goal))
    return goal


def draw_number(rng: random.Random) -> str:
    """Draw a number of seven digits."""
    return str(rng.randint(1_000_000, 9_999_999))


def draw_words(rng: random.Random) -> str:
    """Draw an adjective and a noun, joined by a hyphen."""
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def draw_uuid(rng: random.Random) -> str:
    """Draw a UUID of version 4."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
