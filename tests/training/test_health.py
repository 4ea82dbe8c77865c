import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from e2llm.errors import E2LLMError
from e2llm.training import health
from e2llm.training.run import make_trainer, train
from e2llm.training.trainer import E2LLMTrainer


def full_disk(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


def test_the_batches_of_a_step_whose_loss_is_no_number_are_saved_to_look_at(recipe_of, monkeypatch):
    compute = E2LLMTrainer.compute_loss

    def broken(self, model, inputs, *args, **kwargs):
        if model.training and self.state.global_step == 2:
            with torch.no_grad():
                model.adapter.output_norm.weight[0] = float("nan")
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(E2LLMTrainer, "compute_loss", broken)
    recipe = recipe_of(train={"gradient_accumulation": 2})
    with pytest.raises(E2LLMError, match=r"the loss is nan at step 3 of 4\. .* in .*failed-step-3"):
        train(recipe)
    folder = recipe.folder / "failed-step-3"
    batches = json.loads((folder / "batches.json").read_text())
    assert len(batches) == 2
    assert any("boat" in row["input"] for batch in batches for row in batch["rows"])
    assert all(batch["chunks"] for batch in batches)
    saved = load_file(folder / "batch-1.safetensors")
    assert {"input_ids", "labels", "objectives", "chunk_input_ids"} <= set(saved)
    assert (recipe.folder / "checkpoint-2").is_dir()


@pytest.mark.parametrize(
    ("data", "what"), [({}, "held-out understanding_loss"), ({"validation_fraction": 0.0}, "largest weight")]
)
def test_weights_that_the_last_step_spoils_are_neither_saved_nor_the_result(
    recipe_of, monkeypatch, data, what
):
    class Spoil(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 4:
                with torch.no_grad():
                    model.adapter.output_norm.weight[0] = float("nan")

    recipe = recipe_of(data=data)
    with pytest.raises(E2LLMError, match=rf"the {what} is nan after step 4 of 4. These weights are not"):
        train(recipe, callbacks=[Spoil()])
    assert [item.name for item in recipe.folder.glob("checkpoint-*")] == ["checkpoint-2"]
    assert not (recipe.folder / "final").exists()
    assert not (recipe.folder / "result.json").exists()


def test_a_disk_too_small_for_the_run_is_found_before_the_first_step(recipe_of, monkeypatch):
    full_disk(monkeypatch, free=10**6)
    with pytest.raises(
        E2LLMError, match=r"this run needs \d+ MB of disk space, but 1 MB are free; free some"
    ):
        make_trainer(recipe_of())


def test_a_disk_that_fills_up_ends_the_run_before_a_checkpoint_is_begun(recipe_of, monkeypatch):
    recipe = recipe_of()
    save = E2LLMTrainer._save_checkpoint

    def fill_up(self, *args):
        if self.state.global_step == 4:
            full_disk(monkeypatch, free=10**6)
        save(self, *args)

    monkeypatch.setattr(E2LLMTrainer, "_save_checkpoint", fill_up)
    with pytest.raises(E2LLMError, match=r"a checkpoint needs .* continue with --resume"):
        train(recipe)
    monkeypatch.undo()
    assert [item.name for item in recipe.folder.glob("checkpoint-*")] == ["checkpoint-2"]
    assert train(recipe, resume=True).steps == 4


def test_the_size_of_a_checkpoint_is_about_what_it_takes(recipe_of):
    recipe = recipe_of()
    trainer = make_trainer(recipe)
    trainer.train()
    written = sum(
        file.stat().st_size
        for file in (recipe.folder / "checkpoint-4").iterdir()
        if file.suffix in (".safetensors", ".pt") and "scheduler" not in file.name
    )
    assert health.checkpoint_bytes(trainer.model) == pytest.approx(written, rel=0.25)


def test_the_log_has_gradients_rates_losses_speed_and_memory(recipe_of):
    trainer = make_trainer(recipe_of())
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert {"grad_norm", "learning_rate", "tokens_per_second", "peak_memory_mb"} <= set(entry)
    assert {"understanding_loss", "reasoning_loss"} & set(entry)
    assert entry["peak_memory_mb"] > 50
