"""Texts for people: control characters that are shown, and numbers with their nouns."""

import re

# C0 but tab and line break, DEL, C1, overrides of the writing direction, and lone surrogates.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return the text with `\x1b` and the like instead of characters that a terminal would execute."""
    text = text.replace("\r\n", "\n")
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 chunk`, `1,234 chunks` or `2 copies`."""
    if number != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun}"
