import json
import shutil
from dataclasses import replace

import pytest
from small_parts import STORY, questions, texts

from e2llm.errors import E2LLMError
from e2llm.records import Record, write_records
from e2llm.training import run
from e2llm.training.build import build_model, open_processor
from e2llm.training.recipes.schema import DataFile
from e2llm.training.samples import data_check
from e2llm.training.samples.data_check import Positions, open_parts, read_data
from e2llm.training.samples.data_files import Source, load_sources
from e2llm.training.samples.sample_set import SampleSet

BOTH = ["understanding", "reasoning"]
HELD_OUT = Record("The owl slept until noon and then it read.", "What did it do?", "It read.")
OTHER_TEXT = Record(f"Not in train. {STORY}", "", "")


@pytest.fixture
def wrong_recipe(recipe_of, tmp_path):
    """A recipe whose questions have a bad line 2, a leak in line 3 and one beyond the window in line 4."""

    def make(**data):
        files = {"validation": [{"path": "valid.jsonl"}], **data}
        recipe = recipe_of(data=files, train={"steps": 1, "evaluate_every_steps": 1, "save_every_steps": 1})
        write_records(tmp_path / "valid.jsonl", [HELD_OUT, OTHER_TEXT])
        long = replace(questions(1)[0], prompt="Which number, " * 400, id="long")
        write_records(tmp_path / "rest.jsonl", [HELD_OUT, long, *questions()[1:]])
        first = json.dumps({"context": "The first.", "prompt": "", "answer": ""})
        rest = (tmp_path / "rest.jsonl").read_text()
        (tmp_path / "questions.jsonl").write_text(f"{first}\nnonsense\n{rest}")
        return recipe

    return make


def no_weights(*arguments, **options):
    raise AssertionError("weights were loaded")


def test_strict_names_every_kind_with_its_line_before_any_weights_are_loaded(
    wrong_recipe, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(run, "build_model", no_weights)
    with pytest.raises(E2LLMError, match=r"set data\.problems: skip") as caught:
        run.train(wrong_recipe())
    file = tmp_path / "questions.jsonl"
    for text in (
        f"not JSON: 1, {file}:2 (not valid JSON",
        f"also in validation: 1, {file}:3 (it is that of {tmp_path / 'valid.jsonl'}:1)",
        f"window: 1, {file}:4 (needs ",
    ):
        assert text in str(caught.value)
    assert capsys.readouterr().err.count("data: error: ") == 3
    report = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (report["problems"], report["window"]) == ("strict", 1024)
    assert {item["kind"]: item["count"] for item in report["findings"]} == {
        "not_json": 1,
        "leak": 1,
        "overflow": 1,
    }


def test_skip_leaves_the_same_out_and_trains(wrong_recipe, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        run, "build_model", lambda recipe, sources: seen.extend(sources) or build_model(recipe, sources)
    )
    result = run.train(wrong_recipe(problems="skip"))
    assert result.steps == 1
    kept = [record.id for source in seen for record in source.records]
    assert kept == ["", *(f"boat-{n}" for n in range(1, 12)), *(f"t{n}" for n in range(6))]
    assert list(seen[0].lines[:3]) == [1, 5, 6]
    errors = capsys.readouterr().err
    assert errors.count("data: left out: ") == 3
    assert "data: error" not in errors
    assert json.loads((result.folder.parent / "data.json").read_text())["problems"] == "skip"


def test_good_data_are_reported_with_lengths_and_nothing_else(recipe_of, capsys):
    recipe = recipe_of()
    data = read_data(recipe)
    data.check_window(*open_parts(recipe))
    data.finish()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "data: train: 18 records (6 text only), 18 contexts; characters (min/median/max): "
    )
    assert sum(len(source.records) for source in [*data.train, *data.validation]) == 18


def test_a_process_that_is_not_the_first_says_nothing_and_leaves_out_the_same(
    wrong_recipe, monkeypatch, capsys, tmp_path
):
    recipe = wrong_recipe(problems="skip")
    kept = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        data = read_data(recipe)
        data.check_window(*open_parts(recipe))
        data.finish()
        kept.append([list(source.lines) for source in data.train])
        if rank == "0":
            (tmp_path / "run" / "data.json").unlink()
            capsys.readouterr()
    assert kept[0] == kept[1]
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "run" / "data.json").exists()


def test_a_file_without_records_is_an_error_in_both_modes(recipe_of, tmp_path):
    recipe = recipe_of(data={"problems": "skip"})
    (tmp_path / "texts.jsonl").write_text("nonsense\n")
    data = read_data(recipe)
    with pytest.raises(E2LLMError, match=r"files without a record: 1, .*texts\.jsonl"):
        data.finish()


def test_the_parts_are_opened_without_weights_and_tell_the_models_window(recipe_of, decoder, tmp_path):
    shutil.copytree(decoder, tmp_path / "light")
    for file in (tmp_path / "light").glob("*.safetensors"):
        file.unlink()
    recipe = recipe_of(decoder={"source": str(tmp_path / "light")})
    processor, window = open_parts(recipe)
    assert window == 1024
    assert processor.chunk_size_chars == 64


def test_a_checkpoint_to_start_from_tells_window_and_chunking(recipe_of, tmp_path):
    recipe = recipe_of()
    model, processor = build_model(recipe, [])
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    later = recipe_of(init_from=str(tmp_path / "start"), chunking={"chunk_size_chars": 48})
    processor, window = open_parts(later)
    assert (processor.chunk_size_chars, window) == (48, 1024)


# --- the longest sample -----------------------------------------------------------------------------------


def longest_drawn(recipe, record, objective):
    """The longest of many samples of one record."""
    file = DataFile(path="x", objectives=BOTH)
    samples = SampleSet([Source(file, [record])], recipe, open_processor(recipe), 400, only=objective)
    return max(len(samples[index].decoder_input.input_ids) for index in range(400))


@pytest.mark.parametrize("record", [questions(1)[0], replace(questions(1)[0], evidence=())])
@pytest.mark.parametrize(
    "reasoning",
    [
        {},
        {"max_chunks": 3},
        {"distractor_fraction": 0.9, "distractor_max_chunks": 3},
        {"distractor_fraction": 0.9, "distractor_max_soft_tokens": 7},
    ],
)
def test_above_the_window_the_count_is_that_of_the_longest_sample_that_is_drawn(recipe_of, reasoning, record):
    recipe = recipe_of(objectives={"reasoning": reasoning})
    positions = Positions(recipe, open_processor(recipe), window=10)
    assert positions.count(record, ["reasoning"]) == longest_drawn(recipe, record, "reasoning")


def test_raw_chunks_are_counted_at_their_longest(recipe_of):
    recipe = recipe_of(objectives={"mixed_fraction": 0.8})
    positions = Positions(recipe, open_processor(recipe), window=10)
    record = questions(1)[0]
    assert positions.count(record, ["reasoning"]) == longest_drawn(recipe, record, "reasoning")


@pytest.mark.parametrize(
    "understanding",
    [{}, {"window_chunks": [3]}, {"chunk_sizes_chars": [24, 100], "window_chunks": [2]}],
)
def test_the_longest_window_to_restate_is_counted(recipe_of, understanding):
    recipe = recipe_of(objectives={"understanding": understanding})
    drawn = longest_drawn(recipe, texts()[2], "understanding")
    processor = open_processor(recipe)
    assert Positions(recipe, processor, window=drawn).count(texts()[2], BOTH) <= drawn
    assert Positions(recipe, processor, window=drawn - 1).count(texts()[2], BOTH) == drawn


def test_texts_that_are_short_enough_by_their_bytes_are_not_tokenized(recipe_of, monkeypatch):
    processor = open_processor(recipe_of())
    assert processor.template
    monkeypatch.setattr(type(processor), "encode_all", no_weights)
    positions = Positions(recipe_of(objectives={"reasoning": {"max_chunks": 4}}), processor, window=1024)
    assert 0 < positions.count(questions(1)[0], BOTH) <= 1024
    with pytest.raises(AssertionError):
        positions.count(replace(questions(1)[0], prompt="ﷺ" * 40), BOTH)


def test_only_objectives_that_a_file_serves_and_that_train_are_counted(recipe_of):
    processor = open_processor(recipe_of())
    positions = Positions(recipe_of(), processor, window=10)
    assert positions.count(questions(1)[0], ["distractors"]) == 0
    assert positions.count(texts()[0], ["reasoning"]) == 0
    recipe = recipe_of(objectives={"understanding": {"fraction": 1.0}})
    assert Positions(recipe, processor, window=10).count(questions(1)[0], ["reasoning"]) == 0


def test_line_numbers_stay_with_their_records_when_some_are_held_out(recipe_of, tmp_path):
    recipe = recipe_of()
    lines = {record.id: line for line, record in enumerate(questions(), start=1)}
    (source, _) = load_sources(recipe.data.train)
    train, held_out = data_check.hold_out([source], 0.4)
    found = {
        record.id: line
        for part in [*train, *held_out]
        for line, record in zip(part.lines, part.records, strict=True)
    }
    assert found == lines
