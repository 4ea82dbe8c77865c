import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_parts import STORY, assert_same_weights, weights

from e2llm.errors import CheckpointError, E2LLMError
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.records import Record, write_records
from e2llm.training.build import open_processor
from e2llm.training.checkpoints import damage as damage_of
from e2llm.training.checkpoints import last_checkpoint, load_weights
from e2llm.training.recipe import load_recipe
from e2llm.training.run import changes_since_start, evaluation_sets, train
from e2llm.training.samples.data_check import read_data
from e2llm.training.samples.sample_set import SampleSet
from e2llm.training.trainer import E2LLMTrainer


@pytest.fixture
def killed(monkeypatch):
    """Trains until a step breaks off, as a kill would."""

    def train_until(recipe, step):
        whole_step = E2LLMTrainer.training_step

        def broken_step(self, *args, **kwargs):
            if self.state.global_step == step:
                raise KeyboardInterrupt
            return whole_step(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(E2LLMTrainer, "training_step", broken_step)
            with pytest.raises(KeyboardInterrupt):
                train(recipe)

    return train_until


def test_a_run_leaves_a_model_its_curves_and_what_it_was_made_with(recipe_of, pictures):
    recipe = recipe_of()
    result = train(recipe)
    assert (result.steps, result.folder) == (4, recipe.folder / "final")
    E2LLMForConditionalGeneration.from_pretrained(result.folder)
    with (recipe.folder / "curves.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[1]["eval_reasoning_loss"]) > 0
    assert (recipe.folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    saved = json.loads((recipe.folder / "result.json").read_text())
    assert saved["eval_losses"] == result.eval_losses
    facts = json.loads((recipe.folder / "provenance.json").read_text())
    assert (facts["seed"], facts["precision"]) == (3, "fp32")


def test_the_saved_recipe_can_be_run_again_and_is_the_same(recipe_of, tmp_path):
    recipe = recipe_of(train={"steps": 1, "evaluate_every_steps": 1, "save_every_steps": 1})
    train(recipe)
    (again,) = load_recipe(recipe.folder / "recipe.yaml")
    assert again == recipe
    assert str(tmp_path) not in "".join(
        line for line in (recipe.folder / "recipe.yaml").read_text().splitlines() if "path:" in line
    )


RAW_TEXT = {
    "adapter": {"mode": "frozen"},
    "objectives": {
        "understanding": {"fraction": 0.0},
        "soft_tokens": [1, 2, 4, 8],
        "reasoning": {"context": "text", "text_budgets": [64, 128]},
    },
}


@pytest.mark.parametrize(
    "sections", [{}, {"encoder": {"mode": "lora"}, "decoder": {"mode": "lora"}}, RAW_TEXT]
)
def test_a_resumed_run_ends_with_the_weights_of_an_undisturbed_one(recipe_of, killed, sections):
    sections = {**sections, "train": {"steps": 6, "schedule": "linear"}}
    if "decoder" in sections:
        sections["decoder"]["lora"] = {"rank": 2, "alpha": 4}
    undisturbed = train(recipe_of(**sections))
    recipe = recipe_of(output="resumed", **sections)
    killed(recipe, 5)
    resumed = train(recipe, resume=True)
    assert_same_weights(undisturbed.folder, resumed.folder)
    assert undisturbed.model_copy(update={"folder": resumed.folder}) == resumed


def test_a_resumed_run_skips_no_sample_and_repeats_none(recipe_of, killed, monkeypatch):
    drawn = []
    draw = SampleSet.__getitem__

    def recorded(self, index):
        if self.salt == "train":
            drawn.append(index)
        return draw(self, index)

    monkeypatch.setattr(SampleSet, "__getitem__", recorded)
    recipe = recipe_of(train={"steps": 6})
    killed(recipe, 5)
    trained = sorted(set(drawn))[: 4 * 2]  # up to the checkpoint of step 4, two samples a step
    drawn.clear()
    train(recipe, resume=True)
    assert trained + drawn == list(range(12))


def test_a_checkpoint_that_a_kill_has_cut_short_is_passed_over_and_removed(recipe_of, killed):
    undisturbed = train(recipe_of(train={"steps": 6}))
    recipe = recipe_of(output="resumed", train={"steps": 6})
    killed(recipe, 5)
    (recipe.folder / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": 0.3, "log_his')
    shutil.copytree(recipe.folder / "checkpoint-2", recipe.folder / "checkpoint-5")
    (recipe.folder / "checkpoint-5" / "trainer_state.json").unlink()
    assert last_checkpoint(recipe.folder) == str(recipe.folder / "checkpoint-2")
    resumed = train(recipe, resume=True)
    assert_same_weights(undisturbed.folder, resumed.folder)
    assert not (recipe.folder / "checkpoint-5").exists()


@pytest.mark.parametrize("below", [False, True])
def test_an_output_that_is_a_file_is_named(recipe_of, tmp_path, below):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(E2LLMError, match="taken is a file"):
        train(recipe_of().model_copy(update={"output": str(taken / "run" if below else taken)}))
    assert taken.read_text() == "mine"


def test_two_runs_at_once_do_not_write_into_one_folder(recipe_of):
    recipe = recipe_of()
    recipe.folder.mkdir(parents=True)
    take = "lock = FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    code = f"import sys; from filelock import FileLock; {take}"
    command = [sys.executable, "-c", code, str(recipe.folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()  # it holds the lock now
        with pytest.raises(E2LLMError, match="another process is training into"):
            train(recipe)
        other.kill()
    assert train(recipe).steps == 4


def shortened(file):
    os.truncate(file, 100)


def flipped(file):
    """One bit of the byte in the middle is another; of a text the first byte is no JSON any more."""
    content = bytearray(file.read_bytes())
    content[0 if file.suffix == ".json" else len(content) // 2] ^= 1
    file.write_bytes(content)


def unhashed(file):
    """The hashes are gone."""
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content["files"]))


@pytest.mark.parametrize(
    ("name", "damage", "problem"),
    [
        ("optimizer.pt", Path.unlink, "optimizer.pt is missing"),
        ("model.safetensors", shortened, r"model.safetensors has 100 bytes instead of [\d,]+"),
        (
            "model.safetensors",
            flipped,
            r"model.safetensors has other content than was saved \(another SHA-256\)",
        ),
        ("optimizer.pt", flipped, r"optimizer.pt has other content than was saved \(another SHA-256\)"),
        ("files.json", flipped, "files.json cannot be read"),
        ("files.json", unhashed, "files.json cannot be read"),
    ],
)
def test_a_run_goes_on_from_the_checkpoint_before_one_that_was_damaged(
    recipe_of, killed, capsys, name, damage, problem
):
    undisturbed = train(recipe_of(train={"steps": 6}))
    recipe = recipe_of(output="resumed", train={"steps": 6})
    killed(recipe, 5)
    damage(recipe.folder / "checkpoint-4" / name)
    resumed = train(recipe, resume=True)
    assert re.search(rf"checkpoint-4 is damaged \({problem}\)", capsys.readouterr().err)
    assert_same_weights(undisturbed.folder, resumed.folder)
    assert last_checkpoint(recipe.folder) == str(recipe.folder / "checkpoint-6")


@pytest.mark.parametrize("content", ["[]", "3", '{"a": "b"}', '{"files": {"a": "b"}, "sha256": {"a": "c"}}'])
def test_a_list_of_files_that_is_none_is_damage(tmp_path, content):
    (tmp_path / "files.json").write_text(content)
    assert damage_of(tmp_path) == "files.json cannot be read"


def test_the_best_weights_are_not_taken_from_a_checkpoint_that_was_damaged(recipe_of, monkeypatch):
    steps = []

    def evaluate(self, *args, **kwargs):
        steps.append(self.state.global_step)
        if steps == [2, 4]:
            flipped(Path(self.args.output_dir) / "checkpoint-2" / "model.safetensors")
        metrics = {"eval_reasoning_loss": float(self.state.global_step)}  # the first is the best
        self.log(dict(metrics))
        return metrics

    monkeypatch.setattr(E2LLMTrainer, "evaluate", evaluate)
    recipe = recipe_of()
    with pytest.raises(
        CheckpointError, match=r"checkpoint-2, which has the weights of the best .* is damaged \(mo"
    ):
        train(recipe)
    assert not (recipe.folder / "final").exists()


def test_a_kill_between_the_last_checkpoint_and_the_result_loses_nothing(recipe_of):
    recipe = recipe_of()
    result = train(recipe)
    before = weights(result.folder)
    shutil.rmtree(result.folder)
    (recipe.folder / "result.json").unlink()
    again = train(recipe, resume=True)
    assert again == result
    assert all(torch.equal(value, before[name]) for name, value in weights(again.folder).items())


def test_resuming_a_finished_run_gives_its_result_and_trains_nothing(recipe_of, monkeypatch, capsys):
    recipe = recipe_of()
    result = train(recipe)
    monkeypatch.setattr("e2llm.training.run.make_trainer", lambda recipe: pytest.fail("it began anew"))
    monkeypatch.setattr(
        "e2llm.modeling.checkpoints.fingerprint.file_hash", lambda file: pytest.fail("for nothing")
    )
    assert train(recipe, resume=True) == result
    recipe.train.learning_rate = 0.5
    assert train(recipe, resume=True) == result
    assert "the recipe has changed since: train.learning_rate: 0.001 -> 0.5" in capsys.readouterr().err


def test_more_steps_of_a_finished_run_are_refused_with_the_way_to_go_on(recipe_of):
    recipe = recipe_of(train={"steps": 2})
    result = train(recipe)
    recipe.train.steps = 4
    advice = f"finished after 2 steps, .* --set init_from={result.folder} --set output=OTHER"
    with pytest.raises(E2LLMError, match=advice):
        train(recipe, resume=True)
    more = recipe.model_copy(update={"init_from": str(result.folder), "output": f"{recipe.folder}-more"})
    assert train(more).steps == 4


def test_a_run_that_fails_before_its_first_step_leaves_nothing(recipe_of):
    recipe = recipe_of(encoder={"source": "/no/encoder"})
    with pytest.raises(E2LLMError, match="/no/encoder: no such folder"):
        train(recipe)
    assert not recipe.folder.exists()


def test_a_run_that_ends_leaves_no_lock(recipe_of):
    recipe = recipe_of(train={"steps": 1, "evaluate_every_steps": 1, "save_every_steps": 1})
    train(recipe)
    assert not (recipe.folder / ".lock").exists()


def test_a_used_folder_is_refused_without_resume(recipe_of, killed):
    recipe = recipe_of()
    killed(recipe, 3)
    with pytest.raises(E2LLMError, match="already contains a run; resume it with --resume"):
        train(recipe)


def test_a_damaged_recipe_in_the_folder_of_a_run_is_told_by_name(recipe_of):
    recipe = recipe_of()
    recipe.folder.mkdir(parents=True)
    (recipe.folder / "recipe.yaml").write_text("train: [")
    with pytest.raises(E2LLMError, match=r"recipe\.yaml: not valid YAML"):
        changes_since_start(recipe)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"folder": "final", "luck": 1}', '{"folder": 3}'])
def test_a_damaged_result_is_named(recipe_of, content):
    recipe = recipe_of()
    recipe.folder.mkdir(parents=True)
    (recipe.folder / "result.json").write_text(content)
    with pytest.raises(E2LLMError, match=r"result\.json is not a result .* delete it"):
        train(recipe, resume=True)


def test_without_its_result_a_run_ends_anew_from_its_last_checkpoint(recipe_of):
    recipe = recipe_of()
    before = train(recipe)
    (recipe.folder / "result.json").unlink()
    after = train(recipe, resume=True)
    assert after == before


def test_a_changed_recipe_is_told_on_resume(recipe_of, killed, capsys):
    recipe = recipe_of()
    killed(recipe, 3)
    recipe.train.learning_rate = 5e-4
    train(recipe, resume=True)
    assert "changed since this run began: train.learning_rate: 0.001 -> 0.0005" in capsys.readouterr().err


def test_lora_saves_deltas_and_no_base_weights(recipe_of):
    result = train(recipe_of(encoder={"mode": "lora"}, decoder={"mode": "lora"}))
    assert all("lora_" in name or name.startswith("adapter.") for name in weights(result.folder))
    assert {path.name for path in (result.folder / "lora").iterdir()} == {"encoder", "decoder"}


def test_a_stage_starts_from_the_model_of_the_one_before(recipe_of):
    first = recipe_of(stage="first", train={"steps": 2})
    train(first)
    second = recipe_of(
        stage="second", train={"steps": 1, "learning_rate": 1e-9}, init_from=str(first.folder / "final")
    )
    result = train(second)
    before, after = weights(first.folder / "final"), weights(result.folder)
    assert all(torch.allclose(value, after[name], atol=1e-7) for name, value in before.items())


def test_a_stage_whose_forerunner_is_missing_says_so(recipe_of, tmp_path):
    recipe = recipe_of(init_from=str(tmp_path / "nowhere" / "final"))
    with pytest.raises(E2LLMError, match="does not exist yet; train the stage before"):
        train(recipe)


def test_an_objective_without_held_out_records_is_told(recipe_of, tmp_path, capsys):
    write_records(tmp_path / "held-out.jsonl", [Record(f"Another story. {STORY}", "", "")])
    train(recipe_of(data={"validation": [{"path": "held-out.jsonl"}]}, train={"steps": 2}))
    assert "no held-out record serves the reasoning objective" in capsys.readouterr().err


def test_weights_of_another_model_are_not_taken(recipe_of, tmp_path):
    result = train(recipe_of(train={"steps": 2}))
    model = E2LLMForConditionalGeneration.from_pretrained(result.folder)
    model.chunk_encoder.requires_grad_(False)
    load_weights(model, result.folder)
    wider = torch.nn.ModuleDict({"adapter": torch.nn.Linear(3, 3)})
    with pytest.raises(CheckpointError, match="belongs to this run"):
        load_weights(wider, result.folder)
    with pytest.raises(CheckpointError, match=r", which trains, is missing"):
        load_weights(model.requires_grad_(True), tmp_path)


def test_the_training_loss_falls_on_a_task_that_can_be_learned(recipe_of):
    train_settings = {"steps": 40, "batch_size": 8, "learning_rate": 5e-3, "log_every_steps": 5}
    result = train(recipe_of(train={**train_settings, "evaluate_every_steps": 40, "save_every_steps": 40}))
    for name, first in result.first_losses.items():
        assert result.last_losses[name] < 0.8 * first


def test_the_best_weights_are_saved_also_between_the_steps_that_save(recipe_of, monkeypatch):
    losses = iter([5.0, 3.0, 1.0, 4.0])
    seen = {}

    def evaluate(self, *args, **kwargs):
        metrics = {"eval_reasoning_loss": next(losses)}
        seen[self.state.global_step] = self.model.adapter.scale.detach().clone()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    monkeypatch.setattr(E2LLMTrainer, "evaluate", evaluate)
    recipe = recipe_of(train={"steps": 8, "evaluate_every_steps": 2, "save_every_steps": 4})
    result = train(recipe)
    assert result.eval_losses == {"reasoning_loss": 1.0}
    assert torch.equal(weights(result.folder)["adapter.scale"], seen[6])
    assert not torch.equal(seen[6], seen[8])


def test_held_out_sets_are_whole_batches_of_all_processes(recipe_of, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    recipe = recipe_of(train={"batch_size": 2, "evaluate_samples": 7})
    data = read_data(recipe)
    sets = evaluation_sets(data.validation, recipe, open_processor(recipe), None)
    assert {len(samples) for samples in sets.values()} == {12}
