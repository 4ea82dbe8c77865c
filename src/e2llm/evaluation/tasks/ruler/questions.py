"""RULER's question answering: a golden paragraph among many others (arXiv 2404.06654, section 3.4).

`qa_1` reads SQuAD (or XQuAD's English part, which is drawn from it), `qa_2` HotpotQA; neither is shipped.
"""

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from e2llm.data.needles.hiding import Passage
from e2llm.data.sets.squad import squad
from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item, TaskRequest
from e2llm.evaluation.metrics import string_match_any
from e2llm.evaluation.tasks.ruler.haystacks import cut_words, passages
from e2llm.evaluation.tasks.ruler.ruler_task import CHARS_PER_TOKEN, Draft, RulerTask
from e2llm.records import Record, read_records

_PROMPT = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other "
    "words.\n\nQuestion: {question}"
)
_HEAD = "Document {number}:\n"
_JOINT = "\n\n"
_MAX_GOLD_FRACTION = 0.9  # of the length; a question whose golden documents need more is skipped
_PASSAGE_CHARS = 800  # of a haystack, where a set has too few documents; a SQuAD paragraph has about 780


@dataclass(frozen=True)
class Question:
    """One question on documents of a library.

    Attributes:
        text: The question.
        answers: Right answers.
        gold: Numbers of the documents that hold the answer.
        near: Numbers of the documents that come first among the others: those of the same article.
        evidence: Places of the answer: document, start, end.
    """

    text: str
    answers: tuple[str, ...]
    gold: tuple[int, ...]
    near: tuple[int, ...]
    evidence: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Library:
    """The documents of a data set, each once, and the questions on them."""

    documents: list[str]
    questions: list[Question]


@dataclass(frozen=True)
class _Asked:
    library: Library
    questions: dict[int, Iterator[Question]]  # by length
    haystacks: Sequence[str]


class QuestionTask(RulerTask):
    """Questions with their golden documents among as many others as the length holds.

    The seed shuffles the questions; item `i` of every length asks the same one, unless the golden documents
    are too long for a short length.
    """

    metric: ClassVar[str] = "string_match_part"
    max_new_tokens: ClassVar[int] = 32
    wanted: ClassVar[str]
    """The data set, and where to get it."""
    files: ClassVar[tuple[str, ...]]
    """Patterns of its files; the first that is found is read."""

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Return 1 if the prediction contains any of the references, case-insensitively."""
        return {self.metric: string_match_any(prediction, item.references)}

    def read(self, file: Path) -> Library:
        """Read the data set."""
        raise NotImplementedError

    def _prepare(self, request: TaskRequest) -> _Asked:
        wanted = f"{self.name} needs {' or '.join(self.files)} of {self.wanted}; name its folder with --data"
        if request.data is None:
            raise E2LLMError(f"--data is missing; {wanted}")
        found = (path for name in self.files for path in sorted(request.data.rglob(name)) if path.is_file())
        if (file := next(found, None)) is None:
            raise FileNotFoundError(f"not found in {request.data}; {wanted}")
        library = self.read(file)
        if not library.questions:
            raise E2LLMError(f"{file}: no question has an answer; {self.name} needs {self.wanted}")
        random.Random(f"{request.seed}/{self.name}").shuffle(library.questions)

        def fitting(length: int) -> Iterator[Question]:
            for question in library.questions:
                gold = _JOINT.join(library.documents[number] for number in question.gold)
                if request.count_tokens(gold) <= _MAX_GOLD_FRACTION * length:
                    yield question

        streams = {length: fitting(length) for length in request.lengths}
        return _Asked(library, streams, request.haystacks)

    def _draft(self, shared: _Asked, rng: random.Random, length: int, index: int) -> Draft | None:
        question = next(shared.questions[length], None)
        return None if question is None else _draft(rng, shared.library, question, shared.haystacks, length)


class SquadQuestions(QuestionTask):
    """SQuAD: the paragraph of the answer among paragraphs, those of its article first."""

    name: ClassVar[str] = "qa_1"
    description: ClassVar[str] = "RULER: a SQuAD question on one of many paragraphs"
    wanted: ClassVar[str] = (
        "SQuAD's dev set (https://rajpurkar.github.io/SQuAD-explorer/) or XQuAD's English part "
        "(https://github.com/google-deepmind/xquad)"
    )
    files: ClassVar[tuple[str, ...]] = (
        *("dev-v2.0.json", "squad*v2*.jsonl", "dev-v1.1.json", "squad*.jsonl"),
        *("xquad.en.json", "xquad*.jsonl"),
    )

    def read(self, file: Path) -> Library:
        """Read SQuAD or XQuAD."""
        return read_squad(file)


class HotpotQuestions(QuestionTask):
    """HotpotQA: the two paragraphs of the answer among paragraphs, the eight that come with it first."""

    name: ClassVar[str] = "qa_2"
    description: ClassVar[str] = "RULER: a HotpotQA question on two of many paragraphs"
    wanted: ClassVar[str] = "HotpotQA's dev set with distractors (https://hotpotqa.github.io/)"
    files: ClassVar[tuple[str, ...]] = ("hotpot_dev_distractor_v1.json", "hotpot*distractor*.json")

    def read(self, file: Path) -> Library:
        """Read HotpotQA."""
        return read_hotpot(file)


def _draft(
    rng: random.Random, library: Library, question: Question, haystacks: Sequence[str], length: int
) -> Draft:
    """Draft the golden documents whole and others up to the size, the last of these cut, in any order."""
    others = _others(rng, library, question, haystacks)
    rng_of_places = random.Random(rng.getrandbits(64))
    taken: list[str] = []
    places: list[float] = []  # a document's place does not move when others come between

    def build(num_chars: int) -> Passage:
        texts = [library.documents[number] for number in question.gold]
        missing = num_chars
        for number in itertools.count():
            if number == len(taken):
                taken.append(next(others))
            missing -= len(_JOINT) + len(_HEAD)
            if missing <= 0:
                break
            texts.append(cut_words(taken[number], missing))
            missing -= len(taken[number])
        places.extend(rng_of_places.random() for _ in range(len(texts) - len(places)))
        order = sorted(range(len(texts)), key=places.__getitem__)
        return _laid_out(texts, order, question)

    return Draft(build, CHARS_PER_TOKEN * length, _PROMPT.format(question=question.text), question.answers)


def _laid_out(texts: Sequence[str], order: Sequence[int], question: Question) -> Passage:
    """Join documents under their numbers, with the spans of the evidence."""
    parts: list[str] = []
    starts: dict[int, int] = {}
    length = 0
    for number, which in enumerate(order, start=1):
        head = _HEAD.format(number=number)
        starts[which] = length + len(head)
        parts.append(head + texts[which])
        length += len(parts[-1]) + len(_JOINT)
    at = [(starts[question.gold.index(document)], start, end) for document, start, end in question.evidence]
    return Passage(
        _JOINT.join(parts), tuple(sorted((place + start, place + end) for place, start, end in at))
    )


def _others(
    rng: random.Random, library: Library, question: Question, haystacks: Sequence[str]
) -> Iterator[str]:
    """Yield documents that are not golden: the near ones, the far ones, then passages of the haystacks."""
    near = rng.sample(question.near, len(question.near))
    known = {*question.gold, *near}
    far = [number for number in range(len(library.documents)) if number not in known]
    rng.shuffle(far)
    yield from (library.documents[number] for number in (*near, *far))
    yield from passages(haystacks, _PASSAGE_CHARS)


def read_squad(file: Path) -> Library:
    """Read paragraphs and questions from SQuAD's JSON, a question per line, or `prepare squad`'s records.

    Raises:
        E2LLMError: If the file has another layout.
    """
    records = list(_squad_records(file))
    numbers: dict[str, int] = {}
    articles: dict[str, dict[int, None]] = {}
    for record in records:
        number = numbers.setdefault(record.context, len(numbers))
        articles.setdefault(record.id.rpartition(":")[0], {})[number] = None
    questions = []
    for record in records:
        if record.is_text_only:
            continue
        gold = numbers[record.context]
        near = articles[record.id.rpartition(":")[0]] if ":" in record.id else {}
        questions.append(
            Question(
                record.prompt,
                tuple(dict.fromkeys((record.answer, *record.references))),
                (gold,),
                tuple(number for number in near if number != gold),
                tuple((gold, start, end) for start, end in record.evidence),
            )
        )
    return Library(list(numbers), questions)


def _squad_records(file: Path) -> Iterator[Record]:
    if file.suffix == ".jsonl":
        with file.open(encoding="utf-8", errors="replace") as stream:
            try:
                first = json.loads(next((line for line in stream if line.strip()), "{}"))
            except json.JSONDecodeError as error:
                raise E2LLMError(f"{file}:1: not a line of JSON: {error.msg}") from error
        if "prompt" in first:
            return read_records(file)
    return squad(context="paragraph").convert(file, "all")


class _HotpotRow(BaseModel):
    question: str
    answer: str
    context: list[tuple[str, list[str]]]
    supporting_facts: list[tuple[str, int]]


def read_hotpot(file: Path) -> Library:
    """Read paragraphs and questions from HotpotQA's JSON; a document is a title and its sentences.

    Raises:
        E2LLMError: If the file has another layout.
    """
    numbers: dict[str, int] = {}
    questions: list[Question] = []
    try:
        for row in TypeAdapter(list[_HotpotRow]).validate_json(file.read_bytes()):
            questions.append(_hotpot_question(row, numbers))
    except (ValidationError, KeyError) as error:
        fault = f"no paragraph {error}"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            fault = f"{'.'.join(map(str, first['loc']))} {first['msg']}"
        raise E2LLMError(
            f"{file}: not HotpotQA's layout ({fault.strip()}); it is a list of questions with question, "
            "answer, context as [[title, [sentence, ...]], ...] and supporting_facts as [[title, int], ...]"
        ) from error
    return Library(list(numbers), questions)


def _hotpot_question(row: _HotpotRow, numbers: dict[str, int]) -> Question:
    documents = {title: (f"{title}\n{''.join(lines)}", lines) for title, lines in row.context}
    own = {title: numbers.setdefault(text, len(numbers)) for title, (text, _) in documents.items()}
    evidence = []
    for title, sentence in row.supporting_facts:
        lines = documents[title][1]
        if sentence < len(lines):  # some facts of the published file name a sentence that does not exist
            start = len(title) + 1 + sum(map(len, lines[:sentence]))
            evidence.append((own[title], start, start + len(lines[sentence])))
    gold = tuple(dict.fromkeys(own[title] for title, _ in row.supporting_facts))
    near = tuple(number for number in own.values() if number not in gold)
    return Question(row.question, (row.answer,), gold, near, tuple(evidence))
