"""MedQuAD (Ben Abacha and Demner-Fushman 2019): questions on pages of the US health institutes."""

import re
from collections.abc import Iterator
from pathlib import Path

from e2llm.data.data_set import Conversion, Records, data_set

_MAX_ANSWER_CHARS = 2000  # no question asks for a longer answer
_Page = tuple[str, str, list[tuple[str, str]]]  # id, topic, questions with their answers


@data_set(
    "medquad",
    description="health pages: which section answers the question, restated in full",
    licence="CC BY 4.0",
    home="https://github.com/abachaa/MedQuAD",
    layout="the repository's folder with *_QA/*.xml, or *.jsonl with keys source, focus, qa",
)
def medquad(run: Conversion) -> Records:
    """Yield one record per question; the context is the page: its answers in order, without the questions."""
    for path in run.files("*.jsonl", "*_QA/*.xml"):
        for identifier, topic, pairs in _pages(run, path):
            context = " ".join(topic.split())
            asked: list[tuple[str, str, tuple[int, int]]] = []
            for question, answer in ((_question(question), _tidy(answer)) for question, answer in pairs):
                if not question or not answer:
                    run.skip("answer not published")
                    continue
                context += f"\n\n{answer}" if context else answer
                if len(answer) > _MAX_ANSWER_CHARS:
                    run.skip(f"answer longer than {_MAX_ANSWER_CHARS} characters")
                else:
                    asked.append((question, answer, (len(context) - len(answer), len(context))))
            for number, (question, answer, span) in enumerate(asked, start=1):
                yield run.record(context, question, answer, evidence=(span,), id=f"{identifier}:{number}")


def _pages(run: Conversion, path: Path) -> Iterator[_Page]:
    if path.suffix == ".jsonl":
        for number, row in run.lines(path):
            pairs = [(pair["question"], pair["answer"]) for pair in row["qa"]]
            yield f"{row['source']}/{number}", row["focus"] or "", pairs
        return
    document = run.xml(path)
    pairs = [
        (pair.findtext("Question") or "", pair.findtext("Answer") or "") for pair in document.iter("QAPair")
    ]
    yield f"{path.parent.name}/{path.stem}", document.findtext("Focus") or "", pairs


def _question(text: str) -> str:
    """Return the question without the marks of its template: `What is (are) X ?`."""
    text = re.sub(r"[\s?]+$", "?", " ".join(text.replace("(are)", "").split()))
    return text[:1].upper() + text[1:] if len(text) > 1 else ""


def _tidy(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return "\n".join(line for line in lines if line)
