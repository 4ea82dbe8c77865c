"""TriviaQA (Joshi et al. 2017, arXiv 1705.03551): trivia questions with Wikipedia pages as evidence."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from e2llm.data.converter import Converter
from e2llm.data.json_items import read_json_items
from e2llm.data.source_files import check_keys, read_text
from e2llm.records import Record

_FILES = {"train": "wikipedia-train.json", "validation": "wikipedia-dev.json"}


@dataclass
class TriviaQAConverter(Converter):
    """One record per question, with all of its Wikipedia pages one after another as the context.

    The answer is the published value; the references are its aliases as the official score compares them.
    Pages were found by machine: some do not hold the answer. The answers of the test part are not published.
    """

    name = "triviaqa"
    description = "trivia questions on whole Wikipedia pages, answered by a name or a few words"
    licence = "questions: not stated by the authors; pages: CC BY-SA (Wikipedia)"
    home = "https://nlp.cs.washington.edu/triviaqa/"
    layout = "the unpacked triviaqa-rc folder with qa/wikipedia-{train,dev}.json and evidence/wikipedia/"
    splits = ("train", "validation")
    published_counts: ClassVar[Mapping[str, int]] = {"train": 61888, "validation": 7993}

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        path = source / "qa" / _FILES[split]
        pages = source / "evidence" / "wikipedia"
        if not path.is_file():
            raise self._missing_error(path)
        if not pages.is_dir():
            raise self._missing_error(pages)
        for number, row in read_json_items(path, "Data"):
            place = f"{path}: item {number} of 'Data'"
            check_keys(row, ("Question", "Answer", "EntityPages"), place)
            check_keys(row["Answer"], ("Value", "NormalizedAliases"), f"{place}, 'Answer'")
            for page in row["EntityPages"]:
                check_keys(page, ("Filename",), f"{place}, 'EntityPages'")
            yield from self._question(pages, row, str(row.get("QuestionId") or number))

    def _question(self, pages: Path, row: dict[str, Any], name: str) -> Iterator[Record]:
        prompt = " ".join(row["Question"].split())
        answer = row["Answer"]["Value"].strip()
        aliases = [*row["Answer"]["NormalizedAliases"], *row["Answer"].get("HumanAnswers", [])]
        if not prompt or not answer:
            self.skipped["question or answer is empty"] += 1
            return
        texts = [self._page(pages, page["Filename"]) for page in row["EntityPages"]]
        context = "\n\n".join(text for text in texts if text)
        if not context:
            self.skipped["question without a page"] += 1
            return
        references = dict.fromkeys(alias for alias in aliases if alias.strip() and alias != answer)
        yield Record(context, prompt, answer, references=tuple(references), id=name, source=self.name)

    def _page(self, pages: Path, filename: str) -> str:
        path = pages / filename
        if not path.is_file():
            raise self._missing_error(path)
        return read_text(path).strip()
