import json
import subprocess
import sys

import pytest

from e2llm.cli.main import entry_point
from e2llm.records import Record, write_records
from tiny_models import tiny_decoder, tiny_decoder_tokenizer

BOAT = Record("The boat has 7 red sails.", "How many sails?", "7")
RECIPE = """
name: checked
decoder: {source: DECODER, mode: full}
adapter: {max_soft_tokens: 2}
objectives: {soft_tokens: [2], understanding: {fraction: 0.0}, reasoning: {max_chunks: 4}}
data: {train: [{path: train.jsonl}]}
"""


@pytest.fixture
def train_file(tmp_path):
    write_records(tmp_path / "train.jsonl", [BOAT])
    return tmp_path / "train.jsonl"


def test_good_files_exit_with_0_and_a_line_of_lengths(train_file, capsys):
    assert entry_point(["prepare", "--check", str(train_file)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "train: 1 record (0 text only), 1 context; characters (min/median/max): context 25"
    )


def test_bad_lines_and_leaks_exit_with_1_after_the_whole_report(train_file, tmp_path, capsys):
    (tmp_path / "more.jsonl").write_text('nonsense\n{"context": "a", "prompt": "", "answer": ""}\n')
    write_records(tmp_path / "valid.jsonl", [BOAT])
    arguments = ["--check", str(train_file), "--check", str(tmp_path / "more.jsonl")]
    assert entry_point(["prepare", *arguments, "--validation", str(tmp_path / "valid.jsonl")]) == 1
    shown = capsys.readouterr().out
    assert f"error: lines that are not JSON: 1, {tmp_path / 'more.jsonl'}:1" in shown
    assert f"also in validation: 1, {train_file}:1 (it is that of {tmp_path / 'valid.jsonl'}:1)" in shown
    assert "train: 1 record (1 text only)" in shown


def test_warnings_exit_with_0_and_with_1_if_strict(train_file, capsys):
    arguments = ["prepare", "--check", str(train_file), "--check", str(train_file.parent / "b.jsonl")]
    write_records(train_file.parent / "b.jsonl", [BOAT])
    assert entry_point(arguments) == 0
    assert f"warning: duplicate records: 1, {train_file.parent}/b.jsonl:1" in capsys.readouterr().out
    assert entry_point([*arguments, "--strict"]) == 1


def test_files_follow_each_other_as_a_shell_names_them(train_file, tmp_path, capsys):
    write_records(tmp_path / "texts.jsonl", [Record("A made note.", "", "")])
    write_records(tmp_path / "valid.jsonl", [BOAT])
    files = [str(train_file), str(tmp_path / "texts.jsonl")]
    assert entry_point(["prepare", "--check", *files]) == 0
    assert capsys.readouterr().out.startswith("train: 2 records (1 text only)")
    assert entry_point(["prepare", "--check", *files, "--validation", str(tmp_path / "valid.jsonl")]) == 1
    assert "whose context is also in validation: 1" in capsys.readouterr().out
    assert entry_point(["prepare", "--check", *files, str(tmp_path / "gone.jsonl")]) == 1
    assert "no such records file" in capsys.readouterr().err


def test_json_is_all_of_stdout(train_file, capsys):
    train_file.write_text("nonsense\n")
    assert entry_point(["prepare", "--check", str(train_file), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [item["kind"] for item in report["findings"]] == ["not_json", "no_records"]


def test_a_recipe_adds_the_window_for_its_own_files_and_for_others(train_file, tmp_path, capsys):
    tiny_decoder(max_position_embeddings=60).save_pretrained(tmp_path / "decoder")
    tiny_decoder_tokenizer().save_pretrained(tmp_path / "decoder")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("DECODER", str(tmp_path / "decoder")))
    assert entry_point(["prepare", "--recipe", str(recipe), "--data", str(tmp_path)]) == 0
    long = Record("A long question follows.", "Why? " * 100, "So.")
    write_records(tmp_path / "long.jsonl", [BOAT, long])
    capsys.readouterr()
    arguments = ["prepare", "--check", str(tmp_path / "long.jsonl"), "--recipe", str(recipe)]
    assert entry_point(arguments) == 1
    shown = capsys.readouterr().out
    assert f"decoder's window: 1, {tmp_path / 'long.jsonl'}:2 (needs " in shown


def test_parts_that_cannot_be_had_are_told_and_the_rest_is_checked(train_file, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("DECODER", "./nowhere"))
    assert entry_point(["prepare", "--check", str(train_file), "--recipe", str(recipe)]) == 0
    shown = capsys.readouterr()
    assert "warning: the decoder's window is not checked: " in shown.err
    assert shown.out.startswith("train: 1 record (")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--strict"],
        ["--validation", "v.jsonl"],
        ["--check", "a.jsonl", "--data", "folder"],
        ["text", "--check", "a.jsonl"],
    ],
)
def test_wrong_usage_exits_with_2(arguments):
    assert entry_point(["prepare", *arguments]) == 2


def test_checking_files_alone_loads_no_heavy_library(train_file):
    code = (
        "import sys; from e2llm.cli.main import entry_point; "
        f"entry_point(['prepare', '--check', {str(train_file)!r}]); "
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.endswith("set()\n")
