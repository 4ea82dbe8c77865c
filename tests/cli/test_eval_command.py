import json
import re

import pytest

from e2llm import Record
from e2llm.records import write_records
from tiny_models import TEXT

QUESTION = "Where is the key?"


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr("e2llm.evaluation.tasks.record_tasks.AnswersTask.max_new_tokens", 6)
    write_records(
        tmp_path / "records.jsonl",
        [Record(TEXT, QUESTION, "under the stone", id="a"), Record(TEXT[:60], "Who?", "Mira", id="b")],
    )
    return tmp_path / "records.jsonl"


@pytest.fixture
def evaluate(run, model, records, tmp_path):
    """Run the command on the records into a folder."""

    def evaluate(*options, output="out"):
        names = ("--tasks", f"answers={records}", "--systems", "e2llm:soft_tokens=1,closed-book")
        return run("eval", *names, "--model", model, "-o", tmp_path / output, *options)

    return evaluate


def test_a_table_and_the_place_of_the_report_are_printed(evaluate, records, tmp_path):
    result = evaluate()
    assert (result.code, result.err) == (0, "")
    heading, first, second, report = result.out.splitlines()
    assert heading.split("  ")[0] == "task"
    assert first.split()[:3] == [f"answers={records}", "e2llm:soft_tokens=1", "2"]
    assert second.split()[1] == "closed-book"
    assert report == f"Report: {tmp_path / 'out/report.html'}"
    files = {file.name for file in (tmp_path / "out").iterdir()} - {"plots", ".lock"}
    assert files == {"settings.json", "predictions.jsonl", "scores.json", "report.html", "report.md"}
    assert r"e2llm:soft\_tokens=1" in (tmp_path / "out/report.md").read_text()


def test_json_is_the_content_of_the_scores_with_the_folder(evaluate, tmp_path):
    data = json.loads(evaluate("--json").out)
    assert data.pop("folder") == str(tmp_path / "out")
    assert data == json.loads((tmp_path / "out/scores.json").read_text())


def test_the_options_reach_the_run(evaluate, tmp_path):
    options = ("--seed", 7, "--limit", 1, "--budget", 200, "--lengths", "64,1K")
    assert evaluate(*options, "--device", "cpu").code == 0
    settings = json.loads((tmp_path / "out/settings.json").read_text())
    names = ("seed", "limit", "budget", "lengths", "device")
    assert [settings[name] for name in names] == [7, 1, 200, [64, 1024], "cpu"]
    assert len((tmp_path / "out/predictions.jsonl").read_text().splitlines()) == 2


def test_without_a_folder_one_is_named_after_the_time_and_said(run, model, records, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("eval", "--tasks", f"answers={records}", "--systems", "closed-book", "--model", model)
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"eval-\d{8}-\d{6}", folder.name)
    assert result.err == f"[writing to runs/{folder.name}]\n"
    assert result.out.splitlines()[-1] == f"Report: runs/{folder.name}/report.html"


def test_an_interrupted_run_says_how_to_go_on(evaluate, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("e2llm.evaluation.runner.answer_item", interrupt)
        result = evaluate()
    assert (result.code, result.out) == (130, "")
    assert f"resume with the same command and -o {tmp_path / 'out'}]" in result.err
    assert evaluate().code == 0


def test_other_settings_on_the_same_folder_are_refused_in_one_line(evaluate):
    evaluate()
    result = evaluate("--seed", 5)
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "seed: 0 there, 5 now" in result.err


def test_a_run_that_measured_nothing_is_an_error_after_its_table(run, model, records, tmp_path):
    options = ("--systems", "full", "--budget", 30, "-o", tmp_path / "out", "--model", model)
    result = run("eval", "--tasks", f"answers={records}", *options)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "refused every item" in result.err
    assert "2 (2 refused)" in result.out


def test_a_run_that_another_wrote_to_meanwhile_stops(evaluate, tmp_path, monkeypatch):
    from e2llm.evaluation import runner

    found = iter([None, "settings of another run"])
    monkeypatch.setattr(runner, "read_settings", lambda folder: next(found))
    result = evaluate()
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "another run wrote to" in result.err


def test_two_runs_are_compared_item_by_item(run, evaluate, tmp_path):
    evaluate(output="a")
    evaluate("--seed", 5, output="b")
    result = run("eval", "--compare", tmp_path / "a", tmp_path / "b")
    assert result.code == 0
    assert "seed: 0 -> 5" in result.out
    assert "closed-book" in result.out
    data = json.loads(run("eval", "--compare", tmp_path / "a", tmp_path / "b", "--json").out)
    assert [item["status"] for item in data["items"]] == ["same"] * 4


def test_a_list_tells_tasks_and_systems_in_a_sentence_each(run):
    result = run("eval", "--list")
    lines = {line.split("  ")[1]: line for line in result.out.splitlines() if line.startswith("  ")}
    for name in ("niah_single_1", "qmsum", "restatement=FILE", "recall=FILE", "e2llm", "closed-book"):
        assert len(lines[name].split()) > 4
    data = json.loads(run("eval", "--list", "--json").out)
    assert set(lines) == set(data["tasks"]) | set(data["systems"])


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ((), 2, "give --tasks"),
        (
            ("--tasks", "vt", "--lengths", "4X"),
            2,
            "--lengths takes whole numbers of 1 or more such as 4096,128K,1M",
        ),
        (("--tasks", "vt", "--limit", "0"), 2, "--limit"),
        (("--tasks", "poems"), 1, "unknown task 'poems'; choose from: niah_single_1"),
        (("--tasks", "vt", "--systems", "oracle"), 1, "unknown system 'oracle'"),
        (("--tasks", "vt", "--data", "gone", "-o", "x"), 1, "no such folder"),
        (("--tasks", "recall=gone.jsonl"), 1, "no such records file: gone.jsonl"),
        (("--compare", "gone", "lost"), 1, "no such folder: gone"),
    ],
)
def test_wrong_use_is_told_in_one_line(run, model, tmp_path, monkeypatch, options, code, words):
    monkeypatch.chdir(tmp_path)
    result = run("eval", *options, *(() if "--compare" in options else ("--model", model)))
    assert (result.code, result.out) == (code, "")
    assert words in result.err.splitlines()[-1]
    assert not (tmp_path / "x").exists()
