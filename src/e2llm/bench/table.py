"""Results of a benchmark as a plain table."""

from collections.abc import Sequence
from typing import Any


def format_table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    """Return rows as text, a column for each key, with the errors of rows below.

    Args:
        rows: Results by key; a value that is missing or None is shown as `-`.
        columns: The title of each key's column. Values of keys that end in `_bytes` are shown in MB.
    """
    cells = [list(columns.values())]
    cells += [[_show(key, row.get(key)) for key in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    errors = [
        f"{row.get('context_tokens', '')} tokens, {way}: {error}"
        for row in rows
        for way, error in row.get("errors", {}).items()
    ]
    return "\n".join([*lines, *errors])


def _show(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if "_bytes" in key:
        return f"{value / 1e6:,.0f}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
