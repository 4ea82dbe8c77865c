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
    "loaded_bytes": 40,
}


@pytest.fixture
def settings(monkeypatch):
    """What the workers were told; none is started."""
    seen = []

    class NoWorker:
        def __init__(self, settings):
            self.started = {"context_tokens": 64, "chars_per_token": 4.0}
            seen.append(settings)

        def measure(self, way):
            return {**ROW, "gemm_fraction": 0.5}

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(speed, "Worker", NoWorker)
    return seen


def test_bench_measures_a_real_model_in_processes(run, model):
    result = run("bench", "--model", model, "--contexts", 100, "--repeats", 1, "--new-tokens", 2, "--json")
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
    for name, words in (("./gone", "no such model folder: ./gone"), ("gone", "gone: no such repository")):
        result = run("bench", "--model", name)
        assert (result.code, settings) == (1, [])
        assert words in result.err.splitlines()[-1]


def test_bench_writes_json_and_a_picture(run, settings, tmp_path):
    pytest.importorskip("matplotlib")
    result = run("bench", "--contexts", "64,128", "--output", tmp_path / "new")
    assert result.out.splitlines()[0].split()[:3] == ["tokens", "full", "s"]
    assert [row["ttft_full_s"] for row in json.loads((tmp_path / "new/bench.json").read_text())["rows"]] == [
        1,
        1,
    ]
    assert (tmp_path / "new/bench.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_plot_library_is_told_before_measuring(run, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run("bench", "--output", tmp_path)
    assert result.code == 1
    assert "matplotlib" in result.err
    assert settings == []


def test_bench_hands_on_text_and_encoder(run, settings, text_file):
    assert run("bench", "--text", text_file, "--encoder", "some/encoder", "--contexts", 64).code == 0
    assert [item["side"] for item in settings] == ["ours", "full"]
    assert settings[0]["text"] == text_file.read_text()
    assert settings[0]["engine"]["encoder"] == "some/encoder"


@pytest.mark.parametrize("arguments", [["--contexts", "many"], ["--contexts", "12"], ["--shape", "gpt-9"]])
def test_wrong_arguments_are_a_usage_error(run, settings, arguments):
    assert run("bench", *arguments).code == 2
    assert settings == []


def test_a_model_takes_no_other_encoder(run, settings, model):
    result = run("bench", "--model", model, "--encoder", "some/encoder", "--contexts", 64)
    assert (result.code, settings) == (2, [])
    assert "--encoder goes with --shape" in result.err


def test_bench_train_measures_in_processes_of_their_own(run, model):
    arguments = ("--model", model, "--contexts", 100, "--batch-size", 2, "--questions", 2, "--steps", 2)
    result = run("bench", "train", *arguments, "--ways", "e2llm", "--json")
    assert result.code == 0, result.err
    (row,) = json.loads(result.out)["rows"]
    assert (row["way"], row["questions_per_context"]) == ("e2llm", 2)
    assert row["context_tokens_per_s"] > 0


@pytest.mark.parametrize("option", [("--ways", "fast"), ("--encoder-mode", "melted")])
def test_bench_train_names_what_it_knows(run, option):
    result = run("bench", "train", *option)
    assert result.code == 2
    assert "frozen" in result.err or "plain" in result.err
