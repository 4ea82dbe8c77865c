"""Show a run: log lines and a progress bar on stderr, loss curves as CSV and PNG in its folder."""

import csv
import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.messages import printable
from e2llm.training.recipes.schema import Recipe
from e2llm.training.samples.sample_set import OBJECTIVES

COLUMNS = (
    "step",
    "loss",
    *(f"{name}_loss" for name in OBJECTIVES),
    "distillation_loss",
    *(f"eval_{name}_loss" for name in OBJECTIVES),
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "peak_memory_mb",
)


def is_first_process() -> bool:
    """Return whether this is the first of the processes that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def only_one_process(what: str) -> None:
    """Raise `E2LLMError` if `torchrun` started several processes for a command that runs in one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise E2LLMError(f"{what} runs in one process; start it without torchrun")


def say(text: str) -> None:
    """Print a note on stderr, in the first process only."""
    if is_first_process():
        print(printable(text), file=sys.stderr, flush=True)


def loss_terms(recipe: Recipe) -> dict[str, float]:
    """Return the weight of each part of a run's loss."""
    settings = recipe.objectives
    weights = {"understanding": settings.understanding.weight, "reasoning": 1.0}
    if settings.distillation.teacher is not None:
        weights["distillation"] = settings.distillation.weight
    return weights


def log_line(logs: dict[str, Any], step: int, steps: int, weights: dict[str, float]) -> str | None:
    """Return the line that shows a log entry; None if the entry has no loss.

    Args:
        logs: An entry of the trainer's log.
        step: The number of the step.
        steps: The number of steps of the run.
        weights: Of `loss_terms`.
    """
    if "loss" in logs:
        terms = [
            f"{'' if weight == 1 else f'{weight:g} x '}{name} {logs[f'{name}_loss']:.3f}"
            for name, weight in weights.items()
            if f"{name}_loss" in logs
        ]
        parts = [f"loss {logs['loss']:.3f}{' = ' if terms else ''}{' + '.join(terms)}"]
        if "learning_rate" in logs:
            parts.append(f"lr {logs['learning_rate']:.2e}")
        if "grad_norm" in logs:
            parts.append(f"grad norm {float(logs['grad_norm']):.2f}")
        if "tokens_per_second" in logs:
            parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
        if "peak_memory_mb" in logs:
            parts.append(f"peak {logs['peak_memory_mb']:,.0f} MB")
    else:
        losses = {name: logs.get(f"eval_{name}_loss") for name in OBJECTIVES}
        parts = [f"{name} {value:.3f}" for name, value in losses.items() if value is not None]
        if not parts:
            return None
        parts[0] = f"held out: {parts[0]}"
    return f"step {step:>{len(str(steps))}}/{steps}  " + "  ".join(parts)


class ConsoleCallback(TrainerCallback):  # type: ignore[misc]
    """Prints log lines and, on a terminal, keeps a progress bar below them.

    Args:
        weights: Of `loss_terms`.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        self.progress: Any = None
        self.task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the bar."""
        if not state.is_world_process_zero or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.progress.start()
        self.task = self.progress.add_task("steps", total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self.progress is not None:
            self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print the line."""
        line = log_line(logs or {}, state.global_step, state.max_steps, self.weights)
        if line is None or not state.is_world_process_zero:
            return
        if self.progress is None:
            say(line)
        else:
            self.progress.console.print(line, highlight=False, markup=False)

    def close(self) -> None:
        """Remove the bar; may be called more than once."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


class CurveCallback(TrainerCallback):  # type: ignore[misc]
    """Writes the loss curves at every save and at the end."""

    def __init__(self, folder: Path, title: str) -> None:
        self.folder, self.title = folder, title

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Print a note if matplotlib is missing."""
        if state.is_world_process_zero and not has_matplotlib():
            say("no matplotlib, no curves.png; curves.csv is written (pip install 'e2llm[train]')")

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the curves up to this step."""
        if state.is_world_process_zero:
            write_curves(state.log_history, self.folder, self.title)

    on_train_end = on_save


def curve_rows(log_history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per step of the trainer's log; rows lack columns without a value."""
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


def has_matplotlib() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_curves(rows: Sequence[dict[str, Any]], title: str) -> bytes | None:
    """Draw the losses over the steps; None without matplotlib or without rows."""
    if not has_matplotlib():
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
