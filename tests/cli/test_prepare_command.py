import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from e2llm.cli.training.prepare import prepare

app = typer.Typer(rich_markup_mode=None)
app.command()(prepare)
runner = CliRunner()


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("A made note.")
    return folder


def test_it_writes_the_records_and_prints_the_counts(notes, tmp_path):
    result = runner.invoke(app, ["text", "--from", str(notes), "-o", str(tmp_path / "n.jsonl")])
    assert result.exit_code == 0
    assert "1 record of text (train)" in result.stdout
    assert json.loads((tmp_path / "n.jsonl").read_text())["context"] == "A made note."


def test_json_prints_a_report_that_a_program_can_read(notes, tmp_path):
    result = runner.invoke(app, ["text", "--from", str(notes), "-o", str(tmp_path / "n.jsonl"), "--json"])
    report = json.loads(result.stdout)
    assert (report["num_records"], report["context_chars"]["max"]) == (1, 12)


def test_the_list_names_every_data_set_with_its_licence():
    result = runner.invoke(app, ["--list"])
    assert result.exit_code == 0
    assert "squad: " in result.stdout
    assert "CC BY-SA 4.0" in result.stdout


def test_the_list_is_also_json():
    names = [row["name"] for row in json.loads(runner.invoke(app, ["--list", "--json"]).stdout)]
    assert {"text", "squad", "needles"} <= set(names)


def test_options_and_seed_reach_the_data_set(notes, tmp_path):
    arguments = ["needles", "--from", str(notes), "-o", str(tmp_path / "n.jsonl"), "--set", "seed=3"]
    result = runner.invoke(app, [*arguments, "--set", "num_records=4", "--set", "lengths_chars=300"])
    assert "4 records of needles" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["text"],
        ["text", "--from", "x"],
        ["text", "--from", "x", "-o", "y", "--set", "column"],
        ["text", "--from", "x", "-o", "y", "--limit", "0"],
        ["text", "squad", "--from", "x", "-o", "y"],
    ],
)
def test_wrong_usage_exits_with_2(arguments):
    assert runner.invoke(app, arguments).exit_code == 2


def test_a_warning_says_that_a_known_set_is_not_whole(tmp_path):
    folder = tmp_path / "data-by-train-split"
    for part in ("questions", "section-stories"):
        (folder / part / "train").mkdir(parents=True)
    (folder / "section-stories/train/made-story.csv").write_text("section,text\n1,A made tale.\n")
    (folder / "questions/train/made-questions.csv").write_text(
        "question_id,cor_section,question,answer1\n1,1,What is it?,made\n"
    )
    result = runner.invoke(app, ["fairytaleqa", "--from", str(tmp_path), "-o", str(tmp_path / "f.jsonl")])
    assert result.exit_code == 0
    assert "published with 8548 records, but 1 were found" in result.stderr
    assert "published  8548, found 1 (1 written, 0 left out)" in result.stdout


def test_the_command_loads_neither_torch_nor_pyarrow():
    code = (
        "import sys, e2llm.cli.training.prepare as _; print({'torch', 'transformers', 'pyarrow'} & "
        "set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )
