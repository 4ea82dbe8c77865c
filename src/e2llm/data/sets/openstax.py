"""OpenStax textbooks: exercises with a solution and glossary terms, with their module as context."""

from collections import defaultdict
from typing import Any

from e2llm.data.data_set import Conversion, Records, data_set
from e2llm.prompts import OPTION_LETTERS, option_lines

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
def openstax(run: Conversion) -> Records:
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
        yield from questions if any(questions) else [run.record(context, id=name)]
    for rows in (*exercises.values(), *glossary.values()):
        run.skip("exercise or term without its module", len(rows))


def _by_module(run: Conversion, name: str) -> _Rows:
    rows: _Rows = defaultdict(list)
    for _, row in run.lines(run.file(f"{name}.jsonl")):
        rows[row["book"], row["module"]].append(row)
    return rows


def _exercises(run: Conversion, name: str, context: str, rows: list[dict[str, Any]]) -> Records:
    for number, row in enumerate(rows, start=1):
        solution = (row["solution"] or "").strip()
        options = [option.strip() for option in row["options"] or []]
        prompt = "\n".join([row["question"].strip(), *option_lines(options)])
        yield run.question(context, prompt, _answers(solution, options), id=f"{name}:exercise-{number}")


def _terms(run: Conversion, name: str, context: str, rows: list[dict[str, Any]]) -> Records:
    for number, row in enumerate(rows, start=1):
        term, meaning = row["term"].strip(), row["meaning"].strip()
        start = context.find(meaning)
        evidence = ((start, start + len(meaning)),) if meaning and start >= 0 else ()
        prompt = f'What does the text mean by "{term}"?' if term else ""
        yield run.question(context, prompt, [meaning], evidence=evidence, id=f"{name}:term-{number}")


def _answers(solution: str, options: list[str]) -> list[str]:
    """Return the accepted answers: the right option's text, then its letter."""
    letter = solution.rstrip(".").upper()
    place = OPTION_LETTERS.find(letter) if len(letter) == 1 else -1
    if 0 <= place < len(options) and options[place]:
        return [options[place], letter]
    return [solution]
