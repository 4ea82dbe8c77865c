"""OpenStax textbooks: exercises with a solution and glossary terms, with their module as context."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from e2llm.data.data_set import Conversion, data_set
from e2llm.prompts import OPTION_LETTERS, option_lines
from e2llm.records import Record

_Rows = dict[tuple[str, str], list[dict[str, Any]]]  # by book and module


@data_set(
    "openstax",
    description="textbook modules: exercises with solutions, and definitions of terms",
    licence="CC BY 4.0 (take editions that are; newer ones are CC BY-NC-SA)",
    home="https://github.com/openstax (repositories osbooks-*), https://openstax.org",
    layout=(
        "a folder with modules.jsonl (book, module, title, text), exercises.jsonl (book, module, question, "
        "options, solution) and glossary.jsonl (book, module, term, meaning)"
    ),
)
def openstax(run: Conversion) -> Iterator[Record]:
    """Yield one record per solved exercise and per glossary term; a text-only one per other module.

    A multiple-choice question lists its options; the answer is the right one, its letter a reference.
    """
    exercises, glossary = _by_module(run, "exercises"), _by_module(run, "glossary")
    for number, row in run.lines(run.file("modules.jsonl")):
        if not row["text"].strip():
            run.skip("module without text")
            continue
        context = f"{row['title'].strip()}\n\n{row['text'].strip()}"
        key = (row["book"], row["module"])
        name = f"{row['module']}@{number}"
        questions = [
            *_exercises(run, name, context, exercises.pop(key, [])),
            *_terms(run, name, context, glossary.pop(key, [])),
        ]
        yield from questions or [run.record(context, id=name)]
    for rows in (*exercises.values(), *glossary.values()):
        run.skip("exercise or term without its module", len(rows))


def _by_module(run: Conversion, name: str) -> _Rows:
    rows: _Rows = defaultdict(list)
    for _, row in run.lines(run.file(f"{name}.jsonl")):
        rows[row["book"], row["module"]].append(row)
    return rows


def _exercises(run: Conversion, name: str, context: str, rows: list[dict[str, Any]]) -> Iterator[Record]:
    for number, row in enumerate(rows, start=1):
        question, solution = row["question"].strip(), (row["solution"] or "").strip()
        if not question or not solution:
            run.skip("exercise without solution")
            continue
        options = [option.strip() for option in row["options"] or []]
        prompt = "\n".join([question, *option_lines(options)])
        answer, references = _answer(solution, options)
        yield run.record(context, prompt, answer, references=references, id=f"{name}:exercise-{number}")


def _terms(run: Conversion, name: str, context: str, rows: list[dict[str, Any]]) -> Iterator[Record]:
    for number, row in enumerate(rows, start=1):
        term, meaning = row["term"].strip(), row["meaning"].strip()
        if not term or not meaning:
            run.skip("term without meaning")
            continue
        start = context.find(meaning)
        evidence = ((start, start + len(meaning)),) if start >= 0 else ()
        prompt = f'What does the text mean by "{term}"?'
        yield run.record(context, prompt, meaning, evidence=evidence, id=f"{name}:term-{number}")


def _answer(solution: str, options: list[str]) -> tuple[str, tuple[str, ...]]:
    """Return the answer to train on and other accepted ones: the right option's text, then its letter."""
    letter = solution.rstrip(".").upper()
    place = OPTION_LETTERS.find(letter) if len(letter) == 1 else -1
    if 0 <= place < len(options) and options[place]:
        return options[place], (letter,)
    return solution, ()
