import json

import pytest

from e2llm.bench import speed
from e2llm.errors import CheckpointError
from e2llm.modeling.processor import E2LLMProcessor

ROW = {
    "ttft_s": 1.0,
    "ms_per_token": 5.0,
    "positions": 9,
    "kv_bytes": 90,
    "peak_bytes": 50,
}


@pytest.fixture
def settings(monkeypatch):
    """What the workers were told; none is started."""
    seen = []

    class NoWorker:
        def __init__(self, make, settings):
            seen.append(settings)

        def ask(self, method, way=None):
            return ROW

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(speed, "Worker", NoWorker)
    return seen


def test_bench_measures_a_real_model_in_processes(run, model):
    result = run("bench", "--model", model, "--contexts", 100, "--repeats", 1, "--json")
    assert result.code == 0
    assert result.err == ""
    (row,) = json.loads(result.out)["rows"]
    assert row["errors"] == {}
    assert row["context_tokens"] == 100
    assert row["ttft_warm_s"] > 0
    assert row["positions_ours"] < row["positions_full"]
    assert json.loads(result.out)["machine"]["device"] == "cpu"


def test_a_model_that_is_not_there_is_told_before_anything_is_measured(run, settings, monkeypatch):
    def unknown(name):
        raise CheckpointError(f"{name}: no such repository")

    monkeypatch.setattr(E2LLMProcessor, "from_pretrained", unknown)
    for name, words in (("./gone", "no such model folder: ./gone"), ("gone", "no such model: gone")):
        result = run("bench", "--model", name)
        assert (result.code, settings) == (1, [])
        assert words in result.err.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--contexts", "many"], ["--contexts", "12"], ["--shape", "gpt-9"]])
def test_wrong_arguments_are_a_usage_error(run, settings, arguments):
    assert run("bench", *arguments).code == 2
    assert settings == []
