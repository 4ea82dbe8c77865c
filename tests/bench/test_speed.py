import os
from typing import ClassVar

import pytest

from e2llm.bench import speed
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
}


def measurement(seconds, **more):
    sizes = {"positions": 10, "kv_bytes": 100, "peak_bytes": 500}
    return {"ttft_s": seconds, "ms_per_token": 10 * seconds, **sizes, **more}


@pytest.fixture
def row():
    cold = [measurement(seconds, peak_bytes=300) for seconds in (1.0, 9.0, 2.0)]
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
    assert row["kv_ratio"] == 1.0


def test_the_peak_of_our_side_counts_warm_runs_too(row):
    assert row["peak_bytes_ours"] == 500


def test_a_row_has_the_promised_keys(row):
    assert row.keys() >= PROMISED


def test_a_ratio_of_something_missing_is_missing():
    assert [ratio(6.0, 2.0), ratio(None, 2.0), ratio(6.0, None), ratio(6.0, 0)] == [3.0, None, None, None]


def test_a_side_that_failed_leaves_nulls_and_a_note():
    ours = [measurement(1.0)]
    row = make_row(64, {"full": [], "cold": ours, "warm": ours}, {"full": "no memory"})
    assert row["ttft_full_s"] is row["speedup_cold"] is row["peak_bytes_full"] is None
    assert row["ttft_cold_s"] == 1.0
    assert format_speed([row]).splitlines()[-1] == "64 tokens, full: no memory"


class FakeWorker:
    """Notes what is asked of it; the full side fails from its second measurement on."""

    log: ClassVar[list[str]] = []

    def __init__(self, make, settings):
        self.side = settings["side"]

    def ask(self, method, way=None):
        if method == "describe":
            return {"context_tokens": 64, "chars_per_token": 4.0}
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


class Echo:
    """What a worker may do: answer, fail, and die."""

    def __init__(self, settings):
        if settings == "fail":
            raise ValueError("no such\nshape")

    def answer(self, value):
        return {"value": value, "process": os.getpid()}

    def die(self):
        os._exit(9)


def test_a_worker_answers_from_another_process_until_it_ends():
    with Worker(Echo, "settings") as worker:
        first, second = worker.ask("answer", 1), worker.ask("answer", 2)
        assert (first["value"], second["value"]) == (1, 2)
        assert first["process"] == second["process"] != os.getpid()
        assert worker.ask("absent")["error"].startswith("AttributeError: ")
        assert worker.ask("die") == {"error": "the process ended with 9, probably out of memory"}
    with pytest.raises(ProcessLookupError):
        os.kill(first["process"], 0)


def test_an_object_that_cannot_be_built_answers_why():
    with Worker(Echo, "fail") as worker:
        assert worker.ask("answer", 1) == {"error": "ValueError: no such shape"}
