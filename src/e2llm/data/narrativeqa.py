"""NarrativeQA (Kočiský et al. 2018, arXiv 1712.07040): questions on whole books and film scripts."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from e2llm.data.converter import Converter
from e2llm.data.source_files import read_csv_rows
from e2llm.data.web_text import cut_between, read_web_text
from e2llm.errors import E2LLMError
from e2llm.records import Record

_SETS = {"train": "train", "validation": "valid", "test": "test"}
_CONTEXTS = ("story", "summary")
_SUMMARIES = Path("third_party") / "wikipedia" / "summaries.csv"


@dataclass
class NarrativeQAConverter(Converter):
    """One record per question: the story or its summary, the first answer; the second is a reference.

    Stories lose their HTML and what stands before and after them, by the first and last words that
    documents.csv gives.

    Attributes:
        context: What to read: the whole `story`, which has to be downloaded, or the `summary` from Wikipedia
            that the questions were written on.
        min_story_bytes: Smaller story files are failed downloads; the default is that of the authors' script.
    """

    name = "narrativeqa"
    description = "questions on whole books and film scripts, or on their summaries, answered in a few words"
    licence = "questions: Apache-2.0; summaries: CC BY-SA 3.0 (Wikipedia); each story has its own"
    home = "https://github.com/google-deepmind/narrativeqa"
    layout = (
        f"the repository's folder with qaps.csv and {_SUMMARIES.as_posix()} (--set context=summary), or with "
        "documents.csv and tmp/*.content, the stories that download_stories.sh fetches"
    )
    splits = ("train", "validation", "test")
    published_counts: ClassVar[Mapping[str, int]] = {"train": 32747, "validation": 3461, "test": 10557}

    context: Literal["story", "summary"] = "story"
    min_story_bytes: int = 19_000

    def __post_init__(self) -> None:
        """Check the options; raises `E2LLMError`."""
        if self.context not in _CONTEXTS:
            raise E2LLMError(f"context={self.context!r} is unknown; choose from: {', '.join(_CONTEXTS)}")

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        questions = source / "qaps.csv"
        if not questions.is_file():
            raise self._missing_error(questions)
        part = _SETS[split]
        is_story = self.context == "story"
        summaries = {} if is_story else self._summaries(source, part)
        words = self._first_and_last_words(source) if is_story else {}
        document, text = "", ""
        numbers: Counter[str] = Counter()
        for row in read_csv_rows(questions, ("document_id", "set", "question", "answer1", "answer2")):
            if row["set"] != part:
                continue
            if row["document_id"] != document:  # the questions of a document follow each other
                document = row["document_id"]
                text = self._story(source, document, words) if is_story else summaries.get(document, "")
            numbers[document] += 1
            yield from self._question(row, text, f"{document}:{numbers[document]}")

    def _question(self, row: dict[str, str], text: str, name: str) -> Iterator[Record]:
        prompt = " ".join(row["question"].split())
        spaced = (" ".join(row[key].split()) for key in ("answer1", "answer2"))
        answers = list(dict.fromkeys(answer for answer in spaced if answer))
        if not text:
            self.skipped[f"question whose {self.context} is not there"] += 1
        elif not prompt or not answers:
            self.skipped["question or answer is empty"] += 1
        else:
            yield Record(text, prompt, answers[0], references=tuple(answers[1:]), id=name, source=self.name)

    def _summaries(self, source: Path, part: str) -> dict[str, str]:
        path = source / _SUMMARIES
        if not path.is_file():
            raise self._missing_error(path)
        rows = read_csv_rows(path, ("document_id", "set", "summary"))
        return {row["document_id"]: row["summary"].strip() for row in rows if row["set"] == part}

    def _first_and_last_words(self, source: Path) -> dict[str, tuple[str, str]]:
        path = source / "documents.csv"
        if not path.is_file():
            raise self._missing_error(path)
        if not (source / "tmp").is_dir():
            raise self._missing_error(source / "tmp" / "*.content")
        rows = read_csv_rows(path, ("document_id", "story_start", "story_end"))
        return {row["document_id"]: (row["story_start"], row["story_end"]) for row in rows}

    def _story(self, source: Path, document: str, words: dict[str, tuple[str, str]]) -> str:
        """A story; empty if it was not downloaded, as some of the addresses have gone."""
        path = source / "tmp" / f"{document}.content"
        if not path.is_file() or path.stat().st_size < self.min_story_bytes:
            return ""
        return cut_between(read_web_text(path), *words.get(document, ("", "")))
