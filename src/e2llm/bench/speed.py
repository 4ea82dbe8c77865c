"""The main table: time to the first token, per further token, and memory, by length of context.

Both sides use the same decoder and wording, each in a process of its own. The repeats are interleaved, one
side at work at a time, so that a slow spell of the machine meets both.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch

from e2llm.modeling.rates import Rate

WAYS = ("full", "cold", "warm")


class Worker:
    """A process that measures one side.

    Args:
        settings: Its first line.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "e2llm.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(item for item in sys.path if item)},
        )
        try:
            self.started = self._exchange(settings)
        except BaseException:
            self._end(kill=True)
            raise

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
            return {"error": self._why_ended(self._process.wait())}
        return dict(json.loads(line))

    def _why_ended(self, code: int) -> str:
        if code == -9:
            return "the process was killed, probably out of memory"
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return f"the process ended with {code}: {lines[-1][:300] if lines else 'it said nothing'}"

    def _end(self, *, kill: bool) -> None:
        if kill:
            self._process.kill()
        self._process.communicate()
        self._complaints.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(kill=kind is not None)


def measure_speed(
    *,
    engine: dict[str, Any],
    contexts: Sequence[int],
    soft_tokens: int,
    new_tokens: int,
    repeats: int,
    text: str | None = None,
    rate: Rate | None = None,
    on_progress: Callable[[str], Any] | None = None,
) -> list[dict[str, Any]]:
    """Measure rows, one per length.

    Args:
        engine: Arguments of `build_engine`.
        contexts: Lengths in decoder tokens.
        soft_tokens: K per chunk.
        new_tokens: Tokens of each answer, 2 or more.
        repeats: Measurements of each way; the row holds their medians.
        rate: In the place of `soft_tokens`, for a model whose dial is the rate; None for its default one.
        text: Text to use, repeated and cut to each length, in the place of one made up.
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
            "rate": rate,
            "new_tokens": new_tokens,
            "num_threads": torch.get_num_threads(),
            **({} if text is None else {"text": text}),
        }
        with Worker({**settings, "side": "ours"}) as ours, Worker({**settings, "side": "full"}) as full:
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
            rows.append({**make_row(length, found, errors), **started_facts(ours.started, full.started)})
    return rows


def started_facts(*replies: dict[str, Any]) -> dict[str, Any]:
    """What the first side that came up says of the text: its tokens, and characters per token."""
    return next((item for item in replies if "error" not in item), {"chars_per_token": None})


def make_row(length: int, found: dict[str, list[dict[str, Any]]], errors: dict[str, str]) -> dict[str, Any]:
    """A row of the table from the measurements of each way.

    Peaks are those of a process from its warm-up on, in bytes; `extra_bytes` of them are above what it held
    with its models loaded. KV bytes are those of the prompt.
    """

    def most(ways: Sequence[str], key: str) -> int | None:
        return max((item[key] for way in ways for item in found[way]), default=None)

    def median(way: str, key: str) -> float | None:
        values = [item[key] for item in found[way] if key in item]
        return statistics.median(values) if values else None

    row: dict[str, Any] = {
        "context_tokens": length,
        "ttft_full_s": median("full", "ttft_s"),
        "ttft_cold_s": median("cold", "ttft_s"),
        "ttft_warm_s": median("warm", "ttft_s"),
        "full_ms_per_token": median("full", "ms_per_token"),
        "ours_ms_per_token": median("cold", "ms_per_token"),
        "positions_full": median("full", "positions"),
        "positions_ours": median("cold", "positions"),
        "kv_bytes_full": median("full", "kv_bytes"),
        "kv_bytes_ours": median("cold", "kv_bytes"),
        "peak_bytes_full": most(["full"], "peak_bytes"),
        "peak_bytes_ours": most(["cold", "warm"], "peak_bytes"),
        "gemm_fraction": median("cold", "gemm_fraction"),
        "gemm_rate": median("cold", "gemm_rate"),
        "gemm_rate_square": median("cold", "gemm_rate_square"),
        "gemm_rate_encoder": median("cold", "gemm_rate_encoder"),
        "read_seconds": median("cold", "read_seconds"),
    }
    for side, ways in (("full", ["full"]), ("ours", ["cold", "warm"])):
        peak, loaded = row[f"peak_bytes_{side}"], most(ways, "loaded_bytes")
        row[f"extra_bytes_{side}"] = None if peak is None or loaded is None else max(0, peak - loaded)
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
