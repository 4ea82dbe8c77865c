"""Plots of a run, by matplotlib: as SVG that follows light or dark, and as PNG for other documents."""

import importlib.util
import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeGuard

from e2llm.evaluation.readable import lower_is_better, printable, readable_length, readable_score
from e2llm.evaluation.report_blocks import Figure, Picture
from e2llm.evaluation.report_heat import HeatMap, short_value
from e2llm.evaluation.report_tables import rate_families
from e2llm.evaluation.run_files import Run

# Okabe and Ito's colours that can be told apart by all, then others; markers and ends differ as well.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888", "#8F6BC1")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
_INK = "#123456"  # stands for the page's text colour and is replaced in the SVG
_STYLE = "<style>svg{color:#1c2024}@media (prefers-color-scheme:dark){svg{color:#e4e6e8}}</style>"
_PANEL_INCHES = (4.4, 3.3)


@dataclass(frozen=True)
class Series:
    """Points of one system: `(x, y, interval of y)`."""

    label: str
    points: tuple[tuple[float, float, tuple[float, float] | None], ...]


@dataclass(frozen=True)
class Panel:
    """What is drawn of one task."""

    title: str
    x_label: str
    metric: str
    series: tuple[Series, ...]

    @property
    def is_reversed(self) -> bool:
        """Whether the axis points down, so that up is better in all panels."""
        return lower_is_better(self.metric)

    @property
    def y_label(self) -> str:
        """The metric as its axis names it."""
        return f"{self.metric} (axis reversed)" if self.is_reversed else self.metric


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def cost_figure(run: Run) -> Figure | None:
    """Score against decoder positions, a point per system."""
    panels = []
    for task, facts in run.tasks.items():
        series = []
        for row in run.rows:
            cost = row.cost.get("decoder_positions")
            if row.task == task and cost is not None and cost > 0 and _is_finite(row.value):
                series.append(Series(row.system, ((cost, row.value, row.intervals_95.get(facts.metric)),)))
        panels.append(Panel(task, "decoder positions", facts.metric, tuple(series)))
    caption = (
        "Score against decoder positions, with 95% intervals: the further up and left, the better. Where "
        "lower scores are better, the axis is reversed."
    )
    return _figure(run, "score-against-cost", caption, panels)


def length_figure(run: Run) -> Figure | None:
    """Score against the context's length, a line per system, for tasks with two lengths or more."""
    panels = []
    for task, facts in run.tasks.items():
        series = []
        for row in run.rows:
            if row.task == task:
                scores = row.groups.get("length_tokens", {})
                series.append(
                    Series(row.system, _points({key: (of.value, of.interval) for key, of in scores.items()}))
                )
        if len({x for line in series for x, _, _ in line.points}) > 1:
            panels.append(Panel(task, "context tokens", facts.metric, tuple(series)))
    return _figure(run, "score-against-length", "Score against the length of the context.", panels)


def rate_figure(run: Run) -> Figure | None:
    """Score against k, a line per family of systems."""
    panels = []
    for task, facts in run.tasks.items():
        series = []
        for family, systems in rate_families(run, task).items():
            rows = {rate: run.row(task, system) for rate, system in systems.items()}
            found = {
                str(rate): (row.value, row.intervals_95.get(facts.metric))
                for rate, row in rows.items()
                if row is not None and _is_finite(row.value)
            }
            series.append(Series(family, _points(found)))
        if series:
            panels.append(Panel(task, "soft tokens per chunk (k)", facts.metric, tuple(series)))
    return _figure(run, "score-against-soft-tokens", "Score against soft tokens per chunk.", panels)


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _points(
    scores: Mapping[str, tuple[float, tuple[float, float] | None]],
) -> tuple[tuple[float, float, tuple[float, float] | None], ...]:
    """Points in the order of x; what is no positive number has no place on a log scale."""
    found = []
    for key, (value, interval) in scores.items():
        try:
            x = float(key)
        except ValueError:
            continue
        if x > 0 and math.isfinite(x) and _is_finite(value):
            found.append((x, value, interval))
    return tuple(sorted(found, key=lambda point: point[0]))


def heat_figure(maps: Sequence[HeatMap], name: str) -> Figure:
    """One task's heat maps side by side, as PNG only: the report has them as tables."""
    from matplotlib import colormaps

    num_columns = min(3, len(maps))
    num_rows = math.ceil(len(maps) / num_columns)
    lengths, depths = maps[0].lengths, maps[0].depths
    size = (max(3.0, 0.62 * len(lengths) + 1.2), max(2.2, 0.34 * len(depths) + 1.1))
    with _settings("#1c2024"):
        figure, axes = _grid(num_rows, num_columns, size)
        for found, place in zip(maps, axes, strict=False):
            _draw_heat(place, found, colormaps["cividis"])
        for place in axes[len(maps) :]:
            place.set_axis_off()
        png = _png(figure)
    task = maps[0].task
    caption = f"{task}: {maps[0].metric} by depth and length."
    return Figure(name, caption, (), png, f"Heat maps of {task}, one per system; the tables have the values.")


def _draw_heat(axes: Any, found: HeatMap, colours: Any) -> None:
    grid = [[math.nan] * len(found.lengths) for _ in found.depths]
    for row, depth in enumerate(found.depths):
        for column, length in enumerate(found.lengths):
            cell = found.cells.get((depth, length))
            if cell is None:
                continue
            if cell.value is None:
                axes.text(column, row, "refused", ha="center", va="center", fontsize=6)
                continue
            heat = found.heat(cell.value)
            grid[row][column] = heat
            ink = "white" if heat < 0.55 else "black"
            axes.text(column, row, short_value(cell.value), ha="center", va="center", fontsize=7, color=ink)
    axes.imshow(grid, cmap=colours, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(found.lengths)), [readable_length(length) for length in found.lengths])
    axes.set_yticks(range(len(found.depths)), [f"{depth}%" for depth in found.depths])
    axes.set(title=printable(found.system), xlabel="context tokens", ylabel="depth")
    axes.tick_params(length=0)


def _figure(run: Run, name: str, caption: str, panels: Sequence[Panel]) -> Figure | None:
    """All panels as a picture each and as one PNG; None without a point."""
    panels = [panel for panel in panels if any(line.points for line in panel.series)]
    if not panels:
        return None
    styles = {label: number for number, label in enumerate(_labels(run, panels))}
    pictures = tuple(
        Picture(panel.title, _alt(panel), _svg(panel, styles, f"{name}-{number}"))
        for number, panel in enumerate(panels)
    )
    alt = f"{caption} Tasks: {', '.join(panel.title for panel in panels)}."
    return Figure(name, caption, pictures, _panels_png(panels, styles), alt)


def _labels(run: Run, panels: Sequence[Panel]) -> list[str]:
    """Systems keep their colour in all figures; families of systems come after them."""
    others = [line.label for panel in panels for line in panel.series]
    return list(dict.fromkeys([*run.systems, *others]))


def _alt(panel: Panel) -> str:
    lines = [
        f"{line.label}: " + ", ".join(f"{readable_score(y)} at {x:,.0f}" for x, y, _ in line.points)
        for line in panel.series
        if line.points
    ]
    return f"{panel.y_label} against {panel.x_label} on {panel.title}. " + "; ".join(lines) + "."


def _svg(panel: Panel, styles: Mapping[str, int], salt: str) -> str:
    """A drawing without a background, its ink in the text colour of light or dark."""
    from matplotlib.figure import Figure as Canvas

    with _settings(_INK, salt):
        figure = Canvas(figsize=_PANEL_INCHES, layout="constrained")
        axes = figure.subplots()
        _draw_panel(axes, panel, styles)
        _draw_legend(figure, axes, num_columns=2)
        stream = io.BytesIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue().decode()
    head = text.index("<svg")
    after = text.index(">", head) + 1
    return text[head:after] + _STYLE + text[after:].replace(_INK, "currentColor")


def _panels_png(panels: Sequence[Panel], styles: Mapping[str, int]) -> bytes:
    num_columns = min(3, len(panels))
    with _settings("#1c2024"):
        figure, axes = _grid(math.ceil(len(panels) / num_columns), num_columns, _PANEL_INCHES)
        for panel, place in zip(panels, axes, strict=False):
            _draw_panel(place, panel, styles)
            place.set_title(printable(panel.title))
        for place in axes[len(panels) :]:
            place.set_axis_off()
        _draw_legend(figure, *axes[: len(panels)], num_columns=3 * num_columns)
        return _png(figure)


def _draw_panel(axes: Any, panel: Panel, styles: Mapping[str, int]) -> None:
    for line in panel.series:
        if not line.points:
            continue
        number = styles[line.label]
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        x, y = [point[0] for point in line.points], [point[1] for point in line.points]
        axes.plot(
            x,
            y,
            color=colour,
            marker=marker,
            markersize=7,
            markeredgecolor=axes.xaxis.label.get_color(),
            markeredgewidth=0.6,
            linestyle="-" if len(x) > 1 else "none",
            linewidth=1.6,
            label=printable(line.label).lstrip("_") or "(unnamed)",
            zorder=3,
        )
        for at, _, interval in line.points:
            if interval is not None:
                axes.plot([at, at], interval, color=colour, linewidth=1.2, alpha=0.7, zorder=2)
    ticks = _ticks([x for line in panel.series for x, _, _ in line.points])
    axes.set_xscale("log", base=2)
    axes.set(xlabel=panel.x_label, ylabel=printable(panel.y_label))
    axes.set_xticks(ticks, [readable_length(x) for x in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    axes.margins(y=0.12)
    if not any(y or any(interval or ()) for line in panel.series for _, y, interval in line.points):
        axes.set_ylim(-0.05, 1)  # zeros alone would stand in the middle of a range of negative scores
    axes.yaxis.set_inverted(panel.is_reversed)
    axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _ticks(xs: Sequence[float]) -> list[float]:
    """Powers of two around all points, six at most and one octave at least."""
    low, high = math.floor(math.log2(min(xs))), math.ceil(math.log2(max(xs)))
    step = max(1, math.ceil((high - low) / 5))
    exponents = list(range(low, high + 1, step)) or [low]
    if exponents[-1] < high or len(exponents) == 1:
        exponents.append(exponents[-1] + step)
    return [2.0**exponent for exponent in exponents]


def _draw_legend(figure: Any, *axes: Any, num_columns: int) -> None:
    found: dict[str, Any] = {}
    for place in axes:
        for handle, label in zip(*place.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        found.values(),
        found.keys(),
        loc="outside lower center",
        ncols=min(num_columns, len(found)),
        frameon=False,
        fontsize=8,
    )


def _grid(num_rows: int, num_columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """A figure of panels of a size in inches each."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(size[0] * num_columns, size[1] * num_rows + 0.4), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False)
    return figure, [place for row in axes for place in row]


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def _settings(ink: str, salt: str = "e2llm") -> AbstractContextManager[None]:
    """Settings of matplotlib for one drawing; the user's own are left alone, and no `$` starts a formula."""
    import matplotlib

    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    settings: dict[str, Any] = {
        **matplotlib.rcParamsDefault,
        **dict.fromkeys(names, ink),
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "text.parse_math": False,
    }
    settings.pop("backend", None)
    context: Callable[..., AbstractContextManager[None]] = matplotlib.rc_context
    return context(settings)
