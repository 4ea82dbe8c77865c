"""Texts of any length to hide needles in."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle

from e2llm.errors import E2LLMError

NOISE = "The stones are gray. The leaves are red. The clouds are white. On we march. Round and home again."
_BLOCK_CHARS = 1_000_000


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
        raise E2LLMError("the haystacks are empty; give at least one text to hide needles in")
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
