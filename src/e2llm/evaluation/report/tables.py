"""The tables of a run: scores, breakdowns, costs, paired tests and provenance, as rows of text.

A cell is text; its first line is the value, further ones are notes. The templates of the report and the
terminal print the same tables.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from e2llm.evaluation.report.readable import (
    group_key,
    lower_is_better,
    on_one_line,
    readable_bytes,
    readable_count,
    readable_interval,
    readable_length,
    readable_p_value,
    readable_score,
)
from e2llm.evaluation.run.scores import Row, Run

SIGNIFICANCE = 0.05  # chosen here, after Holm's correction
_MAX_OPEN_ROWS = 24
_FIRST_GROUPS = ("length_tokens", "depth_percent", "difficulty", "domain")
_GROUP_TITLES = {"length_tokens": "length (decoder tokens)", "depth_percent": "depth (% of the context)"}

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
class Table:
    """Rows under column titles; the first `num_headers` columns name the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_headers: int = 2

    @property
    def is_folded(self) -> bool:
        """Whether a page shows the table when asked only, since it is long."""
        return len(self.rows) > _MAX_OPEN_ROWS

    def lines(self) -> list[str]:
        """Return the columns and rows for a terminal: printable text, numbers to the right."""
        printable = [[on_one_line(cell) for cell in row] for row in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*printable, strict=True)]
        return [
            "  ".join(
                cell.ljust(width) if place < self.num_headers else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in printable
        ]


def cell(*lines: str) -> str:
    """Return a cell of a value and its notes; empty notes are left out."""
    return "\n".join(line for line in lines if line)


def format_scores(scores: Mapping[str, Any]) -> str:
    """Return the content of scores.json for a terminal: a line per task and system, and the notes."""
    rows = []
    for row in TypeAdapter(list[Row]).validate_python(scores["rows"]):
        refused = f" ({row.num_refused} refused)" if row.num_refused else ""
        positions = row.cost.get("decoder_positions")
        rows.append(
            (
                row.task,
                row.system,
                f"{row.num_items}{refused}",
                row.metric + (" (lower is better)" if lower_is_better(row.metric) else ""),
                readable_score(row.value),
                _interval(row, row.metric) or "–",
                "–" if positions is None else readable_count(positions),
                readable_score(row.cost.get("first_token_seconds")),
            )
        )
    columns = ("task", "system", "n", "metric", "mean", "95% interval", "positions", "first token (s)")
    notes = [f"Note: {on_one_line(note)}" for note in scores["provenance"].get("notes", [])]
    return "\n".join([*Table("Scores", columns, rows).lines(), *notes])


def score_tables(run: Run) -> list[Table]:
    """Return the means of tasks by systems, and all scores where a task has several."""
    found = {(row.task, row.system): row for row in run.rows}
    rows = []
    for task, facts in run.tasks.items():
        marks = standing(run, task)
        counts = sorted({row.num_items for row in run.rows if row.task == task})
        num_items = " to ".join(map(str, counts)) + (" item" if counts == [1] else " items")
        notes = [facts.metric, "lower is better" if lower_is_better(facts.metric) else "", num_items]
        cells = [_score_cell(found.get((task, system)), marks.get(system, "")) for system in run.systems]
        rows.append((cell(task, ", ".join(note for note in notes if note)), *cells))
    tables = [Table("Mean score of each system on each task", ("task", *run.systems), rows, num_headers=1)]
    every = [
        (row.task, row.system, name, readable_score(value), _interval(row, name))
        for row in run.rows
        for name, value in row.values.items()
    ]
    if len(every) > len(run.rows):
        tables.append(Table("All scores", ("task", "system", "score", "mean", "95% interval"), every))
    return tables


def standing(run: Run, task: str) -> dict[str, str]:
    """Mark the best systems of a task by ★, those not significantly worse by ≈; nothing if all are equal.

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


def _score_cell(row: Row | None, mark: str) -> str:
    if row is None:
        return "–"
    refused = f"refused {row.num_refused} of {row.num_items}" if row.num_refused else ""
    value = f"{readable_score(row.value)} {mark}".strip()
    return cell(value, _interval(row, row.metric), refused)


def _interval(row: Row, name: str) -> str:
    return readable_interval(row.intervals_95.get(name), is_trusted=row.are_intervals_trusted)


def breakdown_tables(run: Run) -> list[Table]:
    """Return a table per key of the groups: length, depth, difficulty, domain and others."""
    keys = {key for row in run.rows for key in row.groups}
    tables = []
    for key in [*(key for key in _FIRST_GROUPS if key in keys), *sorted(keys - set(_FIRST_GROUPS))]:
        rows = [row for row in run.rows if row.groups.get(key)]
        values = sorted({value for row in rows for value in row.groups[key]}, key=group_key)
        if values:
            titles = [readable_length(value) if key == "length_tokens" else value for value in values]
            cells = [
                (row.task, row.system, *(_group_cell(row, key, value) for value in values)) for row in rows
            ]
            caption = f"Score by {_GROUP_TITLES.get(key, key.replace('_', ' '))}"
            tables.append(Table(caption, ("task", "system", *titles), cells))
    return tables


def _group_cell(row: Row, key: str, value: str) -> str:
    score = row.groups[key].get(value)
    if score is None:
        return "–"
    interval = readable_interval(score.interval, is_trusted=score.is_interval_trusted)
    return cell(readable_score(score.value), f"{interval} (n = {score.num_items})".strip())


def cost_table(run: Run) -> Table:
    """Return the costs per task and system."""
    names = [name for name in COSTS if any(name in row.cost for row in run.rows)]
    rows = [
        (
            row.task,
            row.system,
            *(COSTS[name][1](row.cost[name]) if name in row.cost else "–" for name in names),
        )
        for row in run.rows
        if names
    ]
    return Table("Cost of an answer", ("task", "system", *(COSTS[name][0] for name in names)), rows)


def pair_test_table(run: Run) -> Table:
    """Return the paired tests."""
    rows = [
        (
            test.task,
            f"{test.system_a} − {test.system_b}",
            test.metric,
            readable_score(test.difference, signed=True),
            readable_interval(test.interval_95, signed=True, is_trusted=test.is_interval_trusted),
            readable_p_value(test.p_value),
            readable_p_value(test.p_holm),
            str(test.num_pairs),
        )
        for test in run.comparisons
    ]
    columns = ("task", "systems", "metric", "difference", "95% interval", "p", "p (Holm)", "pairs")
    return Table("Difference of two systems on the items that both answered", columns, rows)


def provenance_table(run: Run) -> Table:
    """Return the settings, models, versions and machine of the run."""
    rows = list(flat_facts(run.provenance).items())
    return Table("Settings, model, versions and machine", ("setting", "value"), rows)


def flat_facts(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested facts as dotted keys with values as text."""
    flat: dict[str, str] = {}
    for key, value in facts.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_facts(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat
