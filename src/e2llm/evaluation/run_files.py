"""A run of the evaluation as its folder holds it, read and checked: scores.json and predictions.jsonl."""

import json
from collections.abc import Iterator
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from e2llm.errors import E2LLMError

PREDICTIONS_NAME = "predictions.jsonl"
SCORES_NAME = "scores.json"

Text = Annotated[str, PlainValidator(str)]
"""Any text; pydantic's own check refuses half of a surrogate pair, which an answer may hold."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class Prediction:
    """What one system said to one item.

    Attributes:
        system: Name of the system.
        task: Name of the task.
        id: Of the item.
        prompt: What was asked.
        context_sha256: Hash of the context that it was asked of.
        text: The answer, `prediction` in the file; empty for a refused item.
        references: What is right.
        scores: By name; empty for a refused item.
        groups: What scores are broken down by.
        error: Why the system refused the item; None for an answer.
    """

    system: Text
    task: Text
    id: Text
    prompt: Text
    context_sha256: str
    scores: dict[Text, float]
    text: Text = Field(default="", validation_alias="prediction")
    references: tuple[Text, ...] = ()
    groups: dict[Text, Any] = field(default_factory=dict)
    error: Text | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Task, system and item."""
        return self.task, self.system, self.id


@dataclass(frozen=True)
class GroupScore:
    """The metric's mean over the items of a group, with its 95% interval and the number of answered items."""

    value: float
    interval: Interval | None
    num_items: int


@dataclass(frozen=True)
class Row:
    """The scores of one system on one task.

    Attributes:
        task: Name of the task.
        system: Name of the system.
        metric: The score that tables and tests use.
        num_items: Items asked, the refused ones among them.
        num_refused: Items without an answer; the means are over the others.
        values: Means by score name; empty if all items were refused.
        intervals_95: 95% intervals by score name.
        cost: Mean or median costs by name.
        groups: The metric by group key and value.
    """

    task: Text
    system: Text
    metric: Text
    num_items: int
    num_refused: int
    values: dict[Text, float]
    intervals_95: dict[Text, Interval]
    cost: dict[str, float]
    groups: dict[Text, dict[Text, GroupScore]]

    @property
    def value(self) -> float | None:
        """The metric's mean; None without an answered item."""
        return self.values.get(self.metric)


@dataclass(frozen=True)
class PairTest:
    """A paired test of two systems on the items that both answered."""

    task: Text
    metric: Text
    system_a: Text
    system_b: Text
    difference: float
    interval_95: Interval | None
    p_value: float | None
    p_holm: float | None
    num_pairs: int


@dataclass(frozen=True)
class TaskFacts:
    """A task of a run: its metric and one sentence on it."""

    metric: Text
    description: Text


@dataclass(frozen=True)
class Scores:
    """The content of scores.json."""

    rows: tuple[Row, ...]
    tasks: dict[Text, TaskFacts]
    comparisons: tuple[PairTest, ...]
    provenance: dict[Text, Any]


@dataclass(frozen=True)
class Run:
    """All that a run's folder holds.

    Attributes:
        folder: Where it lies.
        provenance: What it was made with.
        tasks: By name, in the order of the run.
        rows: Scores by task and system.
        tests: Paired tests.
        predictions: In the order of the file, the last one of those that stand there twice.
        notes: What a reader must know of the files, in sentences.
    """

    folder: Path
    provenance: dict[Text, Any]
    tasks: dict[Text, TaskFacts]
    rows: tuple[Row, ...]
    tests: tuple[PairTest, ...]
    predictions: tuple[Prediction, ...]
    notes: tuple[Text, ...]

    @property
    def systems(self) -> tuple[str, ...]:
        """Names in the order of the rows, then of the predictions."""
        names = [row.system for row in self.rows] + [entry.system for entry in self.predictions]
        return tuple(dict.fromkeys(names))

    def row(self, task: str, system: str) -> Row | None:
        """The scores of a system on a task."""
        return self._rows.get((task, system))

    def of(self, task: str, system: str) -> tuple[Prediction, ...]:
        """The predictions of a system on a task."""
        return tuple(self._predictions.get((task, system), ()))

    @cached_property
    def _rows(self) -> dict[tuple[str, str], Row]:
        return {(row.task, row.system): row for row in self.rows}

    @cached_property
    def _predictions(self) -> dict[tuple[str, str], list[Prediction]]:
        found: dict[tuple[str, str], list[Prediction]] = {}
        for entry in self.predictions:
            found.setdefault((entry.task, entry.system), []).append(entry)
        return found


def read_run(folder: Path) -> Run:
    """Read the folder of a run.

    Raises:
        FileNotFoundError: If there is no such folder.
        E2LLMError: If it is not the folder of a finished run, or a file is damaged; file and line are named.
            A last line of predictions.jsonl that was only half written is left out, with a note.
    """
    folder = Path(folder)
    if not folder.is_dir():
        if folder.exists():
            raise E2LLMError(f"{folder} is a file; name the folder of a run, which 'e2llm eval -o' makes")
        raise FileNotFoundError(f"no such folder: {folder}; name one that 'e2llm eval -o' made")
    missing = [name for name in (SCORES_NAME, PREDICTIONS_NAME) if not (folder / name).is_file()]
    if len(missing) == 2:
        raise E2LLMError(
            f"{folder} is not the folder of a run: it has neither {SCORES_NAME} nor {PREDICTIONS_NAME}; "
            "name one that 'e2llm eval -o' made"
        )
    if missing:
        raise E2LLMError(
            f"{folder} has no {missing[0]}: the run is not finished; give the same 'e2llm eval' command again"
        )
    scores = _read_scores(folder / SCORES_NAME)
    notes: list[str] = []
    predictions = _read_predictions(folder / PREDICTIONS_NAME, notes)
    notes += _disagreements(scores.rows, predictions)
    return Run(
        folder,
        scores.provenance,
        scores.tasks,
        scores.rows,
        scores.comparisons,
        predictions,
        tuple(notes),
    )


def why_refused(error: ValidationError) -> str:
    """Return the first thing that is wrong with the content of a file, as part of a sentence."""
    first = error.errors()[0]
    *_, name = first["loc"] or ("",)
    return f"it lacks {name!r}" if first["type"] == "missing" else f"{name}: {first['msg']}"


def _read_scores(file: Path) -> Scores:
    try:
        return TypeAdapter(Scores).validate_python(json.loads(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise E2LLMError(
            f"{file} is not the scores of a run: {why_refused(error)}; make it with 'e2llm eval -o'"
        ) from error
    except ValueError as error:
        raise E2LLMError(f"{file} is no JSON: {error}; give the 'e2llm eval' command again") from error


def _read_predictions(file: Path, notes: list[str]) -> tuple[Prediction, ...]:
    found: dict[tuple[str, str, str], Prediction] = {}
    num_repeated = 0
    lines = TypeAdapter(Prediction)
    for number, entry in _lines(file, notes):
        try:
            prediction = lines.validate_python(entry)
        except ValidationError as error:
            raise E2LLMError(
                f"{file}:{number} is not a prediction: {why_refused(error)}; mend or remove the line"
            ) from error
        num_repeated += prediction.key in found
        found[prediction.key] = prediction
    if num_repeated:
        notes.append(
            f"{file.name} holds {num_repeated} item(s) of the same task and system more than once; "
            "the last of each counts."
        )
    return tuple(found.values())


def _lines(file: Path, notes: list[str]) -> Iterator[tuple[int, Any]]:
    """Lines by number; the last one may be broken off, as a kill leaves it."""
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    notes.append(
                        f"The last line of {file.name} (line {number}) was only half written and is left out."
                    )
                    return
                raise E2LLMError(f"{file}:{number} is no JSON: {error}; mend or remove the line") from error
            yield number, entry


def _disagreements(rows: tuple[Row, ...], predictions: tuple[Prediction, ...]) -> list[str]:
    """Where the two files do not speak of the same items."""
    counts: dict[tuple[str, str], int] = {}
    for entry in predictions:
        pair = (entry.task, entry.system)
        counts[pair] = counts.get(pair, 0) + 1
    return [
        f"{SCORES_NAME} counts {row.num_items} item(s) of {row.task} under {row.system}, {PREDICTIONS_NAME} "
        f"holds {counts.get((row.task, row.system), 0)}: they are of different states of the run."
        for row in rows
        if row.num_items != counts.get((row.task, row.system), 0)
    ]
