"""MedQuAD (Ben Abacha and Demner-Fushman 2019): questions on pages of the US health institutes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from e2llm.data.converter import Converter
from e2llm.data.source_files import check_keys, read_json_lines
from e2llm.records import Record

_Pair = tuple[str, str]  # question, answer


@dataclass
class MedQuadConverter(Converter):
    """One record per question; the context is the page: its answers in order, without the questions.

    Attributes:
        max_answer_chars: Longer answers stay in the context but are not asked for.
    """

    name = "medquad"
    description = "health pages: which section answers the question, restated in full"
    licence = "CC BY 4.0"
    home = "https://github.com/abachaa/MedQuAD"
    layout = "the repository's folder with *_QA/*.xml, or *.jsonl with keys source, focus, qa"

    max_answer_chars: int = 2000

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        rows = [source] if source.is_file() else sorted(source.glob("*.jsonl"))
        for path in rows:
            for number, row in read_json_lines(path, ("source", "focus", "qa")):
                pairs: list[_Pair] = []
                for pair in row["qa"]:
                    check_keys(pair, ("question", "answer"), f"{path}:{number}")
                    pairs.append((pair["question"], pair["answer"]))
                yield from self._page(f"{row['source']}/{number}", row["focus"] or "", pairs)
        if rows:
            return
        pages = sorted(source.glob("*_QA/*.xml"))
        if not pages:
            raise self._missing_error(source / "*_QA" / "*.xml")
        for path in pages:
            yield from self._xml(path)

    def _xml(self, path: Path) -> Iterator[Record]:
        try:
            document = ElementTree.fromstring(path.read_bytes())
        except ElementTree.ParseError as error:
            raise self._layout_error(path, f"not valid XML ({error})") from error
        pairs = [
            (pair.findtext("Question") or "", pair.findtext("Answer") or "")
            for pair in document.iter("QAPair")
        ]
        yield from self._page(f"{path.parent.name}/{path.stem}", document.findtext("Focus") or "", pairs)

    def _page(self, identifier: str, focus: str, pairs: list[_Pair]) -> Iterator[Record]:
        context = " ".join(focus.split())
        asked: list[tuple[str, str, tuple[int, int]]] = []
        for question, answer in ((_question(question), _tidy(answer)) for question, answer in pairs):
            if not question or not answer:
                self.skipped["answer not published"] += 1
                continue
            context += f"\n\n{answer}" if context else answer
            if len(answer) > self.max_answer_chars:
                self.skipped[f"answer longer than {self.max_answer_chars} characters"] += 1
                continue
            asked.append((question, answer, (len(context) - len(answer), len(context))))
        for number, (question, answer, span) in enumerate(asked, start=1):
            name = f"{identifier}:{number}"
            yield Record(context, question, answer, evidence=(span,), id=name, source=self.name)


def _question(text: str) -> str:
    """The question without the marks of its template: `What is (are) X ?`."""
    text = re.sub(r"[\s?]+$", "?", " ".join(text.replace("(are)", "").split()))
    return text[:1].upper() + text[1:] if len(text) > 1 else ""


def _tidy(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return "\n".join(line for line in lines if line)
