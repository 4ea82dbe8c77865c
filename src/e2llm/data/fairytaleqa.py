"""FairytaleQA (Xu et al. 2022, arXiv 2203.13947): questions on whole fairy tales, with the gold section."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from e2llm.data.converter import Converter
from e2llm.data.source_files import read_csv_rows
from e2llm.records import Record

_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
_ANSWERS = tuple(f"answer{number}" for number in range(1, 7))


@dataclass
class FairytaleQAConverter(Converter):
    """One record per question: the whole story, the question, its first answer; the others are references."""

    name = "fairytaleqa"
    description = "questions on whole fairy tales, answered in a few words"
    licence = "Apache-2.0"
    home = "https://github.com/uci-soe/FairytaleQAData"
    layout = (
        "the repository's folder with data-by-train-split/questions and data-by-train-split/section-stories"
    )
    splits = ("train", "validation", "test")
    published_counts: ClassVar[Mapping[str, int]] = {"train": 8548, "validation": 1025, "test": 1007}

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        root = source / "data-by-train-split" if (source / "data-by-train-split").is_dir() else source
        questions = root / "questions" / _FOLDERS[split]
        files = sorted(questions.glob("*-questions.csv"))
        if not files:
            raise self._missing_error(questions / "*-questions.csv")
        for path in files:
            title = path.name.removesuffix("-questions.csv")
            story = root / "section-stories" / _FOLDERS[split] / f"{title}-story.csv"
            if not story.is_file():
                raise self._missing_error(story)
            yield from self._questions(path, story, title)

    def _questions(self, path: Path, story: Path, title: str) -> Iterator[Record]:
        context, spans = _join_sections(story)
        for row in read_csv_rows(path, ("question_id", "cor_section", "question", "answer1")):
            question = " ".join(row["question"].split())
            answers = list(dict.fromkeys(" ".join(row.get(key, "").split()) for key in _ANSWERS))
            answers = [answer for answer in answers if answer]
            if not question or not answers:
                self.skipped["question or answer is empty"] += 1
                continue
            sections = re.findall(r"\d+", row["cor_section"])
            yield Record(
                context,
                question,
                answers[0],
                references=tuple(answers[1:]),
                evidence=tuple(spans[section] for section in sections if section in spans),
                id=f"{title}:{row['question_id']}",
                source=self.name,
            )


def _join_sections(path: Path) -> tuple[str, dict[str, tuple[int, int]]]:
    """The whole story and the character span of each of its sections, by section number."""
    pieces: list[str] = []
    spans: dict[str, tuple[int, int]] = {}
    position = 0
    for row in read_csv_rows(path, ("section", "text")):
        text = "\n".join(line.strip() for line in row["text"].strip().split("\n"))
        if not text:
            continue
        spans[row["section"].strip()] = (position, position + len(text))
        pieces.append(text)
        position += len(text) + 2
    return "\n\n".join(pieces), spans
