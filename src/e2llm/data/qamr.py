"""QAMR (Michael et al. 2018, arXiv 1711.05885): crowd questions on single sentences."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2llm.data.converter import Converter
from e2llm.data.source_files import read_json_lines, read_text
from e2llm.errors import E2LLMError
from e2llm.records import Record

_FILE_PARTS = {
    "train": ("train",),
    "validation": ("dev",),
    "test": ("test",),
    "all": ("train", "dev", "test"),
}
_MIN_QUESTION_WORDS = 4
_QUESTION_CHARS = 50  # width of the question in the `readable` files, which is also the longest question


@dataclass
class QamrConverter(Converter):
    """One record per good question on a sentence.

    Good: it ends in a question mark, has at least four words, and all who answered it agree.
    """

    name = "qamr"
    description = "one-sentence questions: the first step of a curriculum"
    licence = "MIT (sentences: Wikipedia CC BY-SA 3.0, Wikinews CC BY 2.5)"
    home = "https://github.com/uwnlp/qamr"
    layout = (
        "data/readable/{train,dev,test}.tsv of the repository, "
        "or *{train,dev,test}.jsonl with keys id, sentence, qa"
    )
    splits = ("train", "validation", "test", "all")

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        for path in self._files(source, split):
            blocks = _read_rows(path) if path.suffix == ".jsonl" else _read_readable(path)
            for identifier, sentence, questions in blocks:
                context = " ".join(sentence.split())
                if not context:
                    raise self._layout_error(path, f"the sentence of {identifier!r} is empty")
                yield from self._questions(identifier, context, questions)

    def _files(self, source: Path, split: str) -> list[Path]:
        if source.is_file():
            return [source]
        folder = source / "data" / "readable" if (source / "data" / "readable").is_dir() else source
        parts = _FILE_PARTS[split]
        files = [path for path in sorted(folder.iterdir()) if path.suffix in (".tsv", ".jsonl")]
        files = [path for path in files if path.stem.endswith(parts)]
        if not files:
            raise self._missing_error(folder / f"*{parts[0]}.tsv")
        return files

    def _questions(
        self, identifier: str, context: str, questions: list[tuple[str, list[str]]]
    ) -> Iterator[Record]:
        seen: set[str] = set()
        for number, (text, given) in enumerate(questions, start=1):
            question = " ".join(text.split())
            answers = list(dict.fromkeys(answer.strip() for answer in given if answer.strip()))
            problem = _problem(question, answers)
            if not problem and question in seen:
                problem = "question asked before on the same sentence"
            if problem:
                self.skipped[problem] += 1
                continue
            seen.add(question)
            start = context.find(answers[0])
            yield Record(
                context,
                question,
                answers[0],
                evidence=((start, start + len(answers[0])),) if start >= 0 else (),
                id=f"{identifier}:{number}",
                source=self.name,
            )


def _problem(question: str, answers: list[str]) -> str:
    """Why a question is not good enough to train on, or an empty string."""
    if not question.endswith("?"):
        return "question does not end in '?'"
    if len(question.split()) < _MIN_QUESTION_WORDS:
        return f"question shorter than {_MIN_QUESTION_WORDS} words"
    if len(answers) != 1:
        return "no agreed answer"
    return ""


_Block = tuple[str, str, list[tuple[str, list[str]]]]


def _read_readable(path: Path) -> Iterator[_Block]:
    """Sentence blocks of the `readable` rendering: `#id`, sentence, padded questions with answers."""
    for block in read_text(path).split("\n\n"):
        lines = [line for line in block.split("\n") if line.strip()]
        if not lines:
            continue
        if len(lines) < 2 or not lines[0].startswith("#"):
            raise E2LLMError(f"{path}: a block is not '#ID', a sentence and its questions: {lines[0][:60]!r}")
        questions = [(line[:_QUESTION_CHARS], line[_QUESTION_CHARS:].split("\t")) for line in lines[2:]]
        yield lines[0][1:].strip(), lines[1], questions


def _read_rows(path: Path) -> Iterator[_Block]:
    """Sentence blocks of a JSON lines file."""
    for _, row in read_json_lines(path, ("id", "sentence", "qa")):
        pairs: list[dict[str, Any]] = row["qa"]
        yield row["id"], row["sentence"], [(pair["question"], list(pair["answers"])) for pair in pairs]
