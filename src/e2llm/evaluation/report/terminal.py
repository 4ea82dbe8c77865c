"""The scores of a run as a table for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from e2llm.evaluation.report.readable import (
    lower_is_better,
    on_one_line,
    readable_count,
    readable_interval,
    readable_score,
)

_COLUMNS = ("task", "system", "n", "metric", "mean", "95% interval", "positions", "first token (s)")


def aligned(rows: Iterable[Sequence[str]], num_texts: int) -> list[str]:
    """Return rows as lines of printable text with aligned columns, the first `num_texts` to the left."""
    printable = [[on_one_line(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*printable, strict=True)]
    lines = []
    for row in printable:
        cells = [
            text.ljust(width) if place < num_texts else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def format_scores(scores: Mapping[str, Any]) -> str:
    """Write the content of scores.json as a table, a line for each task and system, with the notes below."""
    notes = scores["provenance"].get("notes", [])
    table = aligned([_COLUMNS, *map(_cells, scores["rows"])], num_texts=2)
    return "\n".join([*table, *(f"Note: {on_one_line(note)}" for note in notes)])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    metric, cost = row["metric"], row["cost"]
    refused = f" ({row['num_refused']} refused)" if row["num_refused"] else ""
    positions = cost.get("decoder_positions")
    return (
        row["task"],
        row["system"],
        f"{row['num_items']}{refused}",
        f"{metric} (lower is better)" if lower_is_better(metric) else metric,
        readable_score(row["values"].get(metric)),
        readable_interval(row["intervals_95"].get(metric)) or "–",
        "–" if positions is None else readable_count(positions),
        readable_score(cost.get("first_token_seconds")),
    )
