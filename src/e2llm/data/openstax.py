"""OpenStax textbooks: exercises with a solution and glossary terms, with their module as context."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2llm.data.converter import Converter
from e2llm.data.source_files import read_json_lines
from e2llm.prompts import OPTION_LETTERS, option_lines
from e2llm.records import Record

_Key = tuple[str, str]  # book, module
_PAGE_KEYS = ("book", "module")


@dataclass
class OpenStaxConverter(Converter):
    """One record per exercise that has a solution and per glossary term; text-only ones for modules without.

    A multiple-choice question lists its options; the answer is the right one, its letter a reference.
    """

    name = "openstax"
    description = "textbook modules: exercises with solutions, and definitions of terms"
    licence = "CC BY 4.0 (take editions that are; newer ones are CC BY-NC-SA)"
    home = "https://github.com/openstax (repositories osbooks-*), https://openstax.org"
    layout = (
        "a folder with modules.jsonl (book, module, title, text), exercises.jsonl (book, module, question, "
        "options, solution) and glossary.jsonl (book, module, term, meaning)"
    )

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        for name in ("modules", "exercises", "glossary"):
            if not (source / f"{name}.jsonl").is_file():
                raise self._missing_error(source / f"{name}.jsonl")
        exercises = _by_module(source / "exercises.jsonl", ("question", "options", "solution"))
        glossary = _by_module(source / "glossary.jsonl", ("term", "meaning"))
        path = source / "modules.jsonl"
        for number, row in read_json_lines(path, (*_PAGE_KEYS, "title", "text")):
            if not row["text"].strip():
                self.skipped["module without text"] += 1
                continue
            context = f"{row['title'].strip()}\n\n{row['text'].strip()}"
            key = (row["book"], row["module"])
            name = f"{row['module']}@{number}"
            questions = [
                *self._exercises(name, context, exercises.pop(key, [])),
                *self._terms(name, context, glossary.pop(key, [])),
            ]
            yield from questions or [Record(context, "", "", id=name, source=self.name)]
        num_homeless = sum(map(len, exercises.values())) + sum(map(len, glossary.values()))
        if num_homeless:
            self.skipped["exercise or term without its module"] += num_homeless

    def _exercises(self, name: str, context: str, rows: list[dict[str, Any]]) -> Iterator[Record]:
        for number, row in enumerate(rows, start=1):
            question, solution = row["question"].strip(), (row["solution"] or "").strip()
            if not question or not solution:
                self.skipped["exercise without solution"] += 1
                continue
            options = [option.strip() for option in row["options"] or []]
            answer, references = _answer(solution, options)
            yield Record(
                context,
                "\n".join([question, *option_lines(options)]),
                answer,
                references=references,
                id=f"{name}:exercise-{number}",
                source=self.name,
            )

    def _terms(self, name: str, context: str, rows: list[dict[str, Any]]) -> Iterator[Record]:
        for number, row in enumerate(rows, start=1):
            term, meaning = row["term"].strip(), row["meaning"].strip()
            if not term or not meaning:
                self.skipped["term without meaning"] += 1
                continue
            start = context.find(meaning)
            yield Record(
                context,
                f'What does the text mean by "{term}"?',
                meaning,
                evidence=((start, start + len(meaning)),) if start >= 0 else (),
                id=f"{name}:term-{number}",
                source=self.name,
            )


def _by_module(path: Path, keys: tuple[str, ...]) -> dict[_Key, list[dict[str, Any]]]:
    rows: defaultdict[_Key, list[dict[str, Any]]] = defaultdict(list)
    for _, row in read_json_lines(path, (*_PAGE_KEYS, *keys)):
        rows[row["book"], row["module"]].append(row)
    return dict(rows)


def _answer(solution: str, options: list[str]) -> tuple[str, tuple[str, ...]]:
    """The answer to train on and other accepted ones: the right option's text, then its letter."""
    letter = solution.rstrip(".").upper()
    place = OPTION_LETTERS.find(letter) if len(letter) == 1 else -1
    if 0 <= place < len(options) and options[place]:
        return options[place], (letter,)
    return solution, ()
