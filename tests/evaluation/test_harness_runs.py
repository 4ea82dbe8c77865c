"""Runs of lm_eval itself, arguments and the command line."""

import json
import subprocess
import sys
from functools import partial

import pytest

from e2llm.errors import E2LLMError, MissingExtraError
from e2llm.evaluation import harness
from tiny_models import TEXT

pytest.importorskip("lm_eval", reason="lm_eval is not installed; it comes with: pip install 'e2llm[harness]'")
import lm_eval
from harness_requests import ROW, STORY
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

# --- beside lm_eval -----------------------------------------------------------------------------------------


def tiny_task(kind, **settings):
    """A task of two questions on one story, made here."""
    from datasets import Dataset

    rows = [{**ROW, "id": 0}, {**ROW, "question": "How many boats?", "answer": "seven", "id": 1}]
    return {
        "task": f"tiny_{kind}",
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "test_split": "test",
        "output_type": kind,
        "doc_to_text": "Read this.\n\n{{context}}\n\nQuestion: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        **settings,
    }


TASKS = [
    tiny_task("generate_until", generation_kwargs={"until": ["\n"], "max_gen_toks": 4}),
    tiny_task("multiple_choice", doc_to_choice=["under the stone", "seven"], doc_to_target="{{id}}"),
    tiny_task("loglikelihood_rolling", doc_to_text="", doc_to_target="{{context}}"),
]


@pytest.fixture
def task_manager(monkeypatch):
    """lm_eval's, without the ten seconds in which it looks for its own tasks and at the machine."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    return partial(TaskManager, include_defaults=False)


@pytest.fixture
def evaluate(task_manager):
    """Runs lm_eval on the tiny tasks."""
    options = {"tasks": TASKS, "task_manager": task_manager(), "bootstrap_iters": 0}
    return lambda model, **more: lm_eval.simple_evaluate(model, **options, **more)


def test_lm_eval_runs_its_three_kinds_of_tasks(make, evaluate):
    results = evaluate(make(soft_tokens=2))
    scores = results["results"]
    assert 0 <= scores["tiny_generate_until"]["exact_match,none"] <= 1
    assert scores["tiny_multiple_choice"]["acc,none"] in (0.0, 0.5, 1.0)
    assert scores["tiny_loglikelihood_rolling"]["word_perplexity,none"] > 1
    assert results["config"]["e2llm_prompts"]["document"] == 6
    arguments = [sample["arguments"][0] for sample in results["samples"]["tiny_generate_until"]]
    assert STORY in arguments[0][0]


def test_without_compression_the_scores_are_those_of_hf(plain, own, evaluate):
    ours, theirs = (evaluate(model)["results"] for model in (plain, own))
    for task, scores in theirs.items():
        for name, value in scores.items():
            if isinstance(value, float):
                assert ours[task][name] == pytest.approx(value, rel=1e-4), (task, name)


def test_answers_that_lm_eval_keeps_are_not_asked_for_again(make, evaluate, tmp_path, monkeypatch):
    first = evaluate(make(), use_cache=str(tmp_path / "answers"))["results"]
    again = make()
    monkeypatch.setattr(again.layout, "lay_out", lambda *_: pytest.fail("asked again"))
    assert evaluate(again, use_cache=str(tmp_path / "answers"))["results"] == first


def test_lm_eval_knows_the_model_type_and_still_its_own():
    assert get_model("e2llm") is harness.E2LLMHarness is harness.harness_class()
    assert get_model("hf") is HFLM


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"soft_tokens": 5}, "from 1 to 4, got 5"),
        ({"max_length": 513}, "max_length must be at most the decoder's window, 512; got 513"),
        ({"raw_tokens": 512}, "raw_tokens=512 fills all 512 positions"),
        ({"device": "cpu"}, "have no effect on an Engine; pass a name"),
    ],
)
def test_arguments_beyond_the_model_are_refused(make, arguments, words):
    with pytest.raises(E2LLMError, match=words):
        make(**arguments)


def test_importing_the_module_does_not_load_lm_eval():
    code = (
        "import sys, e2llm.evaluation.harness; assert not {'lm_eval', 'torch', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_lm_eval_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    monkeypatch.setattr(harness, "harness_class", harness.harness_class.__wrapped__)  # it is made once
    with pytest.raises(MissingExtraError, match=r"pip install 'e2llm\[harness\]'"):
        harness.harness_class()
    assert harness.main([]) == 1
    assert capsys.readouterr().err.startswith("error: lm_eval is not installed")


@pytest.mark.real
def test_the_command_line_runs_the_embedded_model_offline(tmp_path, task_manager, monkeypatch, capsys):
    monkeypatch.setattr("lm_eval.tasks.TaskManager", task_manager)
    (tmp_path / "rows.jsonl").write_text(json.dumps({**ROW, "context": TEXT * 20}) + "\n")
    files = {"test": str(tmp_path / "rows.jsonl")}
    task = tiny_task("generate_until", generation_kwargs={"until": ["\n"], "max_gen_toks": 4})
    task |= {"dataset_path": "json", "dataset_kwargs": {"data_files": files, "cache_dir": str(tmp_path)}}
    del task["custom_dataset"]
    (tmp_path / "tiny.yaml").write_text(json.dumps(task))
    command = "--model e2llm --model_args pretrained=smol --tasks tiny_generate_until"
    places = ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    assert harness.main([*command.split(), *places]) == 0
    assert "|tiny_generate_until|" in capsys.readouterr().out
    (file,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(file.read_text())["config"]["e2llm_prompts"]["document"] == 1


def test_a_wrong_argument_on_the_command_line_is_one_line(task_manager, monkeypatch, capsys):
    monkeypatch.setattr("lm_eval.tasks.TaskManager", task_manager)
    assert harness.main(["--model", "e2llm", "--model_args", "overflow=ignore", "--tasks", "tiny"]) == 1
    assert "error: " in capsys.readouterr().err
