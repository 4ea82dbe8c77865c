"""A run of the evaluation as its folder holds it, read and checked: scores.json and predictions.jsonl."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from e2llm.errors import E2LLMError

PREDICTIONS_NAME = "predictions.jsonl"
SCORES_NAME = "scores.json"


@dataclass(frozen=True)
class Prediction:
    """What one system said to one item.

    Attributes:
        system: Name of the system.
        task: Name of the task.
        id: Of the item.
        prompt: What was asked.
        context_sha256: Hash of the context that it was asked of.
        text: The answer; empty for a refused item.
        references: What is right.
        scores: By name; empty for a refused item.
        groups: What scores are broken down by.
        error: Why the system refused the item; None for an answer.
    """

    system: str
    task: str
    id: str
    prompt: str
    context_sha256: str
    text: str
    references: tuple[str, ...]
    scores: Mapping[str, float]
    groups: Mapping[str, str | int | float]
    error: str | None

    @property
    def key(self) -> tuple[str, str, str]:
        """Task, system and item."""
        return self.task, self.system, self.id


@dataclass(frozen=True)
class GroupScore:
    """The metric's mean over the items of a group, with its 95% interval and the number of answered items."""

    value: float
    interval: tuple[float, float] | None
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

    task: str
    system: str
    metric: str
    num_items: int
    num_refused: int
    values: Mapping[str, float]
    intervals_95: Mapping[str, tuple[float, float]]
    cost: Mapping[str, float]
    groups: Mapping[str, Mapping[str, GroupScore]]

    @property
    def value(self) -> float | None:
        """The metric's mean; None without an answered item."""
        return self.values.get(self.metric)


@dataclass(frozen=True)
class PairTest:
    """A paired test of two systems on the items that both answered."""

    task: str
    metric: str
    system_a: str
    system_b: str
    difference: float
    interval_95: tuple[float, float] | None
    p_value: float | None
    p_holm: float | None
    num_pairs: int


@dataclass(frozen=True)
class TaskFacts:
    """A task of a run: its metric and one sentence on it."""

    metric: str
    description: str


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
    provenance: Mapping[str, Any]
    tasks: Mapping[str, TaskFacts]
    rows: tuple[Row, ...]
    tests: tuple[PairTest, ...]
    predictions: tuple[Prediction, ...]
    notes: tuple[str, ...]

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
    rows = tuple(scores["rows"])
    notes += _disagreements(rows, predictions)
    return Run(
        folder, scores["provenance"], scores["tasks"], rows, tuple(scores["tests"]), predictions, tuple(notes)
    )


def _read_scores(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise E2LLMError(f"{file} is no JSON: {error}; give the 'e2llm eval' command again") from error
    try:
        rows = [_row(row) for row in content["rows"]]
        facts = {
            name: TaskFacts(str(task["metric"]), str(task.get("description") or ""))
            for name, task in content["tasks"].items()
        }
        for row in rows:
            facts.setdefault(row.task, TaskFacts(row.metric, ""))
        tests = [_pair_test(test) for test in content.get("comparisons") or []]
        return {"provenance": dict(content["provenance"]), "tasks": facts, "rows": rows, "tests": tests}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise E2LLMError(
            f"{file} is not the scores of a run: {what}; make it with 'e2llm eval -o'"
        ) from error


def _row(row: Mapping[str, Any]) -> Row:
    groups = {
        key: {
            str(name): GroupScore(float(of["value"]), _interval(of.get("interval")), int(of["num_items"]))
            for name, of in values.items()
            if of["value"] is not None
        }
        for key, values in (row.get("groups") or {}).items()
    }
    intervals = {name: _interval(pair) for name, pair in (row.get("intervals_95") or {}).items()}
    return Row(
        str(row["task"]),
        str(row["system"]),
        str(row["metric"]),
        int(row["num_items"]),
        int(row.get("num_refused") or 0),
        _numbers(row["values"]),
        {name: pair for name, pair in intervals.items() if pair is not None},
        _numbers(row.get("cost") or {}),
        groups,
    )


def _pair_test(test: Mapping[str, Any]) -> PairTest:
    p_value, p_holm = test.get("p_value"), test.get("p_holm")
    return PairTest(
        str(test["task"]),
        str(test["metric"]),
        str(test["system_a"]),
        str(test["system_b"]),
        float(test["difference"]),
        _interval(test.get("interval_95")),
        None if p_value is None else float(p_value),
        None if p_holm is None else float(p_holm),
        int(test["num_pairs"]),
    )


def _interval(pair: Any) -> tuple[float, float] | None:
    if pair is None:
        return None
    low, high = pair
    return None if low is None or high is None else (float(low), float(high))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that are there."""
    return {name: float(value) for name, value in values.items() if value is not None}


def _read_predictions(file: Path, notes: list[str]) -> tuple[Prediction, ...]:
    found: dict[tuple[str, str, str], Prediction] = {}
    num_repeated = 0
    for number, entry in _lines(file, notes):
        try:
            prediction = _prediction(entry)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise E2LLMError(
                f"{file}:{number} is not a prediction: {what}; mend or remove the line"
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


def _prediction(entry: Mapping[str, Any]) -> Prediction:
    error = entry.get("error")
    return Prediction(
        str(entry["system"]),
        str(entry["task"]),
        str(entry["id"]),
        str(entry["prompt"]),
        str(entry["context_sha256"]),
        str(entry.get("prediction") or ""),
        tuple(map(str, entry.get("references") or ())),
        {} if error is not None else _numbers(entry["scores"]),
        dict(entry.get("groups") or {}),
        None if error is None else str(error) or "refused",
    )


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
