"""What the benchmarks share: workers in separate processes, measuring in turns, and plain tables."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from e2llm.measuring import peak_resident_bytes

OnProgress = Callable[[str], Any]


class Worker:
    """A process with an object whose methods are called from here; it has this process's number of threads.

    Each process has its own memory, and its crash is a result.

    Args:
        make: Returns the object from `settings`; called in the process at the first `ask`.
        settings: Plain values.
    """

    def __init__(self, make: Callable[[Any], Any], settings: Any) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, torch.get_num_threads(), make, settings)
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, method: str, *arguments: Any) -> dict[str, Any]:
        """Return what a method of the object returns, or `{"error": ...}`."""
        try:
            self._pipe.send((method, arguments))
            return dict(self._pipe.recv())
        except (EOFError, OSError):
            self._process.join()
            return {"error": f"the process ended with {self._process.exitcode}, probably out of memory"}

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.join()


def _run(pipe: Connection, num_threads: int, make: Callable[[Any], Any], settings: Any) -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # libraries print progress there, which is not part of a result
        os.dup2(nowhere.fileno(), 2)
    torch.set_num_threads(num_threads)
    target = None
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            target = make(settings) if target is None else target
            result = getattr(target, method)(*arguments)
        except Exception as error:  # the other measurements continue
            result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        pipe.send(result)


def measure_in_turns(
    sides: Mapping[str, Callable[[], dict[str, Any]]], repeats: int, on_progress: OnProgress
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Measure sides in turns, so that a slow spell of the machine affects all of them.

    Args:
        sides: Each measures once; a side that returns `{"error": ...}` is not measured again.
        repeats: Measurements of each side.
        on_progress: Called with a line before each measurement.

    Returns:
        The measurements and the errors by side.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    errors: dict[str, str] = {}
    for number in range(repeats):
        for name, measure in sides.items():
            if name in errors:
                continue
            on_progress(f"{name}, {number + 1} of {repeats}")
            result = measure()
            if "error" in result:
                errors[name] = result["error"]
            else:
                found[name].append(result)
    return found, errors


def spread(values: Iterable[float]) -> list[float]:
    """Return the smallest and the largest value."""
    known = list(values)
    return [min(known), max(known)]


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that this process has had: allocated on a GPU, resident on a CPU."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_resident_bytes()


def format_table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    """Return rows as text, a column for each key, with the errors of rows below.

    Args:
        rows: Results by key; a value that is missing or None is shown as `-`.
        columns: The title of each key's column. Values of keys that contain `_bytes` are shown in MB.
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
