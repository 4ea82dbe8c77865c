import json
import shutil

import pytest
import yaml
from small_parts import questions, recipe_dict, texts

from e2llm.cli.main import entry_point
from e2llm.records import write_records


@pytest.fixture
def recipe_file(tmp_path, encoder, decoder):
    """A recipe of two short stages, with its data beside it."""
    write_records(tmp_path / "questions.jsonl", questions())
    write_records(tmp_path / "texts.jsonl", texts())
    stages = [{"stage": "one"}, {"stage": "two", "objectives": {"understanding": {"fraction": 0.2}}}]
    content = recipe_dict(tmp_path, encoder, decoder, stages=stages, train={"steps": 2})
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_stages_run_one_after_another_and_json_is_all_of_stdout(recipe_file, tmp_path, capsys):
    assert entry_point(["train", str(recipe_file), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["folder"] == str(tmp_path / "run" / "one" / "final")
    assert (first["steps"], second["steps"]) == (2, 2)


def test_one_stage_can_be_run_alone_and_says_what_came_of_it(recipe_file, tmp_path, capsys):
    assert entry_point(["train", str(recipe_file), "--stage", "one", "--set", "train.log_every_steps=2"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{tmp_path / 'run' / 'one' / 'final'}: 2 steps; loss understanding ")
    assert shown.err.startswith("tiny one: 2 steps into")
    assert not (tmp_path / "run" / "two").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "three"], "has no stage 'three'; its stages: one, two"),
        (["--set", "train.step=3"], "train.step: unknown key"),
        (["--data", "/nowhere"], "--data /nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_1(recipe_file, capsys, arguments, message):
    assert entry_point(["train", str(recipe_file), *arguments]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("e2llm: error:")]
    assert len(lines) == 1
    assert message in lines[0]


def test_resume_passes_over_stages_that_are_finished(recipe_file, capsys):
    assert entry_point(["train", str(recipe_file), "--stage", "one"]) == 0
    assert entry_point(["train", str(recipe_file)]) == 1
    assert "resume it with --resume" in capsys.readouterr().err
    assert entry_point(["train", str(recipe_file), "--resume", "--json"]) == 0
    assert [result["steps"] for result in json.loads(capsys.readouterr().out)] == [2, 2]


def test_a_decoder_without_an_end_token_is_noted_once_before_the_first_step(
    recipe_file, decoder, tmp_path, capsys
):
    copy = shutil.copytree(decoder, tmp_path / "endless")
    file = copy / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["eos_token"]
    file.write_text(json.dumps(settings))
    command = ["train", str(recipe_file), "--stage", "one", "--set", f"decoder.source={copy}"]
    assert entry_point(command) == 0
    notes, steps = capsys.readouterr().err.split("step 1/2", 1)
    assert notes.count("the decoder has no end token") == 1
    assert "the decoder has no end token" not in steps


def test_a_failed_stage_leaves_no_folder(recipe_file, tmp_path, capsys):
    assert entry_point(["train", str(recipe_file), "--stage", "two"]) == 1
    assert "one" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() or list((tmp_path / "run").iterdir()) == []
