"""The benchmark's table as a picture."""

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2llm.errors import MissingExtraError
from e2llm.files import write_atomically


def check_drawing() -> None:
    """Tell that matplotlib is missing before minutes are spent on what it is to draw.

    Raises:
        MissingExtraError: If it is.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "bench")


def draw_speed(rows: Sequence[dict[str, Any]], file: Path, title: str) -> None:
    """Write a PNG: time to the first token and peak memory by length of context.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "bench") from error
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    figure.suptitle(title)
    times, memory = figure.subplots(1, 2)
    lines = [("ttft_full_s", "full context"), ("ttft_cold_s", "e2llm, cold"), ("ttft_warm_s", "e2llm, warm")]
    for key, label in lines:
        _line(times, rows, key, label, 1.0)
    times.set_ylabel("seconds to the first token")
    for key, label in (("peak_bytes_full", "full context"), ("peak_bytes_ours", "e2llm")):
        _line(memory, rows, key, label, 1e-9)
    memory.set_ylabel("peak memory (GB)")
    for axes in (times, memory):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("context tokens")
        axes.legend()
    times.set_yscale("log")
    memory.set_ylim(bottom=0)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_atomically(file, stream.getvalue())


def _line(axes: Any, rows: Sequence[dict[str, Any]], key: str, label: str, scale: float) -> None:
    pairs = [(row["context_tokens"], row[key] * scale) for row in rows if row[key] is not None]
    axes.plot([at for at, _ in pairs], [value for _, value in pairs], "o-", label=label)
