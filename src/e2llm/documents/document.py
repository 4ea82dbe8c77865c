"""A document: a text with a name, and the place in its source that each part of it comes from."""

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import itemgetter
from textwrap import shorten

Places = tuple[tuple[int, str], ...]  # first character and place, sorted
Part = tuple[str, str]  # place and text; the texts follow each other without anything between them
_MAX_TITLE_CHARS = 80
_NUMBERED = re.compile(r"(.*, |)(cell|chapter|comment|endnote|footnote|line|message|page|row|slide) ([\d,]+)")
_TIME = re.compile(r"\d\d:\d\d:\d\d")


@dataclass(frozen=True, slots=True)
class Document:
    """A text with the name under which its chunks are listed.

    Attributes:
        name: Such as a path.
        text: The text.
        kind: How it is split, `prose` or `code`; None for the processor's own way.
        heading: Text put before each chunk where it is read or given raw, such as the path of a source file;
            not part of the chunk's span.
        places: First character and place, such as `page 12`, of each part of the text, in order. Text without
            a place is known by its line.
    """

    name: str
    text: str
    kind: str | None = None
    heading: str = ""
    places: Places = ()

    def place_at(self, offset: int) -> str:
        """Return the place of a character in the source, such as `page 12` or `line 40`."""
        index = bisect_right(self.places, offset, key=itemgetter(0)) - 1
        if index >= 0 and (place := self.places[index][1]):
            return place
        line = self.text.count("\n", 0, offset) + 1
        return f"line {line:,}"

    def place_of(self, start: int, end: int) -> str:
        """Return the place of the characters `[start, end)` without space around, such as `pages 3-4`."""
        text = self.text[start:end]
        last = start + max(1, len(text.rstrip())) - 1
        start = min(last, start + len(text) - len(text.lstrip()))
        first_place, last_place = self.place_at(start), self.place_at(last)
        if first_place == last_place:
            return first_place
        first, final = _NUMBERED.fullmatch(first_place), _NUMBERED.fullmatch(last_place)
        if first and final and first.groups()[:2] == final.groups()[:2]:
            return f"{first[1]}{first[2]}s {first[3]}-{final[3]}"
        between = "-" if _TIME.fullmatch(first_place) and _TIME.fullmatch(last_place) else " to "
        return f"{first_place}{between}{last_place}"

    def edited(self, start: int, end: int, text: str) -> "Document":
        """Return the document with the characters `[start, end)` replaced; places move with their text."""
        new_text = self.text[:start] + text + self.text[end:]
        places: dict[int, str] = {}
        for first, place in self.places:
            moved = first if first <= start else max(first, end) - end + start + len(text)
            if moved < len(new_text):
                places[moved] = place  # of places without text left, the last one remains
        return replace(self, text=new_text, places=tuple(places.items()))


def named_apart(documents: Iterable[Document], taken: Iterable[str] = ()) -> list[Document]:
    """Return the documents with a number after each name that is taken or that an earlier one has.

    Such as `notes.txt (2)`.
    """
    seen = set(taken)
    named = []
    for document in documents:
        name, number = document.name, 1
        while name in seen:
            number += 1
            name = f"{document.name} ({number})"
        seen.add(name)
        named.append(document if number == 1 else replace(document, name=name))
    return named


def section(title: str) -> str:
    """Return the place of the text below a heading; a long heading is cut."""
    return f"section {shorten(title, _MAX_TITLE_CHARS, placeholder='...')}"


def join_parts(parts: Iterable[Part]) -> tuple[str, Places]:
    """Return the text of parts, and the first character of each place.

    Line ends become `\\n`, and NUL and lone surrogates `?`.
    """
    texts: list[str] = []
    places: list[tuple[int, str]] = []
    length = 0
    for place, text in parts:
        if not text:
            continue
        text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "?")
        if place != (places[-1][1] if places else ""):
            places.append((length, place))
        texts.append(text)
        length += len(text)
    return "".join(texts).encode("utf-8", "replace").decode(), tuple(places)
