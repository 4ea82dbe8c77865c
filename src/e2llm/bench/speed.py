"""The main table: time to the first token, per further token, and memory, by length of context.

Each side, full context and soft tokens, has a process; both use the same decoder and wording. Attention is
the decoder's default (SDPA), and the prompt's pass computes the logits of its last position only.
"""

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from e2llm.bench.decoders import BENCH_QUESTION, build_engine, level_options, make_text
from e2llm.bench.timing import OnProgress, Worker, format_table, measure_in_turns, peak_bytes, spread
from e2llm.inference.context import Context
from e2llm.measuring import release_memory, reset_peak
from e2llm.store.chunk_store import ChunkStore

WAYS = ("full", "cold", "warm")  # the text in the window; read and ask; ask from a store
NEW_TOKENS = 16  # of each answer
_COLUMNS = {
    "context_tokens": "tokens", "ttft_full_s": "full s", "ttft_cold_s": "cold s", "ttft_warm_s": "warm s",
    "speedup_cold": "cold x", "speedup_warm": "warm x", "full_ms_per_token": "full ms/tok",
    "ours_ms_per_token": "ours ms/tok", "kv_ratio": "KV x", "peak_bytes_full": "peak full MB",
    "peak_bytes_ours": "peak ours MB",
}  # fmt: skip


class Side:
    """An engine with a text, ready to be measured; the one for `full` discards encoder and adapter.

    Args:
        settings: `engine` (arguments of `build_engine`), `side` (`full` or `ours`), `context_tokens`,
            `soft_tokens` and `store` (a folder for warm runs).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.engine = build_engine(**settings["engine"])
        self.engine.model.generation_config.eos_token_id = None  # every answer gets its full length
        self.level = level_options(self.engine, settings["soft_tokens"])
        self.text = make_text(self.engine, settings["context_tokens"])
        self.store = ChunkStore(settings["store"])
        short = self.text[:2000]
        if settings["side"] == "full":
            self.engine.model.chunk_encoder.to("meta")
            self.engine.model.adapter.to("meta")
            self.engine.ask(Context.of_text(short), BENCH_QUESTION, expand=[0], max_new_tokens=2)
        else:
            context = self.engine.read(short, progress=False)
            self.engine.ask(context, BENCH_QUESTION, **self.level, max_new_tokens=2)
        reset_peak()  # building takes more than measuring

    def describe(self) -> dict[str, Any]:
        """Return the size of the text."""
        tokens = self.engine.count_tokens(self.text)
        return {"context_tokens": tokens, "chars_per_token": len(self.text) / tokens}

    def measure(self, way: str) -> dict[str, Any]:
        """Measure one way: seconds to the first token (reading included), per further token, and size."""
        release_memory()
        engine, options = self.engine, {**self.level, "expand": []}
        if way == "full":
            context, options = Context.of_text(self.text), {"expand": [0]}
        else:
            store = self.store if way == "warm" else None
            if store is not None and not len(store):
                engine.read(self.text, store=store, progress=False)
            context = engine.read(self.text, store=store, progress=False)
        answer = engine.ask(context, BENCH_QUESTION, **options, max_new_tokens=NEW_TOKENS, sources="ranked")
        first = answer.timing.first_token_seconds or 0.0
        positions = answer.usage.soft_tokens + answer.usage.raw_tokens
        return {
            "ttft_s": context.read_seconds + first,
            "ms_per_token": (answer.timing.total_seconds - first) / (NEW_TOKENS - 1) * 1e3,
            "positions": positions,
            "kv_bytes": positions * int(engine.model.cache_bytes_per_token),
            "peak_bytes": peak_bytes(engine.device),
        }


def measure_speed(
    *,
    engine: dict[str, Any],
    contexts: Sequence[int],
    soft_tokens: int,
    repeats: int,
    on_progress: OnProgress = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure rows, one per length.

    Args:
        engine: Arguments of `build_engine`.
        contexts: Lengths in decoder tokens.
        soft_tokens: Soft tokens per chunk; a model with a rate is measured at its default rate.
        repeats: Measurements of each way; the row contains their medians.
        on_progress: Called with a line before each measurement.

    Returns:
        Rows with medians, and `spread` with the minimum and maximum of each time; a value that could not be
        measured is None, and `errors` has the reason.
    """
    rows = []
    for length in contexts:
        with TemporaryDirectory() as store:
            settings = {
                "engine": {**engine, "least_window": length + 1024, "soft_tokens": soft_tokens},
                "context_tokens": length,
                "soft_tokens": soft_tokens,
                "store": store,
            }
            with (
                Worker(Side, {**settings, "side": "ours"}) as ours,
                Worker(Side, {**settings, "side": "full"}) as full,
            ):
                on_progress(f"contexts of {length:,} tokens")
                workers = {"full": full, "cold": ours, "warm": ours}
                described = [worker.ask("describe") for worker in (full, ours)]
                sides = {way: partial(worker.ask, "measure", way) for way, worker in workers.items()}
                found, errors = measure_in_turns(sides, repeats, on_progress)
            known = next((item for item in described if "error" not in item), {})
            rows.append({**make_row(length, found, errors), **known})
    return rows


def make_row(
    length: int, found: Mapping[str, list[dict[str, Any]]], errors: dict[str, str]
) -> dict[str, Any]:
    """Return a row of the table from the measurements of each way.

    Peaks are those of a process after its warm-up. KV bytes are those of the prompt.
    """

    def median(way: str, key: str) -> float | None:
        values = [item[key] for item in found[way]]
        return statistics.median(values) if values else None

    row: dict[str, Any] = {"context_tokens": length}
    row |= {f"ttft_{way}_s": median(way, "ttft_s") for way in WAYS}
    for side, ways in (("full", ["full"]), ("ours", ["cold", "warm"])):
        row[f"{side}_ms_per_token"] = median(ways[0], "ms_per_token")
        row[f"positions_{side}"] = median(ways[0], "positions")
        row[f"kv_bytes_{side}"] = median(ways[0], "kv_bytes")
        row[f"peak_bytes_{side}"] = max((m["peak_bytes"] for way in ways for m in found[way]), default=None)
    row["speedup_cold"] = ratio(row["ttft_full_s"], row["ttft_cold_s"])
    row["speedup_warm"] = ratio(row["ttft_full_s"], row["ttft_warm_s"])
    row["kv_ratio"] = ratio(row["kv_bytes_full"], row["kv_bytes_ours"])
    row["spread"] = {way: spread(item["ttft_s"] for item in items) for way, items in found.items() if items}
    row["repeats"] = {way: len(items) for way, items in found.items()}
    return {**row, "errors": errors}


def ratio(above: float | None, below: float | None) -> float | None:
    """Return a quotient; None if a part is missing."""
    return above / below if above is not None and below else None


def format_speed(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    return format_table(rows, _COLUMNS)
