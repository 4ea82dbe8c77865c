"""The main table: time to the first token, per further token, and memory, by length of context.

Both sides use the same decoder and wording, each in a separate process. Repeats are interleaved, one side at
work at a time, so that a slow spell of the machine meets both.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from e2llm.bench.processes import Worker
from e2llm.bench.table import format_table

WAYS = ("full", "cold", "warm")
NEW_TOKENS = 16  # of each answer
_COLUMNS = {
    "context_tokens": "tokens", "ttft_full_s": "full s", "ttft_cold_s": "cold s", "ttft_warm_s": "warm s",
    "speedup_cold": "cold x", "speedup_warm": "warm x", "full_ms_per_token": "full ms/tok",
    "ours_ms_per_token": "ours ms/tok", "kv_ratio": "KV x", "peak_bytes_full": "peak full MB",
    "peak_bytes_ours": "peak ours MB", "gemm_fraction": "GEMM share",
}  # fmt: skip


def measure_speed(
    *,
    engine: dict[str, Any],
    contexts: Sequence[int],
    soft_tokens: int,
    repeats: int,
    on_progress: Callable[[str], Any] = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure rows, one per length.

    Args:
        engine: Arguments of `build_engine`.
        contexts: Lengths in decoder tokens.
        soft_tokens: K per chunk; a model with a rate is measured at its default one.
        repeats: Measurements of each way; the row holds their medians.
        on_progress: Called with a line before each measurement.

    Returns:
        Rows with medians, and `spread` with the least and the most of each time; a value that could not be
        measured is None, and `errors` says why.
    """
    rows = []
    for length in contexts:
        settings = {
            "engine": {**engine, "least_window": length + 1024, "soft_tokens": soft_tokens},
            "context_tokens": length,
            "soft_tokens": soft_tokens,
        }
        module = "e2llm.bench.sides"
        with (
            Worker(module, {**settings, "side": "ours"}) as ours,
            Worker(module, {**settings, "side": "full"}) as full,
        ):
            workers = {"full": full, "cold": ours, "warm": ours}
            found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            errors = {way: item.started["error"] for way, item in workers.items() if "error" in item.started}
            for number in range(repeats):
                for way in WAYS:
                    if way in errors:
                        continue
                    on_progress(f"{length:,} tokens, {way}, {number + 1} of {repeats}")
                    result = workers[way].ask(way)
                    if "error" in result:
                        errors[way] = result["error"]
                    else:
                        found[way].append(result)
            started = next((item.started for item in (ours, full) if "error" not in item.started), {})
            rows.append({**make_row(length, found, errors), **started})
    return rows


def make_row(length: int, found: dict[str, list[dict[str, Any]]], errors: dict[str, str]) -> dict[str, Any]:
    """Return a row of the table from the measurements of each way.

    Peaks are those of a process from its warm-up on; `extra_bytes` of them are above what it held with its
    models loaded. KV bytes are those of the prompt.
    """

    def median(way: str, key: str) -> float | None:
        values = [item[key] for item in found[way] if key in item]
        return statistics.median(values) if values else None

    row: dict[str, Any] = {"context_tokens": length}
    for way in WAYS:
        row[f"ttft_{way}_s"] = median(way, "ttft_s")
    for side, ways in (("full", ["full"]), ("ours", ["cold", "warm"])):
        row[f"{side}_ms_per_token"] = median(ways[0], "ms_per_token")
        row[f"positions_{side}"] = median(ways[0], "positions")
        row[f"kv_bytes_{side}"] = median(ways[0], "kv_bytes")
        items = [item for way in ways for item in found[way]]
        row[f"peak_bytes_{side}"] = max((item["peak_bytes"] for item in items), default=None)
        row[f"extra_bytes_{side}"] = max(
            (max(0, item["peak_bytes"] - item["loaded_bytes"]) for item in items), default=None
        )
    for key in ("gemm_fraction", "gemm_rate", "read_seconds"):
        row[key] = median("cold", key)
    row["speedup_cold"] = ratio(row["ttft_full_s"], row["ttft_cold_s"])
    row["speedup_warm"] = ratio(row["ttft_full_s"], row["ttft_warm_s"])
    row["kv_ratio"] = ratio(row["kv_bytes_full"], row["kv_bytes_ours"])
    row["peak_fraction"] = ratio(row["peak_bytes_ours"], row["peak_bytes_full"])
    row["ms_per_token_fraction"] = ratio(row["ours_ms_per_token"], row["full_ms_per_token"])
    row["repeats"] = {way: len(items) for way, items in found.items()}
    times = {way: [item["ttft_s"] for item in items] for way, items in found.items() if items}
    row["spread"] = {way: [min(values), max(values)] for way, values in times.items()}
    row["errors"] = errors
    return row


def ratio(above: float | None, below: float | None) -> float | None:
    """Return a quotient; None where a part is missing."""
    return above / below if above is not None and below else None


def format_speed(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    return format_table(rows, _COLUMNS)
