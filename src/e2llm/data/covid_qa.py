"""COVID-QA (Möller et al. 2020): expert questions on whole scientific papers, answered by a span."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from e2llm.data.converter import Converter
from e2llm.data.source_files import check_keys, read_json
from e2llm.records import Record

_FOLDER = Path("data") / "question-answering"
_FILES = ("COVID-QA.json", "200423_covidQA.json")  # the whole set, and a batch of April 2020 with two thirds


@dataclass
class CovidQAConverter(Converter):
    """One record per question; the span of its answer is checked against the paper.

    The published offsets are one off where the answer starts with a space; they are mended.
    """

    name = "covid_qa"
    description = "questions on whole papers about coronaviruses, answered by a passage"
    licence = "Apache-2.0"
    home = "https://github.com/deepset-ai/COVID-QA"
    layout = (
        f"the repository's folder with {(_FOLDER / _FILES[0]).as_posix()} or {_FILES[1]}, or one of these"
    )
    published_counts: ClassVar[Mapping[str, int]] = {"train": 2019}

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        paths = [source] if source.is_file() else [source / _FOLDER / name for name in _FILES]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise self._missing_error(paths[0])
        document = read_json(path)
        check_keys(document, ("data",), str(path))
        for entry in document["data"]:
            check_keys(entry, ("paragraphs",), str(path))
            for paper in entry["paragraphs"]:
                check_keys(paper, ("context", "document_id", "qas"), str(path))
                for row in paper["qas"]:
                    check_keys(row, ("id", "question", "answers"), f"{path}: {paper['document_id']}")
                    yield from self._question(str(paper["document_id"]), paper["context"], row)

    def _question(self, paper: str, context: str, row: dict[str, Any]) -> Iterator[Record]:
        prompt = " ".join(row["question"].split())
        answers = [(answer["text"].strip(), int(answer["answer_start"])) for answer in row["answers"]]
        answers = [(text, start) for text, start in answers if text]
        if not prompt or not answers:
            self.skipped["question or answer is empty"] += 1
            return
        spans = [_nearest_span(context, text, start) for text, start in answers]
        yield Record(
            context,
            prompt,
            answers[0][0],
            references=tuple(text for text, _ in answers[1:]),
            evidence=tuple(span for span in spans if span is not None),
            id=f"{paper}:{row['id']}",
            source=self.name,
        )


def _nearest_span(context: str, text: str, start: int) -> tuple[int, int] | None:
    """The span of `text` in `context` that begins nearest to `start`; None if it is not there."""
    after = context.find(text, max(0, start))
    before = context.rfind(text, 0, max(0, start) + len(text))
    places = [place for place in (before, after) if place >= 0]
    if not places:
        return None
    place = min(places, key=lambda place: abs(place - start))
    return place, place + len(text)
