"""Which steps are evaluated and saved, and whose weights become the model."""

import pytest
from small_parts import assert_same_weights

from e2llm.errors import E2LLMError
from e2llm.training import run
from e2llm.training.run import train
from e2llm.training.samples.sample_set import SampleSet
from e2llm.training.trainer import E2LLMTrainer


@pytest.mark.parametrize(("final", "step"), [("best", 2), ("last", 4)])
def test_the_weights_of_the_best_evaluation_or_the_last_are_kept(recipe_of, monkeypatch, final, step):
    def evaluate(self, *args, **kwargs):
        step = self.state.global_step
        metrics = {"eval_reasoning_loss": float(step), "eval_understanding_loss": -float(step)}
        self.log(dict(metrics))
        return metrics

    monkeypatch.setattr(E2LLMTrainer, "evaluate", evaluate)
    recipe = recipe_of(train={"final": final})
    result = train(recipe)
    assert result.eval_losses == {"reasoning_loss": step, "understanding_loss": -step}
    assert_same_weights(result.folder, recipe.folder / f"checkpoint-{step}")


def test_where_the_last_weights_are_kept_checkpoints_need_no_evaluation(recipe_of):
    recipe = recipe_of(train={"final": "last", "save_every_steps": 1, "evaluate_every_steps": 4})
    result = train(recipe)
    assert (recipe.folder / "checkpoint-3").is_dir()
    assert_same_weights(result.folder, recipe.folder / "checkpoint-4")


def test_an_error_of_the_held_out_records_is_not_taken_for_their_absence(recipe_of, monkeypatch):
    def build(*args, salt="train", **kwargs):
        if salt == "validation":
            raise E2LLMError("a held-out record is too long")
        return SampleSet(*args, salt=salt, **kwargs)

    monkeypatch.setattr(run, "SampleSet", build)
    with pytest.raises(E2LLMError, match="too long"):
        train(recipe_of())


def test_the_last_step_is_evaluated_however_the_steps_divide(recipe_of):
    recipe = recipe_of(train={"steps": 3})
    assert set(train(recipe).eval_losses) == {"reasoning_loss", "understanding_loss"}
    assert (recipe.folder / "checkpoint-3").is_dir()
