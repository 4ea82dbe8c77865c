"""The scores of a run as text for a terminal."""

from collections.abc import Mapping
from typing import Any

from e2llm.evaluation.readable import (
    lower_is_better,
    on_one_line,
    readable_count,
    readable_interval,
    readable_score,
)

_COLUMNS = ("task", "system", "n", "metric", "mean", "95% interval", "positions", "first token (s)")
_NUM_TEXTS = 2  # columns from the left whose cells are set to the left


def format_scores(scores: Mapping[str, Any]) -> str:
    """Write the content of scores.json as a table: a line for each task and system.

    Args:
        scores: As the runner returns them.

    Returns:
        Lines of printable text, the last one without its end.
    """
    rows = [_COLUMNS, *(_cells(row) for row in scores["rows"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        texts = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        numbers = [text.rjust(width) for text, width in zip(row, widths, strict=True)]
        lines.append("  ".join([*texts[:_NUM_TEXTS], *numbers[_NUM_TEXTS:]]).rstrip())
    notes = scores["provenance"].get("notes", [])
    return "\n".join([*lines, *(f"Note: {on_one_line(note)}" for note in notes)])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    count = str(row["num_items"])
    if row["num_refused"]:
        count += f" ({row['num_refused']} refused)"
    metric, cost = row["metric"], row["cost"]
    positions, first = cost.get("decoder_positions"), cost.get("first_token_seconds")
    return (
        on_one_line(row["task"]),
        on_one_line(row["system"]),
        count,
        f"{metric} (lower is better)" if lower_is_better(metric) else metric,
        readable_score(row["values"].get(metric)),
        readable_interval(row["intervals_95"].get(metric)) or "–",
        "–" if positions is None else readable_count(positions),
        readable_score(first),
    )
