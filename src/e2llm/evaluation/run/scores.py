"""scores.json: means, intervals, costs, breakdowns and paired tests of all predictions of a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean, median
from typing import Any

from pydantic.dataclasses import dataclass

from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Task
from e2llm.evaluation.metrics import g_mean, perplexity
from e2llm.evaluation.run.predictions import PREDICTIONS_NAME, Prediction, Text, read_file, read_predictions
from e2llm.evaluation.statistics import FEWEST_CONTEXTS, bootstrap_interval, holm, paired_test

SCORES_NAME = "scores.json"
MAX_GROUP_VALUES = 16  # a key with more distinct values makes no breakdown

_MEANS = frozenset({"decoder_positions", "context_tokens", "context_fraction", "new_tokens"})
Interval = tuple[float, float]

# Scores of a set of answers that are made of the means of other scores.
SET_SCORES: dict[str, tuple[tuple[str, ...], Callable[..., float]]] = {
    "g_mean": (("rouge_1", "rouge_2", "rouge_l"), g_mean),
    "perplexity": (("loss_nats",), perplexity),
}


@dataclass(frozen=True)
class GroupScore:
    """The metric's mean over the answered items of a group, with its 95% interval; see `Row`."""

    value: float
    interval: Interval | None
    num_items: int
    is_interval_trusted: bool = True


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
        cost: Means of positions and tokens, medians of times and memory, which have outliers.
        groups: The metric by group key and value.
        num_contexts: Different contexts among the items.
        are_intervals_trusted: Whether the answered items have at least ten different contexts.
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
    are_intervals_trusted: bool = True

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
    is_interval_trusted: bool = True


@dataclass(frozen=True)
class TaskFacts:
    """The metric of a task, and one sentence about it."""

    metric: Text
    description: Text
    kind: str = "generate"
    max_new_tokens: int = 0


@dataclass(frozen=True)
class RunScores:
    """The content of scores.json: provenance, tasks by name, scores by task and system, and paired tests."""

    provenance: dict[Text, Any]
    tasks: dict[Text, TaskFacts]
    rows: list[Row]
    comparisons: list[PairTest]


@dataclass(frozen=True)
class Run(RunScores):
    """A finished run: its scores and all predictions."""

    predictions: list[Prediction]

    @property
    def systems(self) -> tuple[str, ...]:
        """Names in the order of the rows."""
        return tuple(dict.fromkeys(row.system for row in self.rows))

    def of(self, task: str, system: str) -> list[Prediction]:
        """Return the predictions of a system on a task."""
        return [entry for entry in self.predictions if (entry.task, entry.system) == (task, system)]


def read_run(folder: Path) -> Run:
    """Read the folder of a finished run.

    Raises:
        FileNotFoundError: If the folder does not exist.
        E2LLMError: If it is not the folder of a finished run, or a file is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}; name one that 'e2llm eval -o' made")
    scores, predictions = folder / SCORES_NAME, folder / PREDICTIONS_NAME
    if not predictions.is_file():
        raise E2LLMError(f"{folder} has no {PREDICTIONS_NAME}; name a folder that 'e2llm eval -o' made")
    if not scores.is_file():
        raise E2LLMError(
            f"{folder} has no {SCORES_NAME}: the run is not finished; repeat its 'e2llm eval' command to "
            "finish it"
        )
    run = Run(**vars(read_file(RunScores, scores)), predictions=list(read_predictions(predictions)))
    for entry in run.predictions:
        if entry.task not in run.tasks:
            raise E2LLMError(
                f"{predictions} has answers to {entry.task[:40]!r}, but {SCORES_NAME} has no such task; "
                "repeat the run's 'e2llm eval' command to score it again"
            )
    return run


def summarize(
    tasks: Sequence[Task], systems: Sequence[str], entries: Sequence[Prediction]
) -> tuple[list[Row], list[PairTest]]:
    """Return the rows and tests of all predictions of a run.

    Intervals are 95% bootstrap intervals that draw the items of one context together; the tests flip the
    signs of these together, too. P values are corrected by Holm's method within each task.

    Args:
        tasks: In the order of the rows.
        systems: Labels, in the order of the rows.
        entries: All predictions of the run.
    """
    found: dict[tuple[str, str], list[Prediction]] = {}
    for entry in entries:
        found.setdefault((entry.task, entry.system), []).append(entry)
    rows: list[Row] = []
    tests: list[PairTest] = []
    for task in tasks:
        present = {system: found[task.name, system] for system in systems if (task.name, system) in found}
        keys = _group_keys([entry for own in present.values() for entry in own])
        rows += [_row(task, system, own, keys) for system, own in present.items()]
        tests += _tests(task, present)
    return rows, tests


def _row(task: Task, system: str, entries: Sequence[Prediction], group_keys: Sequence[str]) -> Row:
    answered = [entry for entry in entries if entry.error is None]
    names = dict.fromkeys(name for entry in answered for name in entry.scores)
    names |= dict.fromkeys(name for name, (parts, _) in SET_SCORES.items() if set(parts) <= set(names))
    figures = {name: _figure(answered, name) for name in names}
    return Row(
        task=task.name,
        system=system,
        metric=task.metric,
        num_items=len(entries),
        num_refused=len(entries) - len(answered),
        values={name: value for name, (value, _) in figures.items()},
        intervals_95={name: interval for name, (_, interval) in figures.items()},
        cost=_cost(answered),
        groups={key: _groups(answered, key, task.metric) for key in group_keys},
        num_contexts=len({entry.context_sha256 for entry in entries}),
        are_intervals_trusted=_has_many_contexts(answered),
    )


def _has_many_contexts(entries: Sequence[Prediction]) -> bool:
    return len({entry.context_sha256 for entry in entries}) >= FEWEST_CONTEXTS


def _figure(entries: Sequence[Prediction], name: str) -> tuple[float, Interval]:
    """Return a score of a set with its interval, over the entries that have it; at least one does."""
    parts, figure = SET_SCORES.get(name, ((name,), float))
    if not any(set(parts) <= set(entry.scores) for entry in entries):  # a task's own score of that name
        parts, figure = (name,), float
    having = [entry for entry in entries if set(parts) <= set(entry.scores)]
    columns = [[entry.scores[part] for entry in having] for part in parts]
    interval = bootstrap_interval(*columns, figure=figure, clusters=[e.context_sha256 for e in having])
    return figure(*map(fmean, columns)), interval


def _cost(answered: Sequence[Prediction]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for entry in answered:
        for name, value in (entry.cost or {}).items():
            found.setdefault(name, []).extend([] if value is None else [value])
    return {
        name: fmean(values) if name in _MEANS else median(values) for name, values in found.items() if values
    }


def _group_keys(entries: Sequence[Prediction]) -> list[str]:
    values: dict[str, set[str]] = {}
    for entry in entries:
        for key, value in entry.groups.items():
            values.setdefault(key, set()).add(str(value))
    return [key for key, found in values.items() if len(found) <= MAX_GROUP_VALUES]


def _groups(answered: Sequence[Prediction], key: str, metric: str) -> dict[str, GroupScore]:
    members: dict[str, list[Prediction]] = {}
    for entry in answered:
        if key in entry.groups and metric in entry.scores:
            members.setdefault(str(entry.groups[key]), []).append(entry)
    return {
        value: GroupScore(*_figure(own, metric), len(own), _has_many_contexts(own))
        for value, own in members.items()
    }


def _tests(task: Task, present: Mapping[str, Sequence[Prediction]]) -> list[PairTest]:
    """Test the metric of each pair of systems on the items that both answered."""
    metric = task.metric
    scored = {
        system: {entry.id: entry for entry in entries if metric in entry.scores}
        for system, entries in present.items()
    }
    tests = []
    for (system_a, found_a), (system_b, found_b) in combinations(scored.items(), 2):
        if shared := [name for name in found_a if name in found_b]:
            test = paired_test(
                [found_a[name].scores[metric] for name in shared],
                [found_b[name].scores[metric] for name in shared],
                clusters=[found_a[name].context_sha256 for name in shared],
            )
            is_trusted = _has_many_contexts([found_a[name] for name in shared])
            tests.append(
                PairTest(
                    task.name,
                    metric,
                    system_a,
                    system_b,
                    p_holm=None,
                    **vars(test),
                    is_interval_trusted=is_trusted,
                )
            )
    corrected = holm([test.p_value for test in tests if test.p_value is not None])
    return [replace(test, p_holm=value) for test, value in zip(tests, corrected, strict=True)]
