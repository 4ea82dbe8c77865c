"""Damaged values in a run's folder end in one sentence with the file, its line and the value's place."""

import json

import pytest
import torch
from run_folders import prediction, write_run

from e2llm.errors import E2LLMError
from e2llm.evaluation.run.predictions import read_predictions
from e2llm.evaluation.run.run_settings import RunSettings, describe_session, read_settings
from e2llm.evaluation.run.scores import read_run


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("scores", {"f1": None}, "scores.f1"),
        ("scores", {"f1": "0.5"}, "scores.f1"),
        ("scores", {"f1": True}, "scores.f1"),
        ("scores", {"f1": float("nan")}, "scores.f1"),
        ("scores", None, "scores"),
        ("groups", None, "groups"),
        ("groups", "x", "groups"),
        ("cost", {"new_tokens": "x"}, "cost.new_tokens"),
        ("cost", {"new_tokens": [1]}, "cost.new_tokens"),
        ("prompt", None, "prompt"),
        ("id", 7, "id"),
        ("references", "x", "references"),
    ],
)
def test_a_damaged_value_of_a_prediction_is_named_with_file_and_line(tmp_path, key, value, place):
    entries = [prediction("qmsum", "full", "a", 0.5), prediction("qmsum", "full", "b", 0.5, **{key: value})]
    file = tmp_path / "predictions.jsonl"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    with pytest.raises(E2LLMError, match=rf"predictions\.jsonl:2 is not a prediction \({place}: "):
        list(read_predictions(file))


def test_a_prediction_of_a_task_without_scores_is_named(tmp_path):
    write_run(tmp_path, [prediction("qmsum", "full", "a", 0.5)])
    with (tmp_path / "predictions.jsonl").open("a") as stream:
        stream.write(json.dumps(prediction("other", "full", "a", 0.5)) + "\n")
    with pytest.raises(E2LLMError, match=r"has answers to 'other', but scores\.json has no such task"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("sessions", [], "sessions"),
        ("sessions", [{"started": "now"}], "sessions.0.command"),
        ("sessions", None, "sessions"),
        ("tasks", {"qmsum": None}, "tasks.qmsum"),
        ("tasks", {"qmsum": {"max_new_tokens": "x", "data_sha256": None}}, "tasks.qmsum.max_new_tokens"),
        ("limit", float("nan"), "limit"),
        ("systems", "full", "systems"),
    ],
)
def test_a_damaged_value_of_the_settings_is_named(tmp_path, key, value, place):
    session = describe_session(torch.device("cpu"), "e2llm eval")
    tasks = {"qmsum": {"max_new_tokens": 4, "data_sha256": None}}
    whole = RunSettings("m", "x", {}, tasks, ["a"], 3, [256], 0, None, 512, "float32", "cpu", "h", [session])
    whole.write(tmp_path)
    assert read_settings(tmp_path) == whole
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(E2LLMError, match=rf"settings\.json is damaged \(.*{place}"):
        read_settings(tmp_path)


def test_deeply_nested_settings_are_damaged(tmp_path):
    (tmp_path / "settings.json").write_text("[" * 100_000)
    with pytest.raises(E2LLMError, match="nested too deeply"):
        read_settings(tmp_path)
