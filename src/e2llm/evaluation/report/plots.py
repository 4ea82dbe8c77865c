"""Plots of a run as PNG, by matplotlib: scores against costs and lengths, and heat maps."""

import hashlib
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from e2llm.evaluation.report.readable import group_key, lower_is_better, printable, readable_length
from e2llm.evaluation.run.predictions import Prediction
from e2llm.evaluation.run.scores import Interval, Row, Run

# Okabe and Ito's colours, which all can tell apart, then others; markers differ as well.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888", "#8F6BC1")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
_PANEL_INCHES = (4.4, 3.3)

Point = tuple[float, float | None, Interval | None]
"""x, y and the interval of y."""
HeatCells = dict[tuple[str, str], float | None]
"""Mean score by depth and length; None where all items were refused."""


@dataclass(frozen=True)
class Figure:
    """A plot as PNG, with the name of its file and its caption."""

    name: str
    caption: str
    png: bytes


def cost_figure(run: Run) -> list[Figure]:
    """Draw score against decoder positions, one point per system."""
    caption = (
        "Score against decoder positions, with 95% intervals: the further up and left, the better. Where "
        "lower scores are better, the axis is reversed."
    )

    def points(row: Row) -> Iterable[Point]:
        yield row.cost.get("decoder_positions", 0), row.value, row.intervals_95.get(row.metric)

    return _line_figure(run, "score-against-cost", caption, "decoder positions", points, min_points=1)


def length_figure(run: Run) -> list[Figure]:
    """Draw score against the length of the context for tasks with two lengths or more."""

    def points(row: Row) -> Iterable[Point]:
        for length, score in row.groups.get("length_tokens", {}).items():
            yield float(length), score.value, score.interval

    caption = "Score against the length of the context."
    return _line_figure(run, "score-against-length", caption, "context tokens", points, min_points=2)


def _line_figure(
    run: Run,
    name: str,
    caption: str,
    x_label: str,
    points: Callable[[Row], Iterable[Point]],
    *,
    min_points: int,
) -> list[Figure]:
    """Draw a panel for each task with enough different x, with a line per system."""
    draws = []
    for task in run.tasks:
        lines = {row.system: _drawable(points(row)) for row in run.rows if row.task == task}
        if len({x for found in lines.values() for x, _, _ in found}) >= min_points:
            draws.append(partial(_draw_lines, run=run, task=task, x_label=x_label, lines=lines))
    return [Figure(name, caption, _png(_PANEL_INCHES, draws))] if draws else []


def _drawable(points: Iterable[Point]) -> list[Point]:
    """Return the points that a log scale of x can show, in the order of x."""
    found = (point for point in points if point[0] > 0 and point[1] is not None and math.isfinite(point[1]))
    return sorted(found, key=lambda point: point[0])


def _draw_lines(axes: Any, run: Run, task: str, x_label: str, lines: dict[str, list[Point]]) -> None:
    """Draw the lines of a task; a system keeps its colour in all figures."""
    for system, points in lines.items():
        if not points:
            continue
        number = run.systems.index(system)
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(
            [x for x, _, _ in points],
            [y for _, y, _ in points],
            color=colour,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=7,
            markeredgecolor="black",
            markeredgewidth=0.6,
            linewidth=1.6,
            label=printable(system).lstrip("_") or "(unnamed)",
            zorder=3,
        )
        for x, _, interval in points:
            if interval is not None:
                axes.plot([x, x], interval, color=colour, linewidth=1.2, alpha=0.7, zorder=2)
    metric = run.tasks[task].metric
    is_reversed = lower_is_better(metric)
    ticks = _ticks([x for points in lines.values() for x, _, _ in points])
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [readable_length(x) for x in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    y_label = printable(metric) + (" (axis reversed)" if is_reversed else "")
    axes.set(title=printable(task), xlabel=x_label, ylabel=y_label)
    axes.margins(y=0.12)
    axes.yaxis.set_inverted(is_reversed)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _ticks(xs: Sequence[float]) -> list[float]:
    """Return at most seven powers of two around all points, at least one octave apart."""
    low, high = math.floor(math.log2(min(xs))), math.ceil(math.log2(max(xs)))
    step = max(1, math.ceil((high - low) / 5))
    return [2.0**exponent for exponent in range(low, max(high, low + 1) + step, step)]


def heat_figures(run: Run) -> list[Figure]:
    """Draw a heat map per system for each task whose items have a depth and a length, on the task's scale."""
    figures = []
    for task, facts in run.tasks.items():
        cells = {system: _heat_cells(run.of(task, system), facts.metric) for system in run.systems}
        places = {place for found in cells.values() for place in found}
        if not places:
            continue
        depths, lengths = (sorted({place[at] for place in places}, key=group_key) for at in (0, 1))
        values = [value for found in cells.values() for value in found.values() if value is not None]
        bounds = (0.0, 1.0) if all(0 <= value <= 1 for value in values) else (min(values), max(values))
        scale = bounds[::-1] if lower_is_better(facts.metric) else bounds
        draws = [
            partial(_draw_heat, system=system, cells=found, depths=depths, lengths=lengths, scale=scale)
            for system, found in cells.items()
            if found
        ]
        size = (max(3.0, 0.62 * len(lengths) + 1.2), max(2.2, 0.34 * len(depths) + 1.1))
        caption = f"{task}: mean {facts.metric} by depth and length. Yellow is the best, dark blue the worst."
        figures.append(Figure(f"heat-{plot_name(task)}", caption, _png(size, draws)))
    return figures


def plot_name(task: str) -> str:
    """Return a task's name as part of a file's: letters, digits and dashes, and a hash if that changes it."""
    plain = re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")[:48]
    if plain == task.replace("_", "-"):
        return plain
    return f"{plain}-{hashlib.sha256(task.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}".strip("-")


def _heat_cells(entries: Sequence[Prediction], metric: str) -> HeatCells:
    scores: dict[tuple[str, str], list[float]] = {}
    for entry in entries:
        if {"depth_percent", "length_tokens"} <= set(entry.groups):
            place = str(entry.groups["depth_percent"]), str(entry.groups["length_tokens"])
            scores.setdefault(place, []).extend(entry.scores[name] for name in entry.scores if name == metric)
    return {place: fmean(values) if values else None for place, values in scores.items()}


def _draw_heat(
    axes: Any,
    system: str,
    cells: HeatCells,
    depths: Sequence[str],
    lengths: Sequence[str],
    scale: tuple[float, float],
) -> None:
    worst, best = scale
    grid = [[math.nan] * len(lengths) for _ in depths]
    for (depth, length), value in cells.items():
        row, column = depths.index(depth), lengths.index(length)
        heat = 1.0
        if value is not None:
            heat = grid[row][column] = (value - worst) / (best - worst) if best != worst else 1.0
        text, colour = "refused" if value is None else f"{value:.2f}", "white" if heat < 0.55 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(lengths)), [readable_length(length) for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth}%" for depth in depths])
    axes.set(title=printable(system), xlabel="context tokens", ylabel="depth")
    axes.tick_params(length=0)


def _png(size: tuple[float, float], draws: Sequence[Callable[[Any], None]]) -> bytes:
    """Draw panels of a size in inches, three per row, with matplotlib's defaults and no formulas."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if key != "backend"}
    num_columns = min(3, len(draws))
    num_rows = math.ceil(len(draws) / num_columns)
    with matplotlib.rc_context({**defaults, "font.size": 9, "text.parse_math": False}):
        canvas = Canvas(figsize=(size[0] * num_columns, size[1] * num_rows + 0.4), layout="constrained")
        grid = canvas.subplots(num_rows, num_columns, squeeze=False).flatten()
        for draw, axes in zip(draws, grid, strict=False):
            draw(axes)
        for axes in grid[len(draws) :]:
            axes.set_axis_off()
        labelled = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in grid]
        handles = {label: handle for pairs in labelled for handle, label in pairs}
        if handles:
            columns = min(3 * num_columns, len(handles))
            place = {"loc": "outside lower center", "ncols": columns, "frameon": False}
            canvas.legend(handles.values(), handles.keys(), **place)
        stream = io.BytesIO()
        canvas.savefig(stream, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return stream.getvalue()
