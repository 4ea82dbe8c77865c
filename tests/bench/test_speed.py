import os
from typing import ClassVar

import pytest

from e2llm import Engine
from e2llm.bench import decoders, speed
from e2llm.bench.decoders import build_engine, make_text
from e2llm.bench.speed import format_speed, make_row, measure_speed, ratio
from e2llm.bench.timing import Worker
from e2llm.errors import E2LLMError
from tiny_models import tiny_model, tiny_processor

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


@pytest.fixture
def make_side(monkeypatch, tmp_path):
    monkeypatch.setattr(speed, "build_engine", lambda **_: Engine(tiny_model(), tiny_processor()))
    monkeypatch.setattr(speed, "reset_peak", lambda: None)  # that of the test run is not ours to change
    settings = {"engine": {}, "soft_tokens": 1, "context_tokens": 100, "store": tmp_path / "store"}
    return lambda side: speed.Side({**settings, "side": side})


def test_the_full_side_does_without_the_encoder(make_side):
    side = make_side("full")
    assert {item.device.type for item in side.engine.model.chunk_encoder.parameters()} == {"meta"}
    result = side.measure("full")
    assert result["positions"] > 100
    assert result["kv_bytes"] == 2 * 2 * 2 * 8 * result["positions"] * 4


def test_our_side_reads_fewer_positions_than_there_are_tokens(make_side):
    result = make_side("ours").measure("cold")
    assert result["positions"] < 100
    assert result["ttft_s"] > 0


def test_a_warm_run_reads_nothing_new(make_side):
    side = make_side("ours")
    side.measure("warm")
    kept = len(side.store)
    read, texts = side.engine.reader.read, []
    side.engine.reader.read = lambda new, **more: texts.extend(new) or read(new, **more)
    assert side.measure("warm")["positions"] > 0
    assert texts == []
    assert len(side.store) == kept > 1


@pytest.mark.parametrize("num_tokens", [64, 65, 1000])
def test_a_text_is_cut_to_the_exact_length(num_tokens):
    engine = Engine(tiny_model(), tiny_processor())
    assert engine.count_tokens(make_text(engine, num_tokens)) == num_tokens


def test_a_shape_is_built_with_its_dimensions_and_room_for_the_context(monkeypatch):
    tiny = {
        **decoders.SHAPES["qwen2.5-0.5b"],
        "num_hidden_layers": 1,
        "hidden_size": 56,
        "intermediate_size": 8,
    }
    monkeypatch.setitem(decoders.SHAPES, "tiny", tiny)
    engine = build_engine(shape="tiny", model=None, least_window=40_000, device="cpu")
    assert engine.window == 40_000
    text = make_text(engine, 500)
    assert engine.count_tokens(text) == 500
    assert 4 <= len(text) / 500 <= 6


def test_an_unknown_shape_is_refused():
    with pytest.raises(E2LLMError, match="choose one of: smollm2-135m"):
        build_engine(shape="gpt-9", model=None)
