"""Every recipe in the repository is read, and trains with its parts replaced by tiny ones."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from small_parts import questions, save_decoder

from e2llm.records import Record, write_records
from e2llm.training.overfit import overfit
from e2llm.training.recipe import load_recipe
from e2llm.training.run import train

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.fixture(scope="session")
def wide_decoder(tmp_path_factory):
    """A decoder whose window takes what the recipes ask for, and whose matrices can be held in 4 bits."""
    folder = tmp_path_factory.mktemp("wide")
    return save_decoder(folder, max_position_embeddings=8192, hidden_size=64, intermediate_size=64)


def data_paths(recipes):
    return {item.path for recipe in recipes for item in [*recipe.data.train, *recipe.data.validation]}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_it_is_read(file):
    recipes = load_recipe(file, data="somewhere")
    assert recipes[0].name == file.stem
    assert len({recipe.folder for recipe in recipes}) == len(recipes)


def smaller(file, encoder, decoder, folder):
    """What to set so that a recipe runs in a second: parts, sizes and paths, not what it trains or how."""
    settings = [
        f"encoder.source={encoder}", f"output={folder / 'run'}", "train.steps=1", "train.batch_size=2",
        "train.gradient_accumulation=1", "train.dataloader_workers=0", "train.evaluate_samples=2",
        "train.evaluate_every_steps=1", "train.save_every_steps=1", "train.precision=fp32",
        "data.validation_fraction=0.3",
    ]  # fmt: skip
    content = yaml.safe_load(file.read_text())
    for stage in content.get("stages") or []:  # the teacher is a run of another recipe
        if (stage.get("objectives") or {}).get("distillation"):
            settings.append(f"{stage['stage']}:objectives.distillation.teacher=null")
    settings += [f"decoder.source={decoder}"]
    return settings


def records_of(path):
    """Records whose contexts stand in no other file, as those of validation must not."""
    records = [*questions(40), LONG_RECORD]
    return [replace(record, context=f"{record.context} {Path(path).stem}.") for record in records]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_each_of_its_stages_trains_a_step(file, encoder, wide_decoder, tmp_path):
    for path in data_paths(load_recipe(file, data=tmp_path / "data")):
        write_records(path if str(tmp_path) in path else tmp_path / "unused.jsonl", records_of(path))
    for recipe in load_recipe(file, smaller(file, encoder, wide_decoder, tmp_path), data=tmp_path / "data"):
        result = train(recipe)
        assert result.steps == 1
        assert set(result.eval_losses) == {
            f"{name}_loss" for name, part in recipe.objectives.fractions().items() if part
        }


@pytest.mark.parametrize(
    "file", sorted((ROOT / "recipes" / "smol").glob("*.yaml")), ids=lambda file: file.stem
)
def test_each_recipe_of_smol_can_be_tried_on_four_records(file, encoder, wide_decoder, tmp_path):
    for path in data_paths(load_recipe(file, data=tmp_path / "data")):
        write_records(path, records_of(path))
    recipe = load_recipe(file, smaller(file, encoder, wide_decoder, tmp_path), data=tmp_path / "data")[0]
    result = overfit(recipe, 4, num_steps=2)
    assert result.run.steps == 2
    assert result.losses


LONG_RECORD = Record("A long context goes on and on. " * 60, "What does it do?", "It goes on.")
