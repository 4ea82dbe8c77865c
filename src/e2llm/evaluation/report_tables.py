"""Tables of a run: scores, cost, breakdowns, paired tests, provenance."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from e2llm.evaluation.metrics import perplexity
from e2llm.evaluation.readable import (
    group_key,
    lower_is_better,
    readable_bytes,
    readable_count,
    readable_interval,
    readable_length,
    readable_p_value,
    readable_score,
)
from e2llm.evaluation.report_blocks import Block, Cell, Mark, Paragraph, Section, Table
from e2llm.evaluation.run_files import Prediction, Row, Run

SIGNIFICANCE = 0.05  # chosen here, after Holm's correction

_FIRST_GROUP_KEYS = ("length_tokens", "depth_percent", "difficulty", "domain")
_MOST_GROUP_VALUES = 16  # more of them are no table
_MOST_OPEN_ROWS = 24
_RATE = re.compile(r"(?<![a-z_])(?:soft_tokens|k)=(\d+)")

COST_NAMES: dict[str, tuple[str, Callable[[float], str]]] = {
    "decoder_positions": ("decoder positions", readable_count),
    "context_tokens": ("context tokens given", readable_count),
    "context_fraction": ("context given", lambda value: f"{100 * value:.1f}%"),
    "read_seconds": ("reading (s)", readable_score),
    "first_token_seconds": ("first token (s)", readable_score),
    "ms_per_token": ("ms per token", readable_count),
    "peak_extra_bytes": ("peak extra memory", readable_bytes),
    "new_tokens": ("answer tokens", readable_count),
}


def scores_section(run: Run) -> Section:
    """Every task under every system, with standings."""
    legend = (
        "★ is the best mean of a task, ≈ a system that a paired test does not find significantly worse than "
        f"it (p ≥ {SIGNIFICANCE} after Holm's correction). Below each mean is its 95% interval. "
    )
    if any(row.num_refused for row in run.rows):
        legend += (
            "A mean with refused items is of the answered items only, so it takes no part in the standing "
            "where others answered more."
        )
    blocks: list[Block] = [Paragraph(legend.strip()), main_table(run), *_all_scores(run)]
    return Section("scores", "Scores", tuple(blocks))


def main_table(run: Run) -> Table:
    """Tasks by systems: the metric, its interval, refused items, and who is best."""
    systems = run.systems
    standings = {task: standing(run, task) for task in run.tasks}
    rows = []
    for task, facts in run.tasks.items():
        direction = ", lower is better" if lower_is_better(facts.metric) else ""
        header = Cell(task, f"{facts.metric}{direction}{_items_in_words(run, task)}")
        cells = [_score_cell(run.row(task, system), standings[task].get(system, "")) for system in systems]
        rows.append((header, *cells))
    footer: tuple[Cell, ...] = ()
    if len(run.tasks) > 1 and len(systems) > 1:
        counts_at_top = [sum(system in standings[task] for task in run.tasks) for system in systems]
        footer = (Cell("★ or ≈"), *(Cell(f"{count} of {len(run.tasks)}") for count in counts_at_top))
    return Table("Mean score of each system on each task", ("task", *systems), tuple(rows), footer=footer)


def _items_in_words(run: Run, task: str) -> str:
    counts = {row.num_items for row in run.rows if row.task == task}
    if len(counts) > 1:
        return f", {min(counts)} to {max(counts)} items"
    return "".join(f", {count} item{'' if count == 1 else 's'}" for count in counts)


def standing(run: Run, task: str) -> dict[str, Mark]:
    """The best systems of a task and those not significantly worse; nothing for one system, or equal ones.

    Only systems that answered all items that any system answered are compared: a mean over fewer items may
    be of the easier ones.
    """
    answered = {
        system: {entry.id for entry in run.of(task, system) if entry.error is None} for system in run.systems
    }
    everything = set().union(*answered.values())
    values = {
        row.system: row.value
        for row in run.rows
        if row.task == task and row.value is not None and math.isfinite(row.value)
        if answered.get(row.system) == everything
    }
    if len(set(values.values())) < 2:  # one system, or none that is better than another
        return {}
    best = (min if lower_is_better(run.tasks[task].metric) else max)(values.values())
    marks: dict[str, Mark] = {system: "best" for system, value in values.items() if value == best}
    leader = next(iter(marks))
    for test in run.tests:
        pair = {test.system_a, test.system_b}
        if test.task == task and leader in pair and test.p_holm is not None:
            other = next(iter(pair - {leader}), leader)
            if other in values and test.p_holm >= SIGNIFICANCE:
                marks.setdefault(other, "near")
    return marks


def _score_cell(row: Row | None, mark: Mark = "") -> Cell:
    if row is None:
        return Cell("–")
    refused = f"refused {row.num_refused} of {row.num_items}" if row.num_refused else ""
    interval = readable_interval(row.intervals_95.get(row.metric))
    return Cell(readable_score(row.value), interval, refused, mark)


def _all_scores(run: Run) -> list[Table]:
    """The scores beside the metric, where there are any."""
    rows = []
    for row in _by_task(run):
        intervals = _intervals_with_perplexity(row)
        for name, value in _with_perplexity(row.values).items():
            cells = Cell(name), Cell(readable_score(value)), Cell(readable_interval(intervals.get(name)))
            rows.append((Cell(row.task), Cell(row.system), *cells))
    if len(rows) <= len(run.rows):
        return []
    columns = ("task", "system", "score", "mean", "95% interval")
    return [Table("All scores, also those beside the metric", columns, tuple(rows), 2, folded=True)]


def _with_perplexity(values: Mapping[str, float]) -> dict[str, float]:
    """The values, and the perplexity where there is a loss: the exponential of the mean loss."""
    if "loss_nats" not in values or "perplexity" in values:
        return dict(values)
    return {**values, "perplexity": perplexity(values["loss_nats"])}


def _intervals_with_perplexity(row: Row) -> dict[str, tuple[float, float]]:
    intervals = dict(row.intervals_95)
    if "loss_nats" in intervals and "perplexity" not in row.values:
        low, high = intervals["loss_nats"]
        intervals["perplexity"] = (perplexity(low), perplexity(high))
    return intervals


def cost_section(run: Run) -> Section | None:
    """What answers took, per system over all tasks and per task."""
    known = {name for row in run.rows for name in row.cost}
    names = [name for name in COST_NAMES if name in known] + sorted(known - set(COST_NAMES))
    if not names:
        return None
    titles = tuple(COST_NAMES[name][0] if name in COST_NAMES else name for name in names)
    rows = _by_task(run)
    blocks: list[Block] = []
    shared = [task for task in run.tasks if all(_has_cost(run, task, system) for system in run.systems)]
    if len(shared) > 1:
        means = tuple(
            (Cell(system), *_cost_cells(_mean_cost(run, shared, system), names)) for system in run.systems
        )
        caption = f"Cost of an answer, mean of the {len(shared)} tasks that all systems answered"
        blocks.append(Table(caption, ("system", *titles), means))
    table = tuple((Cell(row.task), Cell(row.system), *_cost_cells(row.cost, names)) for row in rows)
    folded = len(shared) > 1 and len(table) > len(run.systems)
    blocks.append(Table("Cost of an answer, by task", ("task", "system", *titles), table, 2, folded=folded))
    return Section("cost", "Cost", tuple(blocks))


def _has_cost(run: Run, task: str, system: str) -> bool:
    row = run.row(task, system)
    return row is not None and bool(row.cost)


def _mean_cost(run: Run, tasks: Sequence[str], system: str) -> dict[str, float]:
    """Means of the costs that are known for all of some tasks."""
    costs = [row.cost for task in tasks if (row := run.row(task, system)) is not None]
    shared = set.intersection(*(set(cost) for cost in costs))
    return {name: sum(cost[name] for cost in costs) / len(costs) for name in shared}


def _cost_cells(cost: Mapping[str, float], names: Sequence[str]) -> list[Cell]:
    cells = []
    for name in names:
        write = COST_NAMES[name][1] if name in COST_NAMES else readable_score
        cells.append(Cell(write(cost[name]) if name in cost else "–"))
    return cells


def breakdown_section(run: Run) -> Section | None:
    """The metric by length, depth, difficulty, domain and whatever else items are grouped by."""
    blocks: list[Block] = []
    keys = list(dict.fromkeys(key for row in run.rows for key in row.groups))
    ordered = [key for key in _FIRST_GROUP_KEYS if key in keys]
    for key in ordered + sorted(set(keys) - set(ordered)):
        blocks += _breakdown(run, key)
    return Section("breakdowns", "Breakdowns", tuple(blocks)) if blocks else None


def _breakdown(run: Run, key: str) -> list[Block]:
    """Tables by one key: tasks with the same values of it share a table."""
    tasks_by_values: dict[tuple[str, ...], list[str]] = {}
    blocks: list[Block] = []
    for task in run.tasks:
        found = {value for row in run.rows if row.task == task for value in row.groups.get(key, {})}
        values = tuple(sorted(found, key=group_key))
        if len(values) > _MOST_GROUP_VALUES:
            text = f"{task} has {len(values)} different values of {key}, too many for a table."
            blocks.append(Paragraph(text))
        elif values:
            tasks_by_values.setdefault(values, []).append(task)
    for values, tasks in tasks_by_values.items():
        rows = tuple(
            (Cell(row.task), Cell(row.system), *_group_cells(run, row, key, values))
            for row in _by_task(run)
            if row.task in tasks and row.groups.get(key)
        )
        titles = tuple(readable_length(value) if key == "length_tokens" else value for value in values)
        caption = f"Score by {group_title(key)}"
        if len(tasks_by_values) > 1:
            caption += f": {', '.join(tasks)}"
        folded = len(rows) > _MOST_OPEN_ROWS
        blocks.append(Table(caption, ("task", "system", *titles), rows, 2, folded=folded))
    return blocks


def _group_cells(run: Run, row: Row, key: str, values: Sequence[str]) -> list[Cell]:
    refused = Counter(
        str(entry.groups[key])
        for entry in run.of(row.task, row.system)
        if entry.error is not None and key in entry.groups
    )
    cells = []
    for value in values:
        score = row.groups[key].get(value)
        note = f"refused {refused[value]}" if refused[value] else ""
        if score is None:
            cells.append(Cell("–", refused=note))
        else:
            details = f"{readable_interval(score.interval)} (n = {score.num_items})".strip()
            cells.append(Cell(readable_score(score.value), details, note))
    return cells


def group_title(key: str) -> str:
    """A key of groups in words."""
    names = {"length_tokens": "length (decoder tokens)", "depth_percent": "depth (% of the context)"}
    return names.get(key, key.replace("_", " "))


def rate_section(run: Run, figures: Sequence[Block] = ()) -> Section | None:
    """Scores by k, the soft tokens per chunk, and length, where systems differ in k only."""
    blocks: list[Block] = list(figures)
    for task in run.tasks:
        for family, systems in rate_families(run, task).items():
            blocks.append(_rate_table(run, task, family, systems))
    return Section("soft-tokens", "Scores by soft tokens per chunk", tuple(blocks)) if blocks else None


def rate_families(run: Run, task: str) -> dict[str, dict[int, str]]:
    """Systems of a task that differ in k only: by the name without it, their names by k; two at least."""
    families: dict[str, dict[int, str]] = {}
    for row in run.rows:
        match = _RATE.search(row.system)
        if row.task == task and match:
            rest = row.system[: match.start()] + row.system[match.end() :]
            family = rest.replace("::", ":").strip(" :")
            families.setdefault(family, {})[int(match[1])] = row.system
    return {name: dict(sorted(found.items())) for name, found in families.items() if len(found) > 1}


def _rate_table(run: Run, task: str, family: str, systems: Mapping[int, str]) -> Table:
    """A group of rows per score, in it a row per k; columns by length."""
    found = {rate: row for rate, system in systems.items() if (row := run.row(task, system)) is not None}
    placed = {
        system: [entry for entry in run.of(task, system) if "length_tokens" in entry.groups]
        for system in systems.values()
    }
    lengths = sorted(
        {str(entry.groups["length_tokens"]) for entries in placed.values() for entry in entries},
        key=group_key,
    )
    if not 1 < len(lengths) <= _MOST_GROUP_VALUES:
        lengths = []
    rows = []
    for name in dict.fromkeys(name for row in found.values() for name in _with_perplexity(row.values)):
        header = Cell(name, "lower is better" if lower_is_better(name) else "")
        for rate, row in found.items():
            cells = [_mean_at(placed[row.system], length, name) for length in lengths]
            value = _with_perplexity(row.values).get(name)
            interval = _intervals_with_perplexity(row).get(name)
            whole = Cell(readable_score(value), readable_interval(interval))
            rows.append((header, Cell(f"k = {rate}"), whole, *cells))
    titles = ("score", "soft tokens", "all items", *(f"at {readable_length(length)}" for length in lengths))
    return Table(f"{task}, {family}: scores by soft tokens per chunk", titles, tuple(rows), 2)


def _mean_at(entries: Sequence[Prediction], length: str, name: str) -> Cell:
    """The mean of a score at a length; the perplexity is the exponential of the mean loss."""
    scored = "loss_nats" if name == "perplexity" else name
    own = [entry for entry in entries if str(entry.groups["length_tokens"]) == length]
    values = [entry.scores[scored] for entry in own if scored in entry.scores]
    if not values:
        return Cell("refused" if any(entry.error is not None for entry in own) else "–")
    mean = sum(values) / len(values)
    return Cell(readable_score(mean if scored == name else perplexity(mean)))


def tests_section(run: Run) -> Section | None:
    """The paired tests."""
    rows = []
    for task in run.tasks:
        for test in (test for test in run.tests if test.task == task):
            cells = (
                Cell(test.metric),
                Cell(readable_score(test.difference, signed=True)),
                Cell(readable_interval(test.interval_95, signed=True)),
                Cell(readable_p_value(test.p_value)),
                Cell(readable_p_value(test.p_holm)),
                Cell(str(test.num_pairs)),
            )
            rows.append((Cell(task), Cell(f"{test.system_a} − {test.system_b}"), *cells))
    if not rows:
        return None
    columns = ("task", "systems", "metric", "difference", "95% interval", "p", "p (Holm)", "pairs")
    caption = "Difference of two systems on the items that both answered"
    table = Table(caption, columns, tuple(rows), 2, folded=len(rows) > _MOST_OPEN_ROWS)
    return Section("tests", "Paired tests", (table,))


def provenance_section(run: Run) -> Section:
    """What the run was made with."""
    rows = tuple((Cell(key), Cell(value)) for key, value in flat_facts(run.provenance).items())
    table = Table("What the run was made with", ("setting", "value"), rows, is_text=True)
    return Section("provenance", "Provenance", (table,))


def flat_facts(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as dotted keys with values in words."""
    flat: dict[str, str] = {}
    for key, value in facts.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flat_facts(value, f"{name}."))
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _by_task(run: Run) -> list[Row]:
    """The rows in the order of the tasks and systems."""
    found = (run.row(task, system) for task in run.tasks for system in run.systems)
    return [row for row in found if row is not None]
