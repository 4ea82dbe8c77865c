"""SQuAD v1.1 (Rajpurkar et al. 2016, arXiv 1606.05250): questions on Wikipedia articles."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from e2llm.data.data_set import Conversion, Records, data_set
from e2llm.records import Record

_JOINT = "\n\n"
_VALIDATION_FRACTION = 0.1


@dataclass
class _Question:
    id: str
    text: str
    answers: list[tuple[str, int | None]]  # text, and its offset in the paragraph if the file has it


@dataclass
class _Article:
    title: str
    paragraphs: dict[str, list[_Question]] = field(default_factory=dict)


@data_set(
    "squad",
    description="questions answered by a span of a Wikipedia paragraph, or of the whole article",
    licence="CC BY-SA 4.0",
    home="https://rajpurkar.github.io/SQuAD-explorer/",
    layout="one SQuAD v1.1 file (train-v1.1.json, dev-v1.1.json, or *v1.1*.jsonl with one question a line)",
    splits=("train", "validation", "all"),
)
def squad(run: Conversion, *, context: Literal["paragraph", "article"] = "paragraph") -> Records:
    """Yield one record per question; the split is by article, so that no article is in both parts.

    Args:
        run: The conversion.
        context: The question's `paragraph`, or its whole `article`.
    """
    path, *others = run.files("*v1.1*.json", "*v1.1*.jsonl")
    if others:
        names = ", ".join(item.name for item in (path, *others))
        raise run.error(f"several SQuAD files ({names}); name one of them")
    for article in _from_lines(run, path) if path.suffix == ".jsonl" else _official(run, path):
        if run.split not in ("all", split_of(article.title)):
            continue
        whole, offset = _JOINT.join(article.paragraphs), 0
        for paragraph, questions in article.paragraphs.items():
            text, shift = (whole, offset) if context == "article" else (paragraph, 0)
            offset += len(paragraph) + len(_JOINT)
            for question in questions:
                yield _record(run, article.title, question, text, paragraph, shift)


def split_of(title: str) -> str:
    """Return `"validation"` for about a tenth of all titles, else `"train"`; it never changes."""
    digest = hashlib.sha256(title.encode("utf-8")).digest()
    return "validation" if int.from_bytes(digest[:8]) / 2**64 < _VALIDATION_FRACTION else "train"


def _official(run: Conversion, path: Path) -> Iterator[_Article]:
    for entry in run.json(path)["data"]:
        article = _Article(entry["title"].replace("_", " "))
        for paragraph in entry["paragraphs"]:
            questions = article.paragraphs.setdefault(paragraph["context"], [])
            for row in paragraph["qas"]:
                answers = [(answer["text"], answer["answer_start"]) for answer in row["answers"]]
                questions.append(_Question(row["id"], row["question"], answers))
        yield article


def _from_lines(run: Conversion, path: Path) -> Iterator[_Article]:
    articles: dict[str, _Article] = {}
    for _, row in run.lines(path):
        article = articles.setdefault(row["title"], _Article(row["title"]))
        answers = [(text, None) for text in row["answers"]]
        question = _Question(row["id"], row["question"], answers)
        article.paragraphs.setdefault(row["context"], []).append(question)
    yield from articles.values()


def _record(
    run: Conversion, title: str, question: _Question, context: str, paragraph: str, shift: int
) -> Record | None:
    text, start = question.answers[0] if question.answers else ("", 0)
    if start is None or paragraph[start : start + len(text)] != text:
        start = _locate(paragraph, text, question.text)
    return run.question(
        context,
        question.text.strip(),
        (answer for answer, _ in question.answers),
        evidence=() if start is None else ((shift + start, shift + start + len(text)),),
        id=f"{title}:{question.id}",
    )


def _locate(paragraph: str, answer: str, question: str) -> int | None:
    """Return where a paragraph has the answer, preferring the place with most of the question's words."""
    words = set(re.findall(r"\w{3,}", question.lower()))

    def num_shared(start: int) -> int:
        nearby = paragraph[max(0, start - 100) : start + len(answer) + 100].lower()
        return len(words.intersection(re.findall(r"\w{3,}", nearby)))

    starts = [match.start() for match in re.finditer(re.escape(answer), paragraph)]
    return max(starts, key=num_shared, default=None)
