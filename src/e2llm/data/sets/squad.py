"""SQuAD v1.1 (Rajpurkar et al. 2016, arXiv 1606.05250): questions on Wikipedia articles."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from e2llm.data.data_set import Conversion, Records, data_set
from e2llm.records import Record

_JOINT = "\n\n"
_VALIDATION_FRACTION = 0.1


_Question = tuple[str, str, list[tuple[str, int | None]]]  # id, question, answers with their offsets if known


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
        raise run.error(f"found several SQuAD files ({names}); give one of them")
    articles: dict[str, dict[str, list[_Question]]] = {}
    for title, paragraph, questions in _paragraphs(run, path):
        articles.setdefault(title, {}).setdefault(paragraph, []).extend(questions)
    for title, paragraphs in articles.items():
        if run.split not in ("all", split_of(title)):
            continue
        whole, offset = _JOINT.join(paragraphs), 0
        for paragraph, questions in paragraphs.items():
            text, shift = (whole, offset) if context == "article" else (paragraph, 0)
            offset += len(paragraph) + len(_JOINT)
            for question in questions:
                yield _record(run, title, question, text, paragraph, shift)


def split_of(title: str) -> str:
    """Return `"validation"` for about a tenth of all titles, else `"train"`; it never changes."""
    digest = hashlib.sha256(title.encode("utf-8")).digest()
    return "validation" if int.from_bytes(digest[:8]) / 2**64 < _VALIDATION_FRACTION else "train"


def _paragraphs(run: Conversion, path: Path) -> Iterator[tuple[str, str, list[_Question]]]:
    """Yield title, paragraph and questions; those of an article, or of a paragraph, may come in parts."""
    if path.suffix == ".jsonl":
        for _, row in run.lines(path):
            answers: list[tuple[str, int | None]] = [(text, None) for text in row["answers"]]
            yield row["title"], row["context"], [(row["id"], row["question"], answers)]
        return
    for entry in run.json(path)["data"]:
        for paragraph in entry["paragraphs"]:
            questions: list[_Question] = [
                (
                    row["id"],
                    row["question"],
                    [(item["text"], item["answer_start"]) for item in row["answers"]],
                )
                for row in paragraph["qas"]
            ]
            yield entry["title"].replace("_", " "), paragraph["context"], questions


def _record(
    run: Conversion, title: str, question: _Question, context: str, paragraph: str, shift: int
) -> Record | None:
    name, asked, answers = question
    text, start = answers[0] if answers else ("", 0)
    if start is None or paragraph[start : start + len(text)] != text:
        start = _locate(paragraph, text, asked)
    return run.question(
        context,
        asked.strip(),
        (answer for answer, _ in answers),
        evidence=() if start is None else ((shift + start, shift + start + len(text)),),
        id=f"{title}:{name}",
    )


def _locate(paragraph: str, answer: str, question: str) -> int | None:
    """Return where a paragraph has the answer, preferring the place with most of the question's words."""
    words = set(re.findall(r"\w{3,}", question.lower()))

    def num_shared(start: int) -> int:
        nearby = paragraph[max(0, start - 100) : start + len(answer) + 100].lower()
        return len(words.intersection(re.findall(r"\w{3,}", nearby)))

    starts = [match.start() for match in re.finditer(re.escape(answer), paragraph)]
    return max(starts, key=num_shared, default=None)
