"""SQuALITY (Wang et al. 2022, arXiv 2205.11465): question-focused summaries of whole short stories."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from e2llm.data.converter import Converter
from e2llm.data.source_files import check_keys, read_json_lines
from e2llm.records import Record

_FILES = {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}


@dataclass
class SqualityConverter(Converter):
    """One record per question: the story, the question, a summary; the other three are references."""

    name = "squality"
    description = "questions on whole short stories, answered by a summary of about 200 words"
    licence = "stories: Project Gutenberg, questions and summaries: CC BY 4.0"
    home = "https://github.com/nyu-mll/SQuALITY"
    layout = "the repository's folder with data/v1-3/txt/{train,dev,test}.jsonl"
    splits = ("train", "validation", "test")
    published_counts: ClassVar[Mapping[str, int]] = {"train": 250, "validation": 125, "test": 260}

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        folder = source / "data" / "v1-3" / "txt"
        path = (folder if folder.is_dir() else source) / _FILES[split]
        if not path.is_file():
            raise self._missing_error(path)
        for number, row in read_json_lines(path, ("metadata", "document", "questions")):
            check_keys(row["metadata"], ("passage_id",), f"{path}:{number}")
            context = _tidy(row["document"])
            if not context:
                raise self._layout_error(path, f"line {number}: the document is empty")
            for question in row["questions"]:
                check_keys(question, ("question_text", "question_number", "responses"), f"{path}:{number}")
                yield from self._question(row["metadata"]["passage_id"], context, question)

    def _question(self, story: str, context: str, question: dict[str, Any]) -> Iterator[Record]:
        texts = [_tidy(response["response_text"]) for response in question["responses"]]
        texts = [text for text in texts if text]
        prompt = " ".join(question["question_text"].split())
        if not texts or not prompt:
            self.skipped["question or summary is empty"] += 1
            return
        yield Record(
            context,
            prompt,
            texts[0],
            references=tuple(texts[1:]),
            id=f"{story}:{question['question_number']}",
            source=self.name,
        )


def _tidy(text: str) -> str:
    """The text without the white space that the layout of the HTML left: line ends, runs of empty lines."""
    lines = "\n".join(line.strip() for line in text.replace("\r", "").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()
