"""What changed from one run to another, item by item: the same task, system, id, context and prompt."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from e2llm.evaluation.readable import lower_is_better
from e2llm.evaluation.report_tables import flat_facts
from e2llm.evaluation.run_files import Prediction, Run, read_run

Status = Literal[
    "better",
    "worse",
    "same",
    "refused in B",
    "refused in A",
    "refused in both",
    "without a score",
    "only in A",
    "only in B",
]

_SETTINGS_OF_WEIGHT = ("model", "model_sha256", "budget", "seed")
_ROUNDING = 1e-9  # scores that differ by less are the same


@dataclass(frozen=True)
class SettingChange:
    """A fact of provenance that differs; None where a run does not have it."""

    name: str
    value_a: str | None
    value_b: str | None


@dataclass(frozen=True)
class ItemChange:
    """One item of one system in both runs, or in one of them.

    Attributes:
        task: Its task.
        system: Who answered.
        id: Of the item.
        status: What happened to it.
        score_a: The metric in run A; None without one.
        score_b: The metric in run B; None without one.
        gain: How much better B is, negative if it is worse; None without two scores.
        text_a: The answer in A, or why it was refused; None if it is not in A.
        text_b: The answer in B, or why it was refused; None if it is not in B.
    """

    task: str
    system: str
    id: str
    status: Status
    score_a: float | None
    score_b: float | None
    gain: float | None
    text_a: str | None
    text_b: str | None

    @property
    def is_reworded(self) -> bool:
        """Whether both runs have it, with different words."""
        return None not in (self.text_a, self.text_b) and self.text_a != self.text_b


@dataclass(frozen=True)
class SystemChange:
    """All items of one system on one task.

    Attributes:
        task: The task.
        system: The system.
        metric: What is compared.
        counts: Items by status; only those that there are.
        num_reworded: Items of the same score whose answers differ.
        num_pairs: Items with a score in both runs; the means are over these.
        mean_a: Mean of the metric in A; None without a pair.
        mean_b: Mean of the metric in B; None without a pair.
        difference: `mean_b - mean_a`; None without a pair.
        interval_95: Of the difference, paired; None with fewer than two pairs.
        p_value: Of the paired test; None with fewer than two pairs.
    """

    task: str
    system: str
    metric: str
    counts: Mapping[Status, int]
    num_reworded: int
    num_pairs: int
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    interval_95: tuple[float, float] | None
    p_value: float | None


@dataclass(frozen=True)
class RunComparison:
    """Two runs side by side.

    Attributes:
        folder_a: The earlier or reference run.
        folder_b: The run that is held against it.
        notes: What a reader must know first, in sentences.
        settings: Facts of provenance that differ.
        systems: Counts and means by task and system.
        items: Every item of either run.
    """

    folder_a: Path
    folder_b: Path
    notes: tuple[str, ...]
    settings: tuple[SettingChange, ...]
    systems: tuple[SystemChange, ...]
    items: tuple[ItemChange, ...]

    def most_changed(self, num_items: int) -> list[ItemChange]:
        """The items whose scores moved most, in either direction; those of equal size in the runs' order.

        A score's size is seen against the largest change of its task, as tasks have different metrics.
        """
        moved = [item for item in self.items if item.gain and math.isfinite(item.gain)]
        largest: dict[str, float] = {}
        for item in moved:
            largest[item.task] = max(largest.get(item.task, 0.0), _size(item))
        moved = [item for item in moved if item.status in ("better", "worse")]
        return sorted(moved, key=lambda item: -_size(item) / largest[item.task])[:num_items]

    def as_json(self) -> dict[str, Any]:
        """All of it in plain values."""
        content = asdict(self)
        return {**content, "folder_a": str(self.folder_a), "folder_b": str(self.folder_b)}


def compare_runs(folder_a: Path, folder_b: Path) -> RunComparison:
    """Compare two runs item by item.

    An item of both runs has the same task, system, id, context and prompt; what differs in context or prompt
    is another question, counted as only in A and only in B, and said in the notes.

    Args:
        folder_a: Of the earlier or reference run.
        folder_b: Of the run that is held against it.

    Raises:
        FileNotFoundError: If a folder does not exist.
        E2LLMError: If one is not the folder of a finished run, or a file is damaged.
    """
    run_a, run_b = read_run(folder_a), read_run(folder_b)
    metrics = {name: facts.metric for run in (run_b, run_a) for name, facts in run.tasks.items()}
    items = _item_changes(run_a, run_b, metrics)
    by_system: dict[tuple[str, str], list[ItemChange]] = {}
    for item in items:
        by_system.setdefault((item.task, item.system), []).append(item)
    systems = [
        _system_change(task, system, metrics[task], found) for (task, system), found in by_system.items()
    ]
    settings = _setting_changes(run_a.provenance, run_b.provenance)
    notes = [*_file_notes("A", run_a), *_file_notes("B", run_b), *_notes(run_a, run_b, items, settings)]
    return RunComparison(
        run_a.folder, run_b.folder, tuple(notes), tuple(settings), tuple(systems), tuple(items)
    )


def _item_changes(run_a: Run, run_b: Run, metrics: Mapping[str, str]) -> list[ItemChange]:
    """All items by task and system in the order of A, then what only B has."""
    found_a = {_question(entry): entry for entry in run_a.predictions}
    found_b = {_question(entry): entry for entry in run_b.predictions}
    order: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for question in {**found_a, **found_b}:
        order.setdefault((question[0], question[1]), []).append(question)
    return [
        _item_change(found_a.get(question), found_b.get(question), metrics.get(task, ""))
        for (task, _), questions in order.items()
        for question in questions
    ]


def _question(entry: Prediction) -> tuple[str, ...]:
    return entry.task, entry.system, entry.id, entry.context_sha256, entry.prompt


def _item_change(before: Prediction | None, after: Prediction | None, metric: str) -> ItemChange:
    entry = before or after
    assert entry is not None
    score_a, score_b = (None if found is None else found.scores.get(metric) for found in (before, after))
    gain = None
    if score_a is not None and score_b is not None:
        gain = score_a - score_b if lower_is_better(metric) else score_b - score_a
    text_a, text_b = (
        None if found is None else found.text if found.error is None else found.error
        for found in (before, after)
    )
    status = _status(before, after, gain)
    return ItemChange(entry.task, entry.system, entry.id, status, score_a, score_b, gain, text_a, text_b)


def _status(before: Prediction | None, after: Prediction | None, gain: float | None) -> Status:
    if before is None or after is None:
        return "only in B" if before is None else "only in A"
    if before.error is not None or after.error is not None:
        if before.error is not None and after.error is not None:
            return "refused in both"
        return "refused in B" if before.error is None else "refused in A"
    if gain is None or not math.isfinite(gain):
        return "without a score"
    if abs(gain) <= _ROUNDING:
        return "same"
    return "better" if gain > 0 else "worse"


def _system_change(task: str, system: str, metric: str, items: Sequence[ItemChange]) -> SystemChange:
    counts: dict[Status, int] = {}
    for item in items:
        counts[item.status] = counts.get(item.status, 0) + 1
    pairs = [
        (item.score_a, item.score_b)
        for item in items
        if item.score_a is not None and item.score_b is not None and item.status != "without a score"
    ]
    scores_a, scores_b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    mean_a, mean_b = _mean(scores_a), _mean(scores_b)
    interval, p_value = _test(scores_a, scores_b)
    return SystemChange(
        task,
        system,
        metric,
        counts,
        sum(item.status == "same" and item.is_reworded for item in items),
        len(pairs),
        mean_a,
        mean_b,
        None if mean_a is None or mean_b is None else mean_b - mean_a,
        interval,
        p_value,
    )


def _mean(scores: Sequence[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None


def _test(
    scores_a: Sequence[float], scores_b: Sequence[float]
) -> tuple[tuple[float, float] | None, float | None]:
    """Interval and p-value of `B - A`; nothing for fewer than two pairs."""
    if len(scores_a) < 2:
        return None, None
    from e2llm.evaluation.statistics import paired_test

    test = paired_test(scores_b, scores_a)
    low, high = test.interval_95
    return (low, high), test.p_value


def _setting_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[SettingChange]:
    facts_a, facts_b = flat_facts(before), flat_facts(after)
    return [
        SettingChange(name, facts_a.get(name), facts_b.get(name))
        for name in {**facts_a, **facts_b}
        if facts_a.get(name) != facts_b.get(name)
    ]


def _file_notes(name: str, run: Run) -> list[str]:
    return [f"Run {name}: {note}" for note in run.notes]


def _notes(
    run_a: Run, run_b: Run, items: Iterable[ItemChange], settings: Iterable[SettingChange]
) -> list[str]:
    notes = []
    weighty = [change.name for change in settings if change.name in _SETTINGS_OF_WEIGHT]
    if weighty:
        notes.append(
            f"The runs have unequal settings ({', '.join(weighty)}): what changed may come from them."
        )
    keys_b = {entry.key: _question(entry) for entry in run_b.predictions}
    others = sum(keys_b.get(entry.key, _question(entry)) != _question(entry) for entry in run_a.predictions)
    if others:
        notes.append(
            f"{others} item(s) have the same id in both runs but another context or prompt; they are other "
            "questions and are not compared."
        )
    for task in run_a.tasks:
        metric_a, metric_b = run_a.tasks[task].metric, run_b.tasks.get(task, run_a.tasks[task]).metric
        if metric_a != metric_b:
            notes.append(
                f"{task} has the metric {metric_a} in A and {metric_b} in B; {metric_a} is compared."
            )
    if not any(not item.status.startswith("only") for item in items):
        notes.append("The runs have no item in common.")
    return notes


def _size(item: ItemChange) -> float:
    return abs(item.gain or 0.0)
