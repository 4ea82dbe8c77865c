"""QAMR (Michael et al. 2018, arXiv 1711.05885): crowd questions on single sentences."""

from collections.abc import Iterator
from pathlib import Path

from e2llm.data.data_set import Conversion, Records, data_set

_PARTS = {
    "train": ("train",),
    "validation": ("dev",),
    "test": ("test",),
    "all": ("train", "dev", "test"),
}
_MIN_QUESTION_WORDS = 4
_QUESTION_CHARS = 50  # width of the question in the `readable` files, which is also the longest question
_Sentence = tuple[str, str, list[tuple[str, list[str]]]]  # id, sentence, questions with their answers


@data_set(
    "qamr",
    description="one-sentence questions: the first step of a curriculum",
    licence="MIT (sentences: Wikipedia CC BY-SA 3.0, Wikinews CC BY 2.5)",
    home="https://github.com/uwnlp/qamr",
    layout=(
        "data/readable/{train,dev,test}.tsv of the repository, "
        "or *{train,dev,test}.jsonl with keys id, sentence, qa"
    ),
    splits=("train", "validation", "test", "all"),
)
def qamr(run: Conversion) -> Records:
    """Yield one record per good question on a sentence.

    A good question ends in a question mark and has at least four words, and all its answers agree.
    """
    files = run.files("data/readable/*.tsv", "*.tsv", "*.jsonl")
    if not run.source.is_file():
        files = [path for path in files if path.stem.endswith(_PARTS[run.split])]
    if not files:
        raise run.missing(run.source / f"*{_PARTS[run.split][0]}.jsonl")
    for path in files:
        for identifier, sentence, questions in _sentences(run, path):
            yield from _questions(run, identifier, " ".join(sentence.split()), questions)


def _questions(
    run: Conversion, identifier: str, context: str, questions: list[tuple[str, list[str]]]
) -> Records:
    seen: set[str] = set()
    for number, (text, given) in enumerate(questions, start=1):
        question = " ".join(text.split())
        answers = list(dict.fromkeys(answer.strip() for answer in given if answer.strip()))
        if problem := _problem(question, answers, seen):
            run.skip(problem)
            continue
        seen.add(question)
        start = context.find(answers[0])
        evidence = ((start, start + len(answers[0])),) if start >= 0 else ()
        yield run.record(context, question, answers[0], evidence=evidence, id=f"{identifier}:{number}")


def _problem(question: str, answers: list[str], seen: set[str]) -> str:
    """Return why a question is not good enough to train on, or an empty string."""
    if not question.endswith("?"):
        return "question does not end in '?'"
    if len(question.split()) < _MIN_QUESTION_WORDS:
        return f"question shorter than {_MIN_QUESTION_WORDS} words"
    if len(answers) != 1:
        return "no agreed answer"
    return "question asked before on the same sentence" if question in seen else ""


def _sentences(run: Conversion, path: Path) -> Iterator[_Sentence]:
    if path.suffix == ".jsonl":
        for _, row in run.lines(path):
            yield row["id"], row["sentence"], [(pair["question"], pair["answers"]) for pair in row["qa"]]
        return
    for block in run.text(path).split("\n\n"):  # `#id`, sentence, padded questions with answers
        lines = [line for line in block.split("\n") if line.strip()]
        if not lines:
            continue
        if len(lines) < 2 or not lines[0].startswith("#"):
            raise run.error(f"a block is not '#ID', a sentence and its questions: {lines[0][:60]!r}")
        questions = [(line[:_QUESTION_CHARS], line[_QUESTION_CHARS:].split("\t")) for line in lines[2:]]
        yield lines[0][1:].strip(), lines[1], questions
