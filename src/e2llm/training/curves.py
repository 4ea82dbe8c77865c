"""Loss curves as CSV and, where matplotlib is installed, as PNG."""

import csv
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2llm.files import write_atomically

COLUMNS = (
    "step",
    "loss",
    "language_loss",
    "understanding_loss",
    "reasoning_loss",
    "eval_language_loss",
    "eval_understanding_loss",
    "eval_reasoning_loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "peak_memory_mb",
)


def curve_rows(log_history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per step from the trainer's log; columns without a value are left empty."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in log_history:
        if "step" in entry:
            row = rows.setdefault(int(entry["step"]), {"step": int(entry["step"])})
            row.update({key: entry[key] for key in COLUMNS if key in entry})
    return [row for _, row in sorted(rows.items()) if len(row) > 1]


def write_curves(log_history: Sequence[dict[str, Any]], folder: Path, title: str) -> None:
    """Write `curves.csv` and `curves.png`, each whole or not at all."""
    rows = curve_rows(log_history)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / "curves.csv", text.getvalue().encode())
    png = draw_curves(rows, title)
    if png is not None:
        write_atomically(folder / "curves.png", png)


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_curves(rows: Sequence[dict[str, Any]], title: str) -> bytes | None:
    """Draw the losses over the steps; None without matplotlib or without rows."""
    if not can_draw():
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for column in (name for name in COLUMNS if name.endswith("_loss")):
        points = [(row["step"], row[column]) for row in rows if row.get(column) is not None]
        if points:
            style = {"marker": "o", "markersize": 3} if column.startswith("eval") else {"linewidth": 1}
            axes.plot(*zip(*points, strict=True), label=column.replace("_", " "), **style)
    if not axes.lines:
        return None
    axes.set(xlabel="optimizer step", ylabel="cross-entropy per token (nats)", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()
