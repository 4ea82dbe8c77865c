"""The sections of a report: tables of scores, costs, breakdowns and tests, and examples of answers."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from e2llm.evaluation.report.readable import (
    group_key,
    lower_is_better,
    natural_key,
    readable_bytes,
    readable_count,
    readable_interval,
    readable_length,
    readable_p_value,
    readable_score,
)
from e2llm.evaluation.run.files import Prediction, Row, Run

SIGNIFICANCE = 0.05  # chosen here, after Holm's correction
NUM_EXAMPLES = 10
_MOST_CHARS = 4000  # of a prompt, an answer or a reference in the examples
_MOST_OPEN_ROWS = 24
_FIRST_GROUPS = ("length_tokens", "depth_percent", "difficulty", "domain")
_GROUP_TITLES = {"length_tokens": "length (decoder tokens)", "depth_percent": "depth (% of the context)"}
_NUM_SOFT_TOKENS = re.compile(r":soft_tokens=(\d+)")

COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "decoder_positions": ("decoder positions", readable_count),
    "context_tokens": ("context tokens given", readable_count),
    "context_fraction": ("context given", lambda value: f"{100 * value:.1f}%"),
    "read_seconds": ("reading (s)", readable_score),
    "first_token_seconds": ("first token (s)", readable_score),
    "ms_per_token": ("ms per token", readable_count),
    "peak_extra_bytes": ("peak extra memory", readable_bytes),
    "new_tokens": ("answer tokens", readable_count),
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The value.
        notes: Smaller lines below it.
        mark: `★` for the best mean, `≈` for one that is not significantly worse.
    """

    text: str
    notes: tuple[str, ...] = ()
    mark: str = ""


Rows = Sequence[Sequence[str | Cell]]


@dataclass(frozen=True)
class Table:
    """Rows under column titles; the first `num_headers` columns name the row."""

    caption: str
    columns: Sequence[str]
    rows: Rows
    num_headers: int = 2
    is_folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A plot as PNG, with the name of its file and its caption."""

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Example:
    """An item of a task with the prediction of each system."""

    task: str
    id: str
    groups: str
    prompt: str
    references: tuple[str, ...]
    answers: tuple[tuple[str, str, str], ...]
    """System, its scores in words (or `refused`), and its answer (or the reason)."""


@dataclass(frozen=True)
class Section:
    """A heading with its text, figures, tables and examples, in this order."""

    name: str
    title: str
    text: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    examples: Sequence[Example] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.figures or self.tables or self.examples)


def scores_section(run: Run) -> Section:
    """Make the table of tasks by systems, and one of all scores."""
    legend = (
        "★ is the best mean of a task, ≈ a system that a paired test does not find significantly worse than "
        f"it (p ≥ {SIGNIFICANCE} after Holm's correction). Below each mean is its 95% interval."
    )
    if any(row.num_refused for row in run.rows):
        legend += (
            " A mean with refused items covers the answered items only, so it gets no mark where others "
            "answered more."
        )
    rows = []
    for task, facts in run.tasks.items():
        marks = standing(run, task)
        direction = "lower is better" if lower_is_better(facts.metric) else ""
        notes = tuple(note for note in (facts.metric, direction, _num_items(run, task)) if note)
        cells = [_score_cell(run.row(task, system), marks.get(system, "")) for system in run.systems]
        rows.append((Cell(task, (", ".join(notes),)), *cells))
    main = Table("Mean score of each system on each task", ("task", *run.systems), rows, num_headers=1)
    every = [
        (row.task, row.system, name, readable_score(value), readable_interval(row.intervals_95.get(name)))
        for row in run.ordered_rows
        for name, value in row.values.items()
    ]
    columns = ("task", "system", "score", "mean", "95% interval")
    others = [Table("All scores", columns, every, is_folded=True)] if len(every) > len(run.rows) else []
    return Section("scores", "Scores", legend, tables=[main, *others])


def standing(run: Run, task: str) -> dict[str, str]:
    """Mark the best systems of a task, and those not significantly worse; nothing if all score the same.

    Only systems that answered all items that any system answered are compared: a mean over fewer items may
    be over the easier ones.
    """
    answered = {
        system: {entry.id for entry in run.of(task, system) if entry.error is None} for system in run.systems
    }
    everything = set().union(*answered.values())
    values = {
        row.system: row.value
        for row in run.rows
        if row.task == task and row.value is not None and math.isfinite(row.value)
        if answered[row.system] == everything
    }
    if len(set(values.values())) < 2:
        return {}
    best = (min if lower_is_better(run.tasks[task].metric) else max)(values.values())
    marks = {system: "★" for system, value in values.items() if value == best}
    leader = next(iter(marks))
    for test in run.comparisons:
        pair = {test.system_a, test.system_b}
        if test.task == task and leader in pair and test.p_holm is not None and test.p_holm >= SIGNIFICANCE:
            for other in pair & set(values):
                marks.setdefault(other, "≈")
    return marks


def _num_items(run: Run, task: str) -> str:
    counts = {row.num_items for row in run.rows if row.task == task}
    if len(counts) > 1:
        return f"{min(counts)} to {max(counts)} items"
    return "".join(f"{count} item{'' if count == 1 else 's'}" for count in counts)


def _score_cell(row: Row | None, mark: str) -> Cell:
    if row is None:
        return Cell("–")
    refused = f"refused {row.num_refused} of {row.num_items}" if row.num_refused else ""
    notes = readable_interval(row.intervals_95.get(row.metric)), refused
    return Cell(readable_score(row.value), tuple(note for note in notes if note), mark)


def families(run: Run, task: str) -> dict[str, list[tuple[int, Row]]]:
    """Group systems that differ in `soft_tokens=K` only: rows by K under the name without it."""
    found: dict[str, list[tuple[int, Row]]] = {}
    for row in run.rows:
        match = _NUM_SOFT_TOKENS.search(row.system)
        if row.task == task and match:
            family = row.system[: match.start()] + row.system[match.end() :]
            found.setdefault(family, []).append((int(match[1]), row))
    return {name: sorted(rows, key=lambda pair: pair[0]) for name, rows in found.items() if len(rows) > 1}


def soft_tokens_section(run: Run, figure: Figure | None) -> Section:
    """Make a table per task and family of systems: the metric by soft tokens per chunk, and by length."""
    tables = []
    for task, facts in run.tasks.items():
        for family, rows in families(run, task).items():
            lengths = sorted(
                {key for _, row in rows for key in row.groups.get("length_tokens", {})}, key=group_key
            )
            cells: Rows = [
                (
                    f"k = {count}",
                    _score_cell(row, ""),
                    *(_group_cell(row, "length_tokens", key) for key in lengths),
                )
                for count, row in rows
            ]
            columns = ("soft tokens", "all items", *(f"at {readable_length(key)}" for key in lengths))
            tables.append(
                Table(f"{task}, {family}: {facts.metric} by soft tokens per chunk", columns, cells, 1)
            )
    figures = [figure] if figure else []
    return Section("soft-tokens", "Scores by soft tokens per chunk", figures=figures, tables=tables)


def breakdown_section(run: Run) -> Section:
    """Make a table per key of the groups: length, depth, difficulty, domain and others."""
    keys = {key for row in run.rows for key in row.groups}
    ordered = [key for key in _FIRST_GROUPS if key in keys] + sorted(keys - set(_FIRST_GROUPS))
    tables = []
    for key in ordered:
        rows = [row for row in run.ordered_rows if row.groups.get(key)]
        values = sorted({value for row in rows for value in row.groups[key]}, key=group_key)
        if values:
            cells: Rows = [
                (row.task, row.system, *(_group_cell(row, key, value) for value in values)) for row in rows
            ]
            titles = [readable_length(value) if key == "length_tokens" else value for value in values]
            caption = f"Score by {_GROUP_TITLES.get(key, key.replace('_', ' '))}"
            columns = ("task", "system", *titles)
            tables.append(Table(caption, columns, cells, is_folded=len(cells) > _MOST_OPEN_ROWS))
    return Section("breakdowns", "Breakdowns", tables=tables)


def _group_cell(row: Row, key: str, value: str) -> Cell:
    score = row.groups.get(key, {}).get(value)
    if score is None:
        return Cell("–")
    note = f"{readable_interval(score.interval)} (n = {score.num_items})"
    return Cell(readable_score(score.value), (note.strip(),))


def cost_section(run: Run) -> Section:
    """Make the table of costs per task and system."""
    names = [name for name in COSTS if any(name in row.cost for row in run.rows)]
    rows = [
        (
            row.task,
            row.system,
            *(COSTS[name][1](row.cost[name]) if name in row.cost else "–" for name in names),
        )
        for row in run.ordered_rows
    ]
    columns = ("task", "system", *(COSTS[name][0] for name in names))
    return Section("cost", "Cost", tables=[Table("Cost of an answer", columns, rows)] if names else [])


def tests_section(run: Run) -> Section:
    """Make the table of paired tests."""
    rows = [
        (
            test.task,
            f"{test.system_a} − {test.system_b}",
            test.metric,
            readable_score(test.difference, signed=True),
            readable_interval(test.interval_95, signed=True),
            readable_p_value(test.p_value),
            readable_p_value(test.p_holm),
            str(test.num_pairs),
        )
        for test in run.comparisons
    ]
    columns = ("task", "systems", "metric", "difference", "95% interval", "p", "p (Holm)", "pairs")
    caption = "Difference of two systems on the items that both answered"
    table = Table(caption, columns, rows, is_folded=len(rows) > _MOST_OPEN_ROWS)
    return Section("tests", "Paired tests", tables=[table] if rows else [])


def provenance_section(run: Run) -> Section:
    """Make the table of the settings, models, versions and machine of the run."""
    rows = list(flat_facts(run.provenance).items())
    table = Table("Settings, model, versions and machine", ("setting", "value"), rows, num_headers=2)
    return Section("provenance", "Provenance", tables=[table])


def flat_facts(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested facts as dotted keys with values as text."""
    flat: dict[str, str] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_facts(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def examples_section(run: Run) -> Section:
    """Take the first ten items of each task by id, numbers in ids by size."""
    examples = []
    for task, facts in run.tasks.items():
        by_id: dict[str, list[Prediction]] = {}
        for system in run.systems:
            for entry in run.of(task, system):
                by_id.setdefault(entry.id, []).append(entry)
        for name in sorted(by_id, key=natural_key)[:NUM_EXAMPLES]:
            first = by_id[name][0]
            examples.append(
                Example(
                    task,
                    name,
                    ", ".join(f"{key} {value}" for key, value in first.groups.items()),
                    shortened(first.prompt),
                    tuple(map(shortened, first.references)),
                    tuple(_answer(entry, facts.metric) for entry in by_id[name]),
                )
            )
    return Section("examples", "Examples", examples=examples)


def _answer(entry: Prediction, metric: str) -> tuple[str, str, str]:
    if entry.error is not None:
        return entry.system, "refused", shortened(entry.error)
    names = sorted(entry.scores, key=lambda name: name != metric)
    scores = ", ".join(f"{name} {readable_score(entry.scores[name])}" for name in names)
    return entry.system, scores, shortened(entry.prediction)


def shortened(text: str) -> str:
    """Return a text, or its beginning and the number of characters left out."""
    if len(text) <= _MOST_CHARS:
        return text
    return f"{text[:_MOST_CHARS]}\n[... {len(text) - _MOST_CHARS:,} more characters]"
