import io
import json
import os
import sys
from typing import ClassVar

import pytest
import torch

from e2llm.bench import processes, sides, speed
from e2llm.bench.processes import Worker
from e2llm.bench.speed import format_speed, make_row, measure_speed, ratio

PROMISED = {
    "context_tokens",
    "ttft_full_s",
    "ttft_cold_s",
    "ttft_warm_s",
    "full_ms_per_token",
    "ours_ms_per_token",
    "kv_bytes_full",
    "kv_bytes_ours",
    "peak_bytes_full",
    "peak_bytes_ours",
    "gemm_fraction",
}


def measurement(seconds, **more):
    sizes = {"positions": 10, "kv_bytes": 100, "peak_bytes": 500, "loaded_bytes": 400}
    return {"ttft_s": seconds, "ms_per_token": 10 * seconds, **sizes, **more}


@pytest.fixture
def row():
    cold = [measurement(seconds, peak_bytes=300, gemm_fraction=0.5) for seconds in (1.0, 9.0, 2.0)]
    found = {"full": [measurement(20.0), measurement(24.0)], "cold": cold, "warm": [measurement(0.5)]}
    return make_row(64, found, {})


def test_a_row_holds_medians_and_spread(row):
    assert row["ttft_cold_s"] == 2.0
    assert row["ttft_full_s"] == 22.0
    assert row["spread"] == {"full": [20.0, 24.0], "cold": [1.0, 9.0], "warm": [0.5, 0.5]}
    assert row["repeats"] == {"full": 2, "cold": 3, "warm": 1}


def test_ratios_are_of_the_medians(row):
    assert row["speedup_cold"] == 11.0
    assert row["speedup_warm"] == 44.0
    assert row["ms_per_token_fraction"] == 20.0 / 220.0


def test_the_peak_of_our_side_counts_warm_runs_too(row):
    assert row["peak_bytes_ours"] == 500
    assert row["extra_bytes_ours"] == 100


def test_a_row_has_the_promised_keys(row):
    assert row.keys() >= PROMISED


def test_a_ratio_of_something_missing_is_missing():
    assert [ratio(6.0, 2.0), ratio(None, 2.0), ratio(6.0, None), ratio(6.0, 0)] == [3.0, None, None, None]


def test_a_side_that_failed_leaves_nulls_and_a_note():
    ours = [measurement(1.0, gemm_fraction=0.5)]
    row = make_row(64, {"full": [], "cold": ours, "warm": ours}, {"full": "no memory"})
    assert (
        row["ttft_full_s"] is row["speedup_cold"] is row["peak_bytes_full"] is row["extra_bytes_full"] is None
    )
    assert row["ttft_cold_s"] == 1.0
    assert format_speed([row]).splitlines()[-1] == "64 tokens, full: no memory"


class FakeWorker:
    """Notes what is asked of it; the full side fails from its second measurement on."""

    log: ClassVar[list[str]] = []

    def __init__(self, module, settings):
        self.side = settings["side"]
        self.started = {"context_tokens": settings["context_tokens"], "chars_per_token": 4.0}

    def ask(self, way):
        self.log.append(f"{self.side} {way}")
        failed = way == "full" and self.log.count("full full") > 1
        return {"error": "no memory"} if failed else measurement(1.0)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.log.append(f"{self.side} ends")


def measure(monkeypatch, worker, **more):
    monkeypatch.setattr(speed, "Worker", worker)
    options = {"contexts": [64], "soft_tokens": 1, "repeats": 3, **more}
    return measure_speed(engine={"shape": "smollm2-135m"}, **options)


def test_repeats_take_turns_and_a_way_that_failed_is_not_tried_again(monkeypatch):
    FakeWorker.log = []
    (row,) = measure(monkeypatch, FakeWorker)
    turn = ["full full", "ours cold", "ours warm"]
    assert FakeWorker.log == [*turn, *turn, *turn[1:], "full ends", "ours ends"]
    assert row["repeats"] == {"full": 1, "cold": 3, "warm": 3}
    assert row["errors"] == {"full": "no memory"}


def run_as_worker(monkeypatch, code):
    """Have `Worker` run a line of Python in the place of the module."""
    start = processes.subprocess.Popen
    monkeypatch.setattr(
        processes.subprocess, "Popen", lambda command, **more: start([sys.executable, "-c", code], **more)
    )


def test_a_killed_worker_is_an_error_and_not_a_crash(monkeypatch):
    run_as_worker(monkeypatch, "import os; input(); os.kill(os.getpid(), 9)")
    with Worker("nothing", {}) as worker:
        assert worker.ask("full") == {"error": "the process was killed, probably out of memory"}


def test_what_a_worker_said_before_it_ended_is_told(monkeypatch):
    run_as_worker(monkeypatch, "input(); raise SystemExit('no such library')")
    with Worker("nothing", {}) as worker:
        assert worker.started == {"error": "the process ended with 1: no such library"}


def test_an_interrupt_while_a_worker_starts_ends_it(monkeypatch):
    run_as_worker(monkeypatch, "import os; print(os.getpid(), flush=True); [input() for _ in iter(int, 1)]")
    seen = []

    def interrupted(line):
        seen.append(int(line))
        raise KeyboardInterrupt

    monkeypatch.setattr(processes.json, "loads", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Worker("nothing", {})
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)


def test_a_worker_answers_each_command_with_a_line(monkeypatch):
    class Side:
        def __init__(self, settings, store):
            self.text = "four"
            self.engine = type("Engine", (), {"count_tokens": staticmethod(len)})

        def measure(self, way):
            if way == "full":
                raise MemoryError("too large")
            return {"ttft_s": 1.0}

    monkeypatch.setattr(sides, "Side", Side)
    replies = io.StringIO()
    threads = torch.get_num_threads()
    sides.serve(io.StringIO(f'{{"num_threads": {threads}}}\n"full"\n"cold"\n'), replies)
    assert [json.loads(line) for line in replies.getvalue().splitlines()] == [
        {"context_tokens": 4, "chars_per_token": 1.0},
        {"error": "MemoryError: too large"},
        {"ttft_s": 1.0},
    ]


def test_a_side_that_cannot_be_built_answers_why(monkeypatch):
    def fail(settings, store):
        raise ValueError("no such\nshape")

    monkeypatch.setattr(sides, "Side", fail)
    replies = io.StringIO()
    sides.serve(io.StringIO(f'{{"num_threads": {torch.get_num_threads()}}}\n"full"\n'), replies)
    assert json.loads(replies.getvalue()) == {"error": "ValueError: no such shape"}
