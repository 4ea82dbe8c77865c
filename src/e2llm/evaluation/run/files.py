"""The files of a run: predictions.jsonl and scores.json as models, reading both, and writing predictions."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO, TypeVar

from filelock import FileLock, Timeout
from pydantic import PlainValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from e2llm.errors import E2LLMError
from e2llm.files import sync

PREDICTIONS_NAME = "predictions.jsonl"
SCORES_NAME = "scores.json"

Text = Annotated[str, PlainValidator(str)]
"""Any text; pydantic's own check refuses half of a surrogate pair, which an answer may hold."""
Interval = tuple[float, float]
Cell = tuple[str, str, str]
"""Task, system and item."""
Model = TypeVar("Model")


@dataclass(frozen=True)
class Prediction:
    """The answer of one system to one item: a line of predictions.jsonl (docs/evaluation.md)."""

    task: Text
    system: Text
    id: Text
    prompt: Text
    context_sha256: str
    references: list[Text]
    groups: dict[Text, Any] = field(default_factory=dict)
    prediction: Text = ""
    scores: dict[Text, float] = field(default_factory=dict)
    likelihoods: list[dict[str, float]] = field(default_factory=list)
    cost: dict[str, Any] | None = None
    given: dict[str, Any] | None = None
    error: Text | None = None

    @property
    def cell(self) -> Cell:
        """Task, system and item."""
        return self.task, self.system, self.id

    @property
    def question(self) -> tuple[str, str, tuple[str, ...]]:
        """Context, prompt and references: two predictions answer the same question if these are equal."""
        return self.context_sha256, self.prompt, tuple(self.references)


@dataclass(frozen=True)
class GroupScore:
    """The metric's mean over the answered items of a group, with its 95% interval."""

    value: float
    interval: Interval | None
    num_items: int


@dataclass(frozen=True)
class Row:
    """The scores of one system on one task.

    Attributes:
        task: Name of the task.
        system: Name of the system.
        metric: Score that tables and tests use.
        num_items: Items asked, refused ones included.
        num_refused: Items without an answer; the means are over the others.
        values: Means by score name; empty if all items were refused.
        intervals_95: 95% intervals by score name.
        cost: Mean or median costs by name.
        groups: The metric by group key and value.
        num_contexts: Different contexts among the items.
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
    num_contexts: int = 0

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
    """The metric of a task, and one sentence about it."""

    metric: Text
    description: Text
    kind: str = "generate"
    max_new_tokens: int = 0


@dataclass(frozen=True)
class Scores:
    """The content of scores.json: provenance, tasks by name, scores by task and system, and paired tests."""

    provenance: dict[Text, Any]
    tasks: dict[Text, TaskFacts]
    rows: list[Row]
    comparisons: list[PairTest]


@dataclass(frozen=True)
class Run(Scores):
    """A finished run: its scores and all predictions."""

    predictions: list[Prediction]

    @property
    def systems(self) -> tuple[str, ...]:
        """Names in the order of the rows."""
        return tuple(dict.fromkeys(row.system for row in self.rows))

    @property
    def ordered_rows(self) -> list[Row]:
        """Rows in the order of the tasks and systems."""
        return [row for task in self.tasks for system in self.systems if (row := self.row(task, system))]

    def row(self, task: str, system: str) -> Row | None:
        """Return the scores of a system on a task."""
        return next((row for row in self.rows if (row.task, row.system) == (task, system)), None)

    def of(self, task: str, system: str) -> list[Prediction]:
        """Return the predictions of a system on a task."""
        return self._predictions.get((task, system), [])

    @cached_property
    def _predictions(self) -> dict[tuple[str, str], list[Prediction]]:
        found: dict[tuple[str, str], list[Prediction]] = {}
        for entry in self.predictions:
            found.setdefault((entry.task, entry.system), []).append(entry)
        return found


def read_run(folder: Path) -> Run:
    """Read the folder of a finished run.

    Raises:
        FileNotFoundError: If there is no such folder.
        E2LLMError: If it is not the folder of a finished run, or a file is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}; name one that 'e2llm eval -o' made")
    scores, predictions = folder / SCORES_NAME, folder / PREDICTIONS_NAME
    if not predictions.is_file():
        raise E2LLMError(f"{folder} has no {PREDICTIONS_NAME}; name a folder that 'e2llm eval -o' made")
    if not scores.is_file():
        raise E2LLMError(
            f"{folder} has no {SCORES_NAME}: the run is not finished; give its 'e2llm eval' command again"
        )
    return Run(**vars(read_json(Scores, scores)), predictions=list(read_predictions(predictions)))


def read_json(kind: type[Model], file: Path) -> Model:
    """Read a JSON file of a run.

    Raises:
        E2LLMError: If it is no JSON, or lacks something; the first thing that is wrong is named.
    """
    try:
        return TypeAdapter(kind).validate_python(json.loads(file.read_bytes()))
    except ValueError as error:
        raise E2LLMError(
            f"{file} is damaged ({_reason(error)}); bring the file back, or name another folder"
        ) from error


def read_predictions(file: Path) -> Iterator[Prediction]:
    """Read predictions.jsonl; a last line without its end, as a killed run leaves it, is left out.

    Raises:
        E2LLMError: If another line is damaged; it is named.
    """
    adapter = TypeAdapter(Prediction)
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield adapter.validate_python(json.loads(line))
            except ValueError as error:
                raise E2LLMError(
                    f"{file}:{number} is not a prediction ({_reason(error)}); remove the line, and a resumed "
                    "run answers its item again"
                ) from error


def _reason(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    *_, name = first["loc"] or ("",)
    return f"it lacks {name!r}" if first["type"] == "missing" else f"{name}: {first['msg']}"


class PredictionFile:
    """The predictions of a run, to be used in a `with` block, in which no other process may open them.

    A last line without its end, as a killed run leaves it, is cut off.

    Args:
        folder: Folder of the run; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / PREDICTIONS_NAME
        self._lock = FileLock(folder / ".lock")
        self._questions: dict[Cell, tuple[str, str, tuple[str, ...]]] = {}
        self._stream: BinaryIO

    def __enter__(self) -> "PredictionFile":
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            raise E2LLMError(
                f"{self.file} is in use by another process; wait for it, or name another folder with -o"
            ) from error
        try:
            self._stream = self.file.open("a+b")
            _cut_off_half_a_line(self._stream)
            self._questions = {entry.cell: entry.question for entry in self.entries()}
            sync(self.file.parent)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._lock.release()

    def holds(self, asked: Prediction) -> bool:
        """Whether the answer to what is asked is in the file.

        Args:
            asked: The prediction that would be made, without its answer.

        Raises:
            E2LLMError: If there is an answer to another question under the same name: the data changed.
        """
        found = self._questions.get(asked.cell)
        if found is not None and found != asked.question:
            raise E2LLMError(
                f"{self.file} holds an answer to {asked.task}, item {asked.id}, with another context, prompt "
                "or reference: the data or the code that makes items changed; name another folder with -o"
            )
        return found is not None

    def add(self, entry: Prediction) -> None:
        """Write a prediction; it is on disk when this returns."""
        line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
        self._stream.write(line.encode("utf-8", "surrogatepass"))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._questions[entry.cell] = entry.question

    def entries(self) -> list[Prediction]:
        """Read all predictions.

        Raises:
            E2LLMError: If a line is damaged; it is named.
        """
        return list(read_predictions(self.file))


def _cut_off_half_a_line(stream: BinaryIO) -> None:
    """Shorten the file to its last line end; an answer whose line has none was not written whole."""
    size = end = stream.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        stream.seek(start)
        place = stream.read(end - start).rfind(b"\n")
        if place >= 0:
            end = start + place + 1
            break
        end = start
    if end < size:
        stream.truncate(end)
