"""One side of the benchmark, in this process, with a tiny decoder of its own shape."""

import pytest

from e2llm import Engine
from e2llm.bench import decoders, speed
from e2llm.bench.decoders import build_engine, text_of_length
from e2llm.errors import E2LLMError
from tiny_models import tiny_model, tiny_processor


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
def test_a_text_is_repeated_and_cut_to_the_exact_length(num_tokens):
    engine = Engine(tiny_model(), tiny_processor())
    for text in (None, "A key under a stone."):
        assert engine.count_tokens(text_of_length(engine, num_tokens, text)) == num_tokens


def test_an_empty_text_is_refused():
    with pytest.raises(E2LLMError, match="empty"):
        text_of_length(Engine(tiny_model(), tiny_processor()), 64, "")


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
    text = text_of_length(engine, 500)
    assert engine.count_tokens(text) == 500
    assert 4 <= len(text) / 500 <= 6


def test_an_unknown_shape_is_refused():
    with pytest.raises(E2LLMError, match="choose one of: smollm2-135m"):
        build_engine(shape="gpt-9", model=None)
