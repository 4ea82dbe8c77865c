"""Needle heat maps: where in a text, and in how long a text, a system still finds what is hidden."""

from collections.abc import Iterable
from dataclasses import dataclass

from e2llm.evaluation.readable import group_key, lower_is_better, readable_length, readable_score
from e2llm.evaluation.report_blocks import Cell, Table
from e2llm.evaluation.run_files import Prediction, Run


@dataclass(frozen=True)
class HeatCell:
    """The items of one depth and length: their mean score, None if all were refused, and the counts."""

    value: float | None
    num_answered: int
    num_refused: int


@dataclass(frozen=True)
class HeatMap:
    """One system on one task.

    Attributes:
        task: Its name.
        system: Its name.
        metric: Of the values.
        depths: In percent, from the beginning of the text to its end.
        lengths: In decoder tokens, rising.
        cells: By depth and length; places without items are left out.
        bounds: The worst and the best value of the task's scale.
    """

    task: str
    system: str
    metric: str
    depths: tuple[str, ...]
    lengths: tuple[str, ...]
    cells: dict[tuple[str, str], HeatCell]
    bounds: tuple[float, float]

    def heat(self, value: float) -> float:
        """Where a value lies on the scale, from 0 to 1."""
        worst, best = self.bounds
        return min(1.0, max(0.0, (value - worst) / (best - worst))) if best != worst else 1.0


def heat_maps(run: Run) -> dict[str, list[HeatMap]]:
    """By task, a map per system, for tasks whose items have a depth and a length; all on the task's scale."""
    maps: dict[str, list[HeatMap]] = {}
    for task, facts in run.tasks.items():
        entries = (entry for system in run.systems for entry in run.of(task, system))
        placed = [entry for entry in entries if place(entry) is not None]
        if not placed:
            continue
        places = [place(entry) or ("", "") for entry in placed]
        depths = tuple(sorted({depth for depth, _ in places}, key=group_key))
        lengths = tuple(sorted({length for _, length in places}, key=group_key))
        bounds = _bounds((entry.scores.get(facts.metric) for entry in placed), facts.metric)
        for system in run.systems:
            own = [entry for entry in run.of(task, system) if place(entry) is not None]
            if own:
                cells = _cells(own, facts.metric)
                found = HeatMap(task, system, facts.metric, depths, lengths, cells, bounds)
                maps.setdefault(task, []).append(found)
    return maps


def place(entry: Prediction) -> tuple[str, str] | None:
    """Depth and length of an item; None if it lacks either."""
    depth, length = entry.groups.get("depth_percent"), entry.groups.get("length_tokens")
    return None if depth is None or length is None else (str(depth), str(length))


def heat_table(found: HeatMap) -> Table:
    """A map as a table with a value in each cell."""
    rows = []
    for depth in found.depths:
        cells = [_heat_cell(found, found.cells.get((depth, length))) for length in found.lengths]
        rows.append((Cell(f"{depth}%"), *cells))
    titles = ("depth", *(readable_length(length) for length in found.lengths))
    return Table(found.system, titles, tuple(rows), is_heat_map=True)


def _cells(entries: Iterable[Prediction], metric: str) -> dict[tuple[str, str], HeatCell]:
    by_place: dict[tuple[str, str], list[Prediction]] = {}
    for entry in entries:
        by_place.setdefault(place(entry) or ("", ""), []).append(entry)
    cells = {}
    for where, items in by_place.items():
        values = [entry.scores[metric] for entry in items if metric in entry.scores]
        mean = sum(values) / len(values) if values else None
        cells[where] = HeatCell(mean, len(values), sum(entry.error is not None for entry in items))
    return cells


def _bounds(scores: Iterable[float | None], metric: str) -> tuple[float, float]:
    """From 0 to 1 if all scores are, else from the least to the greatest; turned round if lower is better."""
    values = [value for value in scores if value is not None and value == value]
    low, high = min([0.0, *values]), max([1.0, *values])
    if (low, high) != (0.0, 1.0):
        low, high = min(values), max(values)
    return (high, low) if lower_is_better(metric) else (low, high)


def _heat_cell(found: HeatMap, cell: HeatCell | None) -> Cell:
    if cell is None:
        return Cell("–")
    if cell.value is None:
        return Cell("refused" if cell.num_refused else "–")
    refused = f"{cell.num_refused} refused" if cell.num_refused else ""
    return Cell(short_value(cell.value), refused=refused, heat=found.heat(cell.value))


def short_value(value: float) -> str:
    """A value in as few characters as a narrow cell has."""
    return f"{value:.2f}" if abs(value) < 10 else readable_score(round(value, 1)).removesuffix("00")
