import pytest

from e2llm import Engine
from e2llm.bench import training
from e2llm.bench.training import LOOPS, Loop, format_training, measure_training
from tiny_models import tiny_model, tiny_processor


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.setattr(training, "build_engine", lambda **options: Engine(tiny_model(), tiny_processor()))
    return {
        "engine": {},
        "batch_size": 4,
        "steps": 2,
        "context_tokens": 200,
    }


def test_both_ways_train_the_same_samples_to_the_same_loss(settings):
    rows = [Loop({**settings, "loop": loop}).measure() for loop in LOOPS]
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-4)
    assert all(row["context_tokens_per_s"] > 0 and row["peak_bytes"] > 0 for row in rows)


def test_a_way_that_failed_is_a_note_below_the_table(monkeypatch):
    answers = {"plain": {"context_tokens_per_s": 50.0, "way": "plain", "context_tokens": 100}}

    class FakeWorker:
        def __init__(self, make, settings):
            self.loop = settings["loop"]

        def ask(self, method):
            return dict(answers.get(self.loop, {"error": "no room"}))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(training, "Worker", FakeWorker)
    table = format_training(measure_training({"context_tokens": 100}))
    assert "50" in table.splitlines()[1]
    assert table.splitlines()[-1] == "100 tokens, e2llm: no room"
    answers["e2llm"] = {**answers["plain"], "context_tokens_per_s": 150.0, "way": "e2llm"}
    assert measure_training({"context_tokens": 100})[1]["ratio"] == 3.0
