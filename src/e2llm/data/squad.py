"""SQuAD v1.1 (Rajpurkar et al. 2016, arXiv 1606.05250): questions on Wikipedia articles."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from e2llm.data.converter import Converter
from e2llm.data.document_split import split_of
from e2llm.data.source_files import check_keys, read_json, read_json_lines
from e2llm.errors import E2LLMError
from e2llm.records import Record

_JOINT = "\n\n"
_CONTEXTS = ("paragraph", "article")


@dataclass
class _Question:
    id: str
    text: str
    answers: list[tuple[str, int | None]]  # text and, where the file tells, its offset in the paragraph


@dataclass
class _Article:
    title: str
    paragraphs: dict[str, list[_Question]] = field(default_factory=dict)


@dataclass
class SquadConverter(Converter):
    """One record per question; the split is by article, so no article is in both parts.

    Attributes:
        context: What to read: the question's own `paragraph`, or its whole `article`.
    """

    name = "squad"
    description = "questions answered by a span of a Wikipedia paragraph, or of the whole article"
    licence = "CC BY-SA 4.0"
    home = "https://rajpurkar.github.io/SQuAD-explorer/"
    layout = "one SQuAD v1.1 file (train-v1.1.json, dev-v1.1.json, or *v1.1*.jsonl with one question a line)"
    splits = ("train", "validation", "all")

    context: Literal["paragraph", "article"] = "paragraph"

    def __post_init__(self) -> None:
        """Check the options; raises `E2LLMError`."""
        if self.context not in _CONTEXTS:
            raise E2LLMError(f"context={self.context!r} is unknown; choose from: {', '.join(_CONTEXTS)}")

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        path = self._file(source)
        articles = self._read_rows(path) if path.suffix == ".jsonl" else self._read_official(path)
        for article in articles:
            if split in ("all", split_of(article.title)):
                yield from self._article(article)

    def _file(self, source: Path) -> Path:
        if source.is_file():
            return source
        files = sorted(path for path in source.glob("*v1.1*") if path.suffix in (".json", ".jsonl"))
        if not files:
            raise self._missing_error(source / "*v1.1*.json")
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            raise self._layout_error(source, f"several SQuAD files ({names}), name one of them")
        return files[0]

    def _article(self, article: _Article) -> Iterator[Record]:
        whole = _JOINT.join(article.paragraphs)
        offset = 0
        for paragraph, questions in article.paragraphs.items():
            start_of_paragraph = offset if self.context == "article" else 0
            context = whole if self.context == "article" else paragraph
            offset += len(paragraph) + len(_JOINT)
            for question in questions:
                yield self._question(article.title, question, context, paragraph, start_of_paragraph)

    def _question(
        self, title: str, question: _Question, context: str, paragraph: str, start_of_paragraph: int
    ) -> Record:
        text, start = question.answers[0]
        if start is None or paragraph[start : start + len(text)] != text:
            start = _locate(paragraph, text, question.text)
        evidence: tuple[tuple[int, int], ...] = ()
        if start is not None:
            begin = start_of_paragraph + start
            evidence = ((begin, begin + len(text)),)
        others = dict.fromkeys(answer for answer, _ in question.answers if answer != text)
        return Record(
            context,
            question.text.strip(),
            text,
            references=tuple(others),
            evidence=evidence,
            id=f"{title}:{question.id}",
            source=self.name,
        )

    def _read_official(self, path: Path) -> Iterator[_Article]:
        document = read_json(path)
        check_keys(document, ("data",), str(path))
        for entry in document["data"]:
            check_keys(entry, ("title", "paragraphs"), str(path))
            article = _Article(entry["title"].replace("_", " "))
            for paragraph in entry["paragraphs"]:
                check_keys(paragraph, ("context", "qas"), f"{path}: {article.title}")
                questions = article.paragraphs.setdefault(paragraph["context"], [])
                for row in paragraph["qas"]:
                    check_keys(row, ("id", "question", "answers"), f"{path}: {article.title}")
                    answers = [(answer["text"], answer["answer_start"]) for answer in row["answers"]]
                    self._add(questions, _Question(row["id"], row["question"], answers))
            yield article

    def _read_rows(self, path: Path) -> Iterator[_Article]:
        articles: dict[str, _Article] = {}
        for _, row in read_json_lines(path, ("id", "title", "context", "question", "answers")):
            article = articles.setdefault(row["title"], _Article(row["title"]))
            questions = article.paragraphs.setdefault(row["context"], [])
            self._add(
                questions, _Question(row["id"], row["question"], [(text, None) for text in row["answers"]])
            )
        yield from articles.values()

    def _add(self, questions: list[_Question], question: _Question) -> None:
        if not question.text.strip() or not any(text.strip() for text, _ in question.answers):
            self.skipped["question or answer is empty"] += 1
            return
        questions.append(question)


def _locate(paragraph: str, answer: str, question: str) -> int | None:
    """Where a paragraph says the answer; if several times, where most of the question's words are nearby."""
    starts = [match.start() for match in re.finditer(re.escape(answer), paragraph)]
    if len(starts) < 2:
        return starts[0] if starts else None
    words = set(re.findall(r"\w{3,}", question.lower()))

    def num_shared(start: int) -> int:
        nearby = paragraph[max(0, start - 100) : start + len(answer) + 100].lower()
        return len(words.intersection(re.findall(r"\w{3,}", nearby)))

    return max(starts, key=num_shared)
