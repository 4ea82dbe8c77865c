"""Inserting a sentence into documents, to test whether a model finds it."""

from collections.abc import Sequence
from typing import NamedTuple

from e2llm.chunk_breaks import SENTENCE_END
from e2llm.documents.document import Document
from e2llm.errors import E2LLMError


class Insertion(NamedTuple):
    """Documents with a sentence put into one of them: its name, and the sentence's first character there."""

    documents: list[Document]
    name: str
    start: int


def insert_sentence(documents: Sequence[Document], sentence: str, depth: float = 0.5) -> Insertion:
    """Put a sentence between two sentences near a depth.

    Args:
        documents: At least one with text.
        sentence: Any text.
        depth: 0 (before all text) to 1 (after it), counted in characters over all documents.

    Raises:
        E2LLMError: If the sentence is empty, or there is no text.
    """
    total = sum(len(item.text) for item in documents)
    if not sentence.strip() or not total:
        raise E2LLMError("the sentence to insert is empty, or there is no text to insert it into")
    index, at = 0, round(depth * total)
    while at > len(documents[index].text):
        at -= len(documents[index].text)
        index += 1
    document = documents[index]
    ends = [0, *(match.end() for match in SENTENCE_END.finditer(document.text)), len(document.text)]
    place = min(ends, key=lambda item: abs(item - at))
    before = document.text[place - 1 : place]
    after = document.text[place : place + 1]
    space = " " if before and not before.isspace() else ""
    inserted = space + sentence.strip() + ("" if not after or after.isspace() else " ")
    new = document.edited(place, place, inserted)
    return Insertion([*documents[:index], new, *documents[index + 1 :]], document.name, place + len(space))
