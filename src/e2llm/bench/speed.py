"""The main table: time to the first token, per further token, and memory, by length of context.

Both sides use the same decoder and wording, each in a process of its own. The repeats are interleaved, one
side at work at a time, so that a slow spell of the machine meets both.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch

WAYS = ("full", "cold", "warm")


class Worker:
    """A process that measures one side.

    Args:
        settings: Its first line.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "e2llm.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)},
        )
        self.started = self._exchange(settings)

    def measure(self, way: str) -> dict[str, Any]:
        """One measurement, or `{"error": ...}`."""
        if "error" in self.started:
            return self.started
        return self._exchange(way)

    def _exchange(self, content: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            return {"error": f"the process ended with {code}, probably out of memory"}
        return dict(json.loads(line))

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()


def measure_speed(
    *,
    engine: dict[str, Any],
    contexts: Sequence[int],
    soft_tokens: int,
    new_tokens: int,
    repeats: int,
    text: str | None = None,
    on_progress: Callable[[str], Any] | None = None,
) -> list[dict[str, Any]]:
    """Measure rows, one per length.

    Args:
        engine: Arguments of `build_engine`.
        contexts: Lengths in decoder tokens.
        soft_tokens: K per chunk.
        new_tokens: Tokens of each answer, 2 or more.
        repeats: Measurements of each way; the row holds their medians.
        text: Text to use, repeated as need be, in the place of one made up.
        on_progress: Called with a line before each measurement.

    Returns:
        Rows with the keys of the table, medians, and `spread` with the least and the most of each time; a
        value that could not be measured is None, and `errors` says why.
    """
    rows = []
    for length in contexts:
        settings = {
            "engine": {**engine, "least_window": length + 1024, "soft_tokens": soft_tokens},
            "context_tokens": length,
            "soft_tokens": soft_tokens,
            "new_tokens": new_tokens,
            "num_threads": torch.get_num_threads(),
            **({} if text is None else {"text": text}),
        }
        with Worker(settings) as ours, Worker(settings) as full:
            found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            errors: dict[str, str] = {}
            for number in range(repeats):
                for way in WAYS:
                    if way in errors:
                        continue
                    if on_progress is not None:
                        on_progress(f"{length:,} tokens, {way}, {number + 1} of {repeats}")
                    result = (full if way == "full" else ours).measure(way)
                    if "error" in result:
                        errors[way] = result["error"]
                    else:
                        found[way].append(result)
            rows.append(make_row(length, ours.started.get("context_tokens"), found, errors))
    return rows


def make_row(
    length: int, counted: int | None, found: dict[str, list[dict[str, Any]]], errors: dict[str, str]
) -> dict[str, Any]:
    """A row of the table from the measurements of each way."""

    def median(way: str, key: str) -> float | None:
        values = [item[key] for item in found[way] if key in item]
        return statistics.median(values) if values else None

    row: dict[str, Any] = {
        "context_tokens": counted or length,
        "ttft_full_s": median("full", "ttft_s"),
        "ttft_cold_s": median("cold", "ttft_s"),
        "ttft_warm_s": median("warm", "ttft_s"),
        "full_ms_per_token": median("full", "ms_per_token"),
        "ours_ms_per_token": median("cold", "ms_per_token"),
        "positions_full": median("full", "positions"),
        "positions_ours": median("cold", "positions"),
        "kv_bytes_full": median("full", "kv_bytes"),
        "kv_bytes_ours": median("cold", "kv_bytes"),
        "peak_bytes_full": max((item["peak_bytes"] for item in found["full"]), default=None),
        "peak_bytes_ours": max((item["peak_bytes"] for item in found["cold"]), default=None),
        "gemm_fraction": median("cold", "gemm_fraction"),
        "gemm_rate": median("cold", "gemm_rate"),
        "read_seconds": median("cold", "read_seconds"),
    }
    row["speedup_cold"] = ratio(row["ttft_full_s"], row["ttft_cold_s"])
    row["speedup_warm"] = ratio(row["ttft_full_s"], row["ttft_warm_s"])
    row["kv_ratio"] = ratio(row["kv_bytes_full"], row["kv_bytes_ours"])
    row["peak_fraction"] = ratio(row["peak_bytes_ours"], row["peak_bytes_full"])
    row["ms_per_token_fraction"] = ratio(row["ours_ms_per_token"], row["full_ms_per_token"])
    row["repeats"] = {way: len(items) for way, items in found.items()}
    row["spread"] = {
        way: [min(item["ttft_s"] for item in items), max(item["ttft_s"] for item in items)]
        for way, items in found.items()
        if items
    }
    row["errors"] = errors
    return row


def ratio(above: float | None, below: float | None) -> float | None:
    """A quotient; None where a part is missing."""
    return above / below if above is not None and below else None


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """A plain table."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("tokens", lambda row: f"{row['context_tokens']:,}"),
        ("full s", lambda row: _number(row["ttft_full_s"], ".2f")),
        ("cold s", lambda row: _number(row["ttft_cold_s"], ".2f")),
        ("warm s", lambda row: _number(row["ttft_warm_s"], ".3f")),
        ("cold x", lambda row: _number(row["speedup_cold"], ".1f")),
        ("warm x", lambda row: _number(row["speedup_warm"], ".1f")),
        ("full ms/tok", lambda row: _number(row["full_ms_per_token"], ".1f")),
        ("ours ms/tok", lambda row: _number(row["ours_ms_per_token"], ".1f")),
        ("KV x", lambda row: _number(row["kv_ratio"], ".1f")),
        ("peak full MB", lambda row: _number(row["peak_bytes_full"], ",.0f", 1e-6)),
        ("peak ours MB", lambda row: _number(row["peak_bytes_ours"], ",.0f", 1e-6)),
        ("GEMM share", lambda row: _number(row["gemm_fraction"], ".2f")),
    ]
    cells = [[name for name, _ in columns], *([show(row) for _, show in columns] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    notes = [
        f"{row['context_tokens']:,} tokens, {way}: {error}"
        for row in rows
        for way, error in row["errors"].items()
    ]
    return "\n".join([*lines, *notes])


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(value * scale, form)
