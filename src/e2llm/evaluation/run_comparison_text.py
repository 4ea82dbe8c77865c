"""A comparison of two runs as text for a terminal."""

from collections.abc import Sequence

from e2llm.evaluation.readable import (
    lower_is_better,
    on_one_line,
    readable_interval,
    readable_p_value,
    readable_score,
)
from e2llm.evaluation.run_comparison import ItemChange, RunComparison, Status, SystemChange

_COLUMNS = (
    *("task", "system", "metric", "better", "worse", "same"),
    *("mean A", "mean B", "B - A", "95% interval", "p"),
)
_OTHER_STATUSES: tuple[Status, ...] = (
    "refused in A",
    "refused in B",
    "refused in both",
    "without a score",
    "only in A",
    "only in B",
)
_MOST_CHARS = 160  # of an answer


def format_comparison(comparison: RunComparison, num_items: int = 10) -> str:
    """Write a comparison as text: notes, settings, counts per task and system, the items that changed most.

    Args:
        comparison: What to write.
        num_items: Most items shown with both answers; 0 for none.

    Returns:
        Lines of printable text; what a model wrote cannot move the cursor.
    """
    parts = [
        f"A: {on_one_line(str(comparison.folder_a))}\nB: {on_one_line(str(comparison.folder_b))}",
        "\n".join(f"Note: {on_one_line(note)}" for note in comparison.notes),
        _settings(comparison),
        _table(comparison.systems),
        _others(comparison.systems),
        _items(comparison.most_changed(num_items)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _settings(comparison: RunComparison) -> str:
    lines = [
        f"  {on_one_line(change.name)}: {_value(change.value_a)} -> {_value(change.value_b)}"
        for change in comparison.settings
    ]
    return "\n".join(["Settings that differ:", *lines]) if lines else "All settings are equal."


def _value(value: str | None) -> str:
    return "(none)" if value is None else on_one_line(value, _MOST_CHARS)


def _table(systems: Sequence[SystemChange]) -> str:
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for change in systems:
        rows.append(
            (
                on_one_line(change.task),
                on_one_line(change.system),
                on_one_line(change.metric) + (" (lower is better)" if lower_is_better(change.metric) else ""),
                *(str(change.counts.get(status, 0)) for status in ("better", "worse")),
                _same(change),
                readable_score(change.mean_a),
                readable_score(change.mean_b),
                "–" if change.difference is None else readable_score(change.difference, signed=True),
                readable_interval(change.interval_95, signed=True) or "–",
                readable_p_value(change.p_value),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        names = [text.ljust(width) for text, width in zip(row[:3], widths[:3], strict=True)]
        numbers = [text.rjust(width) for text, width in zip(row[3:], widths[3:], strict=True)]
        lines.append("  ".join([*names, *numbers]).rstrip())
    if sum(change.p_value is not None for change in systems) > 1:
        lines.append("p is of each line by itself, without a correction for their number.")
    return "\n".join(lines)


def _same(change: SystemChange) -> str:
    count = str(change.counts.get("same", 0))
    return f"{count} ({change.num_reworded} in other words)" if change.num_reworded else count


def _others(systems: Sequence[SystemChange]) -> str:
    """What the table has no column for: refusals and items of one run alone."""
    lines = []
    for change in systems:
        found = [f"{change.counts[status]} {status}" for status in _OTHER_STATUSES if status in change.counts]
        if found:
            lines.append(f"  {on_one_line(change.task)}, {on_one_line(change.system)}: {', '.join(found)}")
    return "\n".join(["Items without a pair of scores:", *lines]) if lines else ""


def _items(items: Sequence[ItemChange]) -> str:
    lines = []
    for item in items:
        lines.append(
            f"  {item.status}: {on_one_line(item.task)}, {on_one_line(item.system)}, {on_one_line(item.id)}: "
            f"{readable_score(item.score_a)} -> {readable_score(item.score_b)}"
        )
        lines.append(f"    A: {_answer(item.text_a)}")
        lines.append(f"    B: {_answer(item.text_b)}")
    return "\n".join(["Items that changed most:", *lines]) if lines else ""


def _answer(text: str | None) -> str:
    return on_one_line(text or "", _MOST_CHARS) or "(nothing)"
