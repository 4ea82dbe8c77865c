r"""Show control characters of texts to people, as `\x1b`, instead of sending them to a terminal."""

import re

# C0 but tab and line break, DEL, C1, overrides of the writing direction, and lone surrogates.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return the text with `\x1b` and the like instead of characters that a terminal would execute."""
    text = text.replace("\r\n", "\n")
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
