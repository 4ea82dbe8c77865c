"""Plots of a run as PNG, by matplotlib: scores against costs, lengths and soft tokens, and heat maps."""

import hashlib
import importlib.util
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from e2llm.evaluation.report.readable import group_key, lower_is_better, printable, readable_length
from e2llm.evaluation.report.tables import Figure, families
from e2llm.evaluation.run.files import Prediction, Run

# Okabe and Ito's colours, which all can tell apart, then others; markers differ as well.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888", "#8F6BC1")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
_PANEL_INCHES = (4.4, 3.3)

Point = tuple[float, float | None, tuple[float, float] | None]
"""x, y and the interval of y."""
HeatCells = dict[tuple[str, str], float | None]
"""Mean score by depth and length; None where all items were refused."""


@dataclass(frozen=True)
class Panel:
    """One task: its metric, and lines of points by label."""

    task: str
    x_label: str
    metric: str
    lines: dict[str, list[Point]]


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def cost_figure(run: Run) -> Figure | None:
    """Draw score against decoder positions, one point per system."""
    panels = []
    for task, facts in run.tasks.items():
        rows = [row for row in run.rows if row.task == task]
        lines = {
            row.system: _drawable(
                [(row.cost.get("decoder_positions", 0), row.value, row.intervals_95.get(facts.metric))]
            )
            for row in rows
        }
        panels.append(Panel(task, "decoder positions", facts.metric, lines))
    caption = (
        "Score against decoder positions, with 95% intervals: the further up and left, the better. Where "
        "lower scores are better, the axis is reversed."
    )
    return _figure(run, "score-against-cost", caption, panels)


def length_figure(run: Run) -> Figure | None:
    """Draw score against the length of the context for tasks with two lengths or more."""
    panels = []
    for task, facts in run.tasks.items():
        lines = {
            row.system: _drawable(
                (float(length), score.value, score.interval)
                for length, score in row.groups.get("length_tokens", {}).items()
            )
            for row in run.rows
            if row.task == task
        }
        if len({x for points in lines.values() for x, _, _ in points}) > 1:
            panels.append(Panel(task, "context tokens", facts.metric, lines))
    return _figure(run, "score-against-length", "Score against the length of the context.", panels)


def soft_tokens_figure(run: Run) -> Figure | None:
    """Draw score against soft tokens per chunk, a line per family of systems."""
    panels = []
    for task, facts in run.tasks.items():
        lines = {
            family: _drawable((count, row.value, row.intervals_95.get(facts.metric)) for count, row in rows)
            for family, rows in families(run, task).items()
        }
        panels.append(Panel(task, "soft tokens per chunk (k)", facts.metric, lines))
    return _figure(run, "score-against-soft-tokens", "Score against soft tokens per chunk.", panels)


def heat_figures(run: Run) -> list[Figure]:
    """Draw a heat map per system for each task whose items have a depth and a length, on the task's scale."""
    figures = []
    for task, facts in run.tasks.items():
        cells = {system: _heat_cells(run.of(task, system), facts.metric) for system in run.systems}
        places = {place for found in cells.values() for place in found}
        if not places:
            continue
        depths, lengths = (sorted({place[index] for place in places}, key=group_key) for index in (0, 1))
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
        figures.append(Figure(f"heat-{file_name(task)}", caption, _png(size, draws)))
    return figures


def file_name(task: str) -> str:
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
            found = scores.setdefault(place, [])
            found += [entry.scores[metric]] if metric in entry.scores else []
    return {place: fmean(values) if values else None for place, values in scores.items()}


def _drawable(points: Iterable[Point]) -> list[Point]:
    """Return the points that a log scale of x can show, in the order of x."""
    return sorted(
        (point for point in points if point[0] > 0 and point[1] is not None and math.isfinite(point[1])),
        key=lambda point: point[0],
    )


def _figure(run: Run, name: str, caption: str, panels: Sequence[Panel]) -> Figure | None:
    """Draw all panels into one PNG; None without a point. Systems keep their colour in all figures."""
    panels = [panel for panel in panels if any(panel.lines.values())]
    if not panels:
        return None
    labels = list(dict.fromkeys([*run.systems, *(label for panel in panels for label in panel.lines)]))
    draws = [partial(_draw_panel, panel=panel, labels=labels) for panel in panels]
    return Figure(name, caption, _png(_PANEL_INCHES, draws, has_legend=True))


def _draw_panel(axes: Any, panel: Panel, labels: Sequence[str]) -> None:
    for label, points in panel.lines.items():
        if not points:
            continue
        number = labels.index(label)
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
            label=printable(label).lstrip("_") or "(unnamed)",
            zorder=3,
        )
        for x, _, interval in points:
            if interval is not None:
                axes.plot([x, x], interval, color=colour, linewidth=1.2, alpha=0.7, zorder=2)
    ticks = _ticks([x for points in panel.lines.values() for x, _, _ in points])
    is_reversed = lower_is_better(panel.metric)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [readable_length(x) for x in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    axes.set(
        title=printable(panel.task),
        xlabel=panel.x_label,
        ylabel=printable(panel.metric) + (" (axis reversed)" if is_reversed else ""),
    )
    axes.margins(y=0.12)
    axes.yaxis.set_inverted(is_reversed)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


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


def _ticks(xs: Sequence[float]) -> list[float]:
    """Return powers of two around all points, six at most and one octave at least."""
    low, high = math.floor(math.log2(min(xs))), math.ceil(math.log2(max(xs)))
    step = max(1, math.ceil((high - low) / 5))
    exponents = list(range(low, high + 1, step)) or [low]
    if exponents[-1] < high or len(exponents) == 1:
        exponents.append(exponents[-1] + step)
    return [2.0**exponent for exponent in exponents]


def _png(
    size: tuple[float, float], draws: Sequence[Callable[[Any], None]], *, has_legend: bool = False
) -> bytes:
    """Draw panels of a size in inches, three per row, with default settings of matplotlib."""
    from matplotlib.figure import Figure as Canvas

    num_columns = min(3, len(draws))
    num_rows = math.ceil(len(draws) / num_columns)
    with _settings():
        canvas = Canvas(figsize=(size[0] * num_columns, size[1] * num_rows + 0.4), layout="constrained")
        grid = canvas.subplots(num_rows, num_columns, squeeze=False).flatten()
        for draw, axes in zip(draws, grid, strict=False):
            draw(axes)
        for axes in grid[len(draws) :]:
            axes.set_axis_off()
        if has_legend:
            handles = {
                label: handle
                for axes in grid
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
            }
            columns = min(3 * num_columns, len(handles))
            canvas.legend(
                handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False
            )
        stream = io.BytesIO()
        canvas.savefig(stream, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def _settings() -> AbstractContextManager[None]:
    """Use matplotlib's defaults for one drawing, in which no `$` starts a formula."""
    import matplotlib

    settings: dict[str, Any] = {**matplotlib.rcParamsDefault, "font.size": 9, "text.parse_math": False}
    settings.pop("backend", None)
    context: Callable[..., AbstractContextManager[None]] = matplotlib.rc_context
    return context(settings)
