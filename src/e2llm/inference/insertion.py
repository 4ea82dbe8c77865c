"""Hiding a sentence of one's own in a text, to see whether a question finds it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from e2llm.chunk_breaks import SENTENCE_END
from e2llm.errors import E2LLMError
from e2llm.inference.documents import Document


@dataclass(frozen=True)
class Insertion:
    """Documents with a sentence put into one of them.

    Attributes:
        documents: All of them.
        name: The document that holds it now.
        start: Its first character there.
    """

    documents: list[Document]
    name: str
    start: int


def insert_sentence(documents: Sequence[Document], sentence: str, depth: float = 0.5) -> Insertion:
    """Put a sentence behind the sentence end nearest to a depth.

    Args:
        documents: At least one with text.
        sentence: Any text.
        depth: 0 (before all text) to 1 (behind it), counted in characters over all documents.

    Raises:
        E2LLMError: If the sentence is empty, or the depth out of range.
    """
    if not sentence.strip():
        raise E2LLMError("the sentence to insert is empty")
    if not 0 <= depth <= 1:
        raise E2LLMError(f"the depth must be from 0 to 1, got {depth:g}")
    ends = list(accumulate(len(item.text) for item in documents))
    if not ends or not ends[-1]:
        raise E2LLMError("there is no text to insert a sentence into")
    wanted = round(depth * ends[-1])
    index = next(number for number, end in enumerate(ends) if wanted <= end and documents[number].text)
    text = documents[index].text
    within = wanted - (ends[index] - len(text))
    places = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    place = min(places, key=lambda item: abs(item - within))
    before = "" if place == 0 or text[place - 1].isspace() else " "
    after = "" if text[place : place + 1].isspace() or place == len(text) else " "
    new = f"{before}{sentence.strip()}{after}"
    result = list(documents)
    result[index] = replace(result[index], text=text[:place] + new + text[place:])
    return Insertion(result, documents[index].name, place + len(before))
