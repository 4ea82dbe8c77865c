import json

import pytest

from e2llm.cli.main import entry_point
from e2llm.errors import E2LLMError
from e2llm.training.overfit import overfit, overfit_recipe
from e2llm.training.recipe import load_recipe


def test_four_records_are_learned_by_heart(recipe_of):
    recipe = recipe_of(
        encoder={"mode": "frozen"},
        objectives={"understanding": {"fraction": 0.0}},
        train={"learning_rate": 1e-2, "log_every_steps": 10},
    )
    result = overfit(recipe, 4)
    assert result.is_learned
    assert result.losses["reasoning_loss"] < 0.1 < result.run.first_losses["reasoning_loss"]
    assert result.run.steps < 400  # it stops when there is nothing left to learn
    assert len((recipe.folder / "overfit-4/records.jsonl").read_text().splitlines()) == 4


def test_nothing_but_the_records_differs_from_step_to_step(recipe_of, tmp_path):
    recipe = recipe_of(
        objectives={
            "mixed_fraction": 0.5,
            "reasoning": {"distractor_fraction": 0.5},
        },
    )
    changed = overfit_recipe(recipe, tmp_path / "overfit-2/records.jsonl", 2, 7)
    assert changed.objectives.reasoning.distractor_fraction == 0
    assert changed.objectives.mixed_fraction == 0
    assert changed.objectives.soft_tokens == [2]
    assert (changed.train.steps, changed.train.batch_size, changed.train.schedule) == (7, 2, "constant")
    assert changed.folder == tmp_path / "overfit-2"


def test_more_records_than_there_are_is_an_error(recipe_of):
    with pytest.raises(E2LLMError, match=r"--overfit 99: only 12 usable records found"):
        overfit(recipe_of(), 99)


def test_records_that_are_not_learned_end_with_an_error_and_what_to_try(recipe_of, tmp_path, capsys):
    recipe = recipe_of()
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.model_dump_json())
    load_recipe(file)
    options = ["--overfit", "2", "--set", "train.steps=2", "--json"]
    assert entry_point(["train", str(file), "--data", str(tmp_path), *options]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["is_learned"] is False
    assert "did not fall below 0.1 in 2 steps; raise train.learning_rate" in err
