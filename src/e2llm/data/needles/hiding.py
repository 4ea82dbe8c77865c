"""Where needles go in a text, and random keys and values; shared by training and RULER's tasks."""

import random
import re
import uuid
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from e2llm.data.needles.wording import ADJECTIVES, NOUNS

_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s)|[。！？]")
_LINE_END = re.compile(r"(?=\n)")
_WORD_END = re.compile(r"(?=\s)")
_REACH_CHARS = 300  # how far from its depth a needle may go to be between two sentences


@dataclass(frozen=True, slots=True)
class Passage:
    """A context, and the spans `(start, end)` that its question asks for, in text order."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()

    def after(self, prefix: str) -> "Passage":
        """Return the passage with a text in front of it."""
        shift = len(prefix)
        return Passage(prefix + self.text, tuple((start + shift, end + shift) for start, end in self.spans))


def hide(hay: str, joint: str, needles: Sequence[str], depths: Sequence[float]) -> Passage:
    """Put needles into a text; the spans are all the needles', in the order of `needles`.

    Args:
        hay: The text.
        joint: What joins the parts of `hay`: with a space, needles go between sentences; with a line end, on
            lines of their own, before the last one, which may be cut.
        needles: Short sentences.
        depths: Where in `hay` each goes, from 0 (before it) to 1; the nearest possible place is taken.
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
    """Return the start, the end or the end of a sentence, a line or else a word, nearest to a depth."""
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


def draw_number(rng: random.Random, num_digits: int = 7) -> str:
    """Return a random number with this many digits."""
    return str(rng.randint(10 ** (num_digits - 1), 10**num_digits - 1))


def draw_words(rng: random.Random) -> str:
    """Return an adjective and a noun, joined by a hyphen."""
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def draw_uuid(rng: random.Random) -> str:
    """Return a random UUID of version 4."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))
