"""Every recipe in the repository is read, and trains with its parts replaced by tiny ones."""

import importlib.util
import random
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

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
        "train.compile=false",
        "data.validation_fraction=0.3",
    ]  # fmt: skip
    content = yaml.safe_load(file.read_text())
    if content.get("init_from"):
        settings.append("init_from=null")
        first = (content.get("stages") or [{}])[0]
        settings += [f"{first['stage']}:adapter.reset=false"] if first.get("adapter") else []
    for stage in content.get("stages") or []:  # the teacher is a run of another recipe
        if (stage.get("objectives") or {}).get("distillation"):
            settings.append(f"{stage['stage']}:objectives.distillation.teacher=null")
    if (content.get("decoder") or {}).get("new"):
        shape = {
            "hidden_size": 32,
            "num_layers": 6,  # of which a stage may keep some
            "num_heads": 4,
            "intermediate_size": 48,
            "vocab_size": 300,
        }
        settings += [f"decoder.new.{key}={value}" for key, value in shape.items()]
        settings += ["adapter.num_heads=4", "decoder.new.window=4096"]
    else:
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
    result = overfit(recipe, 4, steps=2)
    assert result.run.steps == 2
    assert result.losses


LONG_RECORD = Record("A long context goes on and on. " * 60, "What does it do?", "It goes on.")


def script(name):
    """A script of the embedded model's folder, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / "mini" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepare_mini():
    return script("prepare_mini")


@pytest.mark.parametrize("name", ["mini-cpu", "mini-cpu-text", "mini-gpu", "ablation"])
def test_the_script_makes_every_file_that_a_mini_recipe_names(prepare_mini, name):
    names = {
        Path(path).stem
        for path in data_paths(load_recipe(ROOT / "recipes" / "mini" / f"{name}.yaml", data="d"))
    }
    assert names <= set(prepare_mini.JOBS)


def test_files_are_made_after_those_that_they_are_made_of(prepare_mini, tmp_path, capsys):
    stories = tmp_path / "raw" / "storybooks_asp_pb"
    stories.mkdir(parents=True)
    page = "The old goat walked up the hill. It looked at the sea. "
    lines = [f'{{"id": "{n}", "title": "Goat {n}", "pages": ["{page * 30}"]}}' for n in range(3)]
    (stories / "stories.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    for name in ("fairytaleqa-train", "classic-children"):
        write_records(out / f"{name}.jsonl", [Record(f"{name}. {page * 40}", "", "")])
    assert prepare_mini.main([str(tmp_path / "raw"), str(out), "--only", "haystacks"]) == 0
    made = capsys.readouterr().out
    assert made.index("storybooks.jsonl") < made.index("haystacks.jsonl")
    assert "classic-children.jsonl: kept" in made
    assert len((out / "haystacks.jsonl").read_text().splitlines()) == 5


def test_the_book_of_the_demo_is_held_out(prepare_mini, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {"id": "a", "title": prepare_mini.HELD_OUT_BOOK, "childrens_author": True, "text": "Anne."},
        {"id": "b", "title": "Heidi", "childrens_author": True, "text": "Heidi."},
        {"id": "c", "title": "Emma", "childrens_author": False, "text": "Emma."},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "classic_books.parquet")
    for name, expected in (("classic-children", "Heidi."), ("classic-other", "Emma.")):
        prepare_mini.make(name, tmp_path, tmp_path)
        assert expected in (tmp_path / f"{name}.jsonl").read_text()
        assert "Anne." not in (tmp_path / f"{name}.jsonl").read_text()


def test_missing_raw_data_is_one_line_on_stderr(prepare_mini, tmp_path, capsys):
    assert prepare_mini.main([str(tmp_path), str(tmp_path / "out"), "--only", "tinystories"]) == 1
    assert capsys.readouterr().err.startswith("prepare_mini: ")


@pytest.mark.parametrize("name", ["show_examples", "hide_numbers"])
def test_a_missing_model_is_one_line_on_stderr(name, tmp_path, capsys):
    assert script(name).main([str(tmp_path / "model"), str(tmp_path / "other")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{name}: ")
    assert error.count("\n") == 1


def test_hidden_numbers_are_counted():
    class Finder:
        def read(self, text, progress):
            return text

        def ask(self, text, question, **options):
            return SimpleNamespace(text=re.search(r"code is (\d+)[.] ", text)[1][:4])

    module = script("hide_numbers")
    asked = (Finder(), "It rained. " * 50, "The code is {}.", "What?")
    assert module.count_found(*asked, 4, random.Random(1)) == module.NUM_TRIALS
    assert module.count_found(*asked, 6, random.Random(1)) == 0
