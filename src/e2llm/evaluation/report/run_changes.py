"""The changes between two runs, item by item: the same task, system, id, context, prompt and references."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from e2llm.evaluation.report.readable import (
    lower_is_better,
    on_one_line,
    readable_interval,
    readable_p_value,
    readable_score,
)
from e2llm.evaluation.report.tables import Table, flat_facts
from e2llm.evaluation.run.predictions import Prediction
from e2llm.evaluation.run.scores import Interval, Run, read_run
from e2llm.evaluation.statistics import FEWEST_CONTEXTS, paired_test

_ROUNDING = 1e-9  # scores that differ by less are the same
_MAX_CHARS = 160  # of an answer
_SHOWN = ("better", "worse", "same")
_COLUMNS = (
    *("task", "system", "metric", *_SHOWN, "other"),
    *("mean A", "mean B", "B - A", "95% interval", "p"),
)


@dataclass(frozen=True)
class ItemChange:
    """One item of one system in both runs, or in one of them.

    Attributes:
        task: Name of the task.
        system: Label of the system.
        id: Name of the item.
        status: `better`, `worse`, `same`, `refused in A`, `refused in B`, `refused in both`, `only in A`,
            `only in B`, or `without a score`.
        score_a: The metric in run A; None without one.
        score_b: The metric in run B; None without one.
        gain: How much better B is, negative if it is worse; None without two scores.
        text_a: The answer in A, or why it was refused; None if it is not in A.
        text_b: The answer in B, or why it was refused; None if it is not in B.
        context_sha256: Checksum of the context.
    """

    task: str
    system: str
    id: str
    status: str
    score_a: float | None
    score_b: float | None
    gain: float | None
    text_a: str | None
    text_b: str | None
    context_sha256: str


@dataclass(frozen=True)
class SystemChange:
    """All items of one system on one task; means, difference and test are over the pairs of scores."""

    task: str
    system: str
    metric: str
    counts: dict[str, int]
    num_pairs: int
    mean_a: float | None = None
    mean_b: float | None = None
    difference: float | None = None
    interval_95: Interval | None = None
    is_interval_trusted: bool = True
    p_value: float | None = None


@dataclass(frozen=True)
class RunChanges:
    """Two runs side by side: settings that differ as (A, B) by name, sums by task and system, and items."""

    folder_a: Path
    folder_b: Path
    settings: dict[str, tuple[str, str]]
    systems: Sequence[SystemChange]
    items: Sequence[ItemChange]

    def most_changed(self, num_items: int) -> list[ItemChange]:
        """Return the items whose scores moved most, relative to the largest move of their task."""
        moved = [item for item in self.items if item.status in ("better", "worse")]
        largest: dict[str, float] = {}
        for item in moved:
            largest[item.task] = max(largest.get(item.task, 0.0), abs(item.gain or 0))
        return sorted(moved, key=lambda item: -abs(item.gain or 0) / largest[item.task])[:num_items]

    def as_json(self) -> dict[str, Any]:
        """Return all of it in plain values."""
        return {**asdict(self), "folder_a": str(self.folder_a), "folder_b": str(self.folder_b)}


def compare_runs(folder_a: Path, folder_b: Path) -> RunChanges:
    """Compare run B with run A, item by item.

    Items with the same name and another context, prompt or reference are different questions: one is only
    in A, the other only in B.

    Raises:
        FileNotFoundError: If a folder does not exist.
        E2LLMError: If one is not the folder of a finished run, or a file is damaged.
    """
    run_a, run_b = read_run(folder_a), read_run(folder_b)
    metrics = {name: facts.metric for run in (run_b, run_a) for name, facts in run.tasks.items()}
    found_a, found_b = (
        {(entry.cell, entry.question): entry for entry in run.predictions} for run in (run_a, run_b)
    )
    by_system: dict[tuple[str, str], list[ItemChange]] = {}
    for key in dict.fromkeys([*found_a, *found_b]):
        task, system, _ = key[0]
        item = _item_change(found_a.get(key), found_b.get(key), metrics[task])
        by_system.setdefault((task, system), []).append(item)
    systems = [_system_change(metrics[task], items) for (task, _), items in by_system.items()]
    items = [item for found in by_system.values() for item in found]
    return RunChanges(folder_a, folder_b, _settings(run_a, run_b), systems, items)


def format_changes(changes: RunChanges, num_items: int = 10) -> str:
    """Return the changes as printable text: settings, a table, and the items that changed most."""
    lines = [f"A: {changes.folder_a}", f"B: {changes.folder_b}", ""]
    lines += ["Settings that differ:" if changes.settings else "All settings are equal."]
    for name, values in changes.settings.items():
        was, now = (on_one_line(value, _MAX_CHARS) for value in values)
        lines.append(f"  {on_one_line(name)}: {was} -> {now}")
    lines += ["", *Table("Changes", _COLUMNS, [_cells(change) for change in changes.systems], 3).lines()]
    if sum(change.p_value is not None for change in changes.systems) > 1:
        lines.append("p is for each line by itself, not corrected for the number of lines.")
    changed = changes.most_changed(num_items)
    lines += ["", "Items that changed most:"] if changed else []
    for item in changed:
        name = on_one_line(f"{item.task}, {item.system}, {item.id}")
        lines.append(
            f"  {item.status}: {name}: {readable_score(item.score_a)} -> {readable_score(item.score_b)}"
        )
        for run, text in (("A", item.text_a), ("B", item.text_b)):
            lines.append(f"    {run}: {on_one_line(text or '', _MAX_CHARS) or '(nothing)'}")
    return "\n".join(lines)


def _settings(run_a: Run, run_b: Run) -> dict[str, tuple[str, str]]:
    facts_a, facts_b = flat_facts(run_a.provenance), flat_facts(run_b.provenance)
    pairs = {name: (facts_a.get(name, "(none)"), facts_b.get(name, "(none)")) for name in facts_a | facts_b}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _item_change(before: Prediction | None, after: Prediction | None, metric: str) -> ItemChange:
    entry = before or after
    assert entry is not None
    score_a, score_b = (found.scores.get(metric) if found else None for found in (before, after))
    text_a, text_b = (None if found is None else found.error or found.prediction for found in (before, after))
    gain = None
    if score_a is not None and score_b is not None and math.isfinite(score_a - score_b):
        gain = score_a - score_b if lower_is_better(metric) else score_b - score_a
    status = _status(before, after, gain)
    named = (entry.task, entry.system, entry.id, status)
    return ItemChange(*named, score_a, score_b, gain, text_a, text_b, entry.context_sha256)


def _status(before: Prediction | None, after: Prediction | None, gain: float | None) -> str:
    if before is None or after is None:
        return "only in B" if before is None else "only in A"
    refused = [name for name, found in (("A", before), ("B", after)) if found.error is not None]
    if refused:
        return "refused in both" if len(refused) == 2 else f"refused in {refused[0]}"
    if gain is None:
        return "without a score"
    if abs(gain) <= _ROUNDING:
        return "same"
    return "better" if gain > 0 else "worse"


def _system_change(metric: str, items: Sequence[ItemChange]) -> SystemChange:
    paired = [item for item in items if item.gain is not None]
    pairs = [(item.score_a or 0.0, item.score_b or 0.0) for item in paired]
    counts = dict(Counter(item.status for item in items))
    figures: dict[str, Any] = {}
    if pairs:
        scores_a, scores_b = zip(*pairs, strict=True)
        test = paired_test(scores_b, scores_a)
        figures = {"mean_a": fmean(scores_a), "mean_b": fmean(scores_b), "difference": test.difference}
        if len(pairs) > 1:
            is_trusted = len({item.context_sha256 for item in paired}) >= FEWEST_CONTEXTS
            figures |= {"interval_95": test.interval_95, "is_interval_trusted": is_trusted}
            figures["p_value"] = test.p_value
    return SystemChange(items[0].task, items[0].system, metric, counts, len(pairs), **figures)


def _cells(change: SystemChange) -> tuple[str, ...]:
    others = ", ".join(f"{count} {status}" for status, count in change.counts.items() if status not in _SHOWN)
    return (
        change.task,
        change.system,
        change.metric + (" (lower is better)" if lower_is_better(change.metric) else ""),
        *(str(change.counts.get(status, 0)) for status in _SHOWN),
        others or "–",
        readable_score(change.mean_a),
        readable_score(change.mean_b),
        readable_score(change.difference, signed=True),
        readable_interval(change.interval_95, signed=True, is_trusted=change.is_interval_trusted) or "–",
        readable_p_value(change.p_value),
    )
