import json
import math
from dataclasses import replace

import pytest

from e2llm import Record
from e2llm.errors import E2LLMError
from e2llm.evaluation import runner
from e2llm.evaluation.run.predictions import open_predictions
from e2llm.evaluation.run.scores import read_run
from e2llm.evaluation.runner import RunRequest
from e2llm.evaluation.tasks.record_tasks import RecallTask
from e2llm.records import write_records
from tiny_models import TEXT

TIMES = ("read_seconds", "first_token_seconds", "ms_per_token", "peak_extra_bytes")


@pytest.fixture
def file(tmp_path):
    texts = [TEXT, TEXT[:60], TEXT * 6]
    records = [
        Record(text, prompt, "under the stone", id=f"{number}-{prompt}")
        for number, text in enumerate(texts)
        for prompt in ("Where is the key?", "How many boats?")
    ]
    write_records(tmp_path / "records.jsonl", records)
    return tmp_path / "records.jsonl"


@pytest.fixture
def request_(file):
    return RunRequest([f"recall={file}"], ["e2llm", "truncate"], limit=4, budget=120, lengths=[64])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short answers, and no report, which has tests of its own."""
    monkeypatch.setattr(RecallTask, "max_new_tokens", 6)
    monkeypatch.setattr(runner, "write_report", lambda folder: [])


@pytest.fixture
def evaluate(engine):
    def run(request, folder):
        return runner.evaluate(request, folder, lambda name: engine, progress=False)

    return run


@pytest.fixture
def asked(monkeypatch):
    """The cells that are answered, as they are."""
    cells, answer_item = [], runner.answer_item

    def watch(task, label, system, item):
        cells.append((task.name.partition("=")[0], item.id, label))
        return answer_item(task, label, system, item)

    monkeypatch.setattr(runner, "answer_item", watch)
    return cells


def lines(folder):
    """The predictions without what a clock or another process changes."""
    entries = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    for entry in entries:
        for name in TIMES:
            (entry["cost"] or {}).pop(name, None)
    return entries


def by_cell(folder):
    return {(entry["task"], entry["id"], entry["system"]): entry for entry in lines(folder)}


def stop_at(monkeypatch, count, error):
    """The answer of this number, from 1, is never given."""
    calls, answer_item = [], runner.answer_item

    def answer(*args):
        calls.append(1)
        if len(calls) == count:
            raise error
        return answer_item(*args)

    monkeypatch.setattr(runner, "answer_item", answer)


def test_every_item_is_answered_by_every_system_in_turn(evaluate, request_, tmp_path, asked):
    evaluate(replace(request_, tasks=[*request_.tasks, "perplexity"], limit=2), tmp_path / "run")
    assert [system for _, _, system in asked] == ["e2llm", "truncate"] * 4
    assert [task for task, _, _ in asked] == ["recall"] * 4 + ["perplexity"] * 4
    assert [name for _, name, _ in asked[::2]] == [name for _, name, _ in asked[1::2]]


def test_a_line_holds_all_that_an_answer_was_made_of(evaluate, request_, tmp_path, engine):
    evaluate(request_, tmp_path / "run")
    entry = json.loads((tmp_path / "run/predictions.jsonl").read_text().splitlines()[1])
    assert list(entry) == [
        *("task", "system", "id", "prompt", "context_sha256", "references", "groups", "prediction"),
        *("scores", "likelihoods", "cost", "given", "error"),
    ]
    assert (entry["system"], entry["error"], entry["references"]) == ("truncate", None, ["under the stone"])
    assert entry["scores"] == {"recall": 0.0}
    assert set(entry["cost"]) > {"decoder_positions", "first_token_seconds", "new_tokens"}
    assert entry["given"]["raw_spans"]


def test_the_files_are_those_of_a_run(evaluate, request_, tmp_path):
    scores = evaluate(replace(request_, command="e2llm eval"), tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert run.systems == ("e2llm", "truncate")
    assert [test.num_pairs for test in run.comparisons] == [4]
    assert json.loads((tmp_path / "run/scores.json").read_text())["rows"] == json.loads(
        json.dumps(scores["rows"])
    )
    facts = scores["provenance"]
    assert (facts["seed"], facts["budget"], facts["command"]) == (0, 120, "e2llm eval")
    assert len(facts["model_sha256"]) == len(facts["haystacks_sha256"]) == 64
    assert {"e2llm", "torch", "transformers", "python"} == set(facts["versions"])
    assert list(facts["data_sha256"]) == request_.tasks


def test_a_context_is_read_once_for_all_questions_and_systems(
    evaluate, request_, tmp_path, engine, monkeypatch
):
    texts, read = [], engine.read_text
    monkeypatch.setattr(
        engine, "read_text", lambda text, **options: texts.append(text) or read(text, **options)
    )
    evaluate(replace(request_, systems=["e2llm", "hybrid", "dense"], limit=6, budget=200), tmp_path / "run")
    read_whole = [text for text in texts if text in (TEXT, TEXT[:60], TEXT * 6)]
    # passages that stand raw in the decoder are texts of their own
    assert read_whole.count(TEXT * 6) == 1


def test_a_finished_run_asks_nothing_again(evaluate, request_, tmp_path, asked):
    first = evaluate(request_, tmp_path / "run")
    num_asked, text = len(asked), (tmp_path / "run/predictions.jsonl").read_text()
    second = evaluate(request_, tmp_path / "run")
    assert len(asked) == num_asked == 8
    assert (tmp_path / "run/predictions.jsonl").read_text() == text
    assert (second["rows"], second["comparisons"]) == (first["rows"], first["comparisons"])
    assert second["provenance"]["num_sessions"] == 2


@pytest.mark.parametrize("count", [1, 4, 8])
def test_an_interrupted_run_goes_on_to_the_same_predictions(evaluate, request_, tmp_path, monkeypatch, count):
    evaluate(request_, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, count, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            evaluate(request_, tmp_path / "run")
    assert len(lines(tmp_path / "run")) == count - 1
    assert not (tmp_path / "run/scores.json").exists()
    evaluate(request_, tmp_path / "run")
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


@pytest.mark.parametrize("kept_bytes", [1, 40, 100_000])
def test_a_half_written_line_is_cut_off_and_its_item_answered_anew(
    evaluate, request_, tmp_path, asked, kept_bytes
):
    evaluate(request_, tmp_path / "run")
    whole, file = lines(tmp_path / "run"), tmp_path / "run/predictions.jsonl"
    *others, last = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(others) + last.rstrip(b"\n")[:kept_bytes])
    asked.clear()
    evaluate(request_, tmp_path / "run")
    assert len(asked) == 1
    assert lines(tmp_path / "run") == whole


def test_a_damaged_line_within_the_file_is_named(evaluate, request_, tmp_path):
    evaluate(request_, tmp_path / "run")
    file = tmp_path / "run/predictions.jsonl"
    file.write_text(file.read_text().replace('"task"', '"tusk"', 1))
    with pytest.raises(E2LLMError, match=r"predictions.jsonl:1 is not a prediction .it lacks 'task'."):
        evaluate(request_, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "num_new"),
    [
        ({"systems": ["closed-book"]}, 4),
        ({"tasks": ["perplexity"]}, 8),
        ({"limit": 6}, 4),
        ({"systems": ["truncate", "e2llm", "closed-book"], "limit": 5}, 7),
    ],
)
def test_a_run_may_grow(evaluate, request_, tmp_path, asked, changes, num_new):
    evaluate(request_, tmp_path / "run")
    before = by_cell(tmp_path / "run")
    asked.clear()
    scores = evaluate(replace(request_, **changes), tmp_path / "run")
    assert len(asked) == num_new
    after = by_cell(tmp_path / "run")
    assert len(after) == len(before) + num_new
    assert {cell: after[cell] for cell in before} == before
    grown = {task for task, _, _ in after}, {system for _, _, system in after}
    assert grown[0] == {*request_.tasks, *changes.get("tasks", [])}
    assert grown[1] == {*request_.systems, *changes.get("systems", [])}
    rows = {(row["task"], row["system"]): row["num_items"] for row in scores["rows"]}
    assert len(rows) == len(grown[0]) * len(grown[1])  # no cell of the grid is left out
    assert set(rows.values()) == {max(4, changes.get("limit", 4))}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"budget": 130}, "budget: 120 there, 130 now"),
        ({"lengths": [64, 128]}, r"lengths: \[64\] there, \[64, 128\] now"),
        ({"limit": 3}, r"limit: 4 there, 3 now \(it may only grow\)"),
    ],
)
def test_other_settings_are_refused_and_named(evaluate, request_, tmp_path, changes, words):
    evaluate(request_, tmp_path / "run")
    text = (tmp_path / "run/predictions.jsonl").read_text()
    with pytest.raises(E2LLMError, match=rf"holds a run with other settings \({words}\); give the same"):
        evaluate(replace(request_, **changes), tmp_path / "run")
    assert (tmp_path / "run/predictions.jsonl").read_text() == text


def test_another_model_is_refused_by_its_weights(evaluate, request_, tmp_path, engine):
    evaluate(request_, tmp_path / "run")
    weight = engine.model.language_model.get_output_embeddings().weight.data
    kept = weight[3, 3].clone()
    weight[3, 3] += 1
    try:
        with pytest.raises(E2LLMError, match="model_sha256"):
            evaluate(request_, tmp_path / "run")
    finally:
        weight[3, 3] = kept
    evaluate(replace(request_, model="the same by another name"), tmp_path / "run")


def test_changed_records_are_refused_by_the_hash_of_their_file(evaluate, request_, tmp_path, file):
    evaluate(request_, tmp_path / "run")
    file.write_text(file.read_text().replace("blue", "grey"))
    with pytest.raises(E2LLMError, match=r"tasks, recall=.*data_sha256"):
        evaluate(request_, tmp_path / "run")


def test_an_item_that_is_another_question_now_is_refused(evaluate, request_, tmp_path, monkeypatch):
    request = replace(request_, tasks=["perplexity"], limit=1)
    evaluate(request, tmp_path / "run")
    monkeypatch.setattr("e2llm.evaluation.tasks.continuations.CONTINUATION_PROMPT", "Go on.")
    with pytest.raises(E2LLMError, match="item 64-0, with another context, prompt or reference"):
        evaluate(request, tmp_path / "run")


def test_a_refusal_is_recorded_with_its_reason(evaluate, request_, tmp_path):
    scores = evaluate(replace(request_, systems=["full", "closed-book"], limit=6), tmp_path / "run")
    refused = [entry for entry in lines(tmp_path / "run") if entry["error"]]
    assert {entry["system"] for entry in refused} == {"full"}
    assert all("there is room for" in entry["error"] for entry in refused)
    assert all((entry["scores"], entry["cost"]) == ({}, None) for entry in refused)
    row = scores["rows"][0]
    assert (row["num_items"], row["num_refused"]) == (6, len(refused))
    assert 0 < len(refused) < 6
    assert scores["comparisons"][0]["num_pairs"] == 6 - len(refused)


def test_any_other_error_stops_the_run_with_the_name_of_the_item(evaluate, request_, tmp_path, monkeypatch):
    stop_at(monkeypatch, 3, RuntimeError("out of memory"))
    words = r"recall=.*, item \d-.*, system e2llm: RuntimeError: out of memory; everything answered so"
    with pytest.raises(E2LLMError, match=words):
        evaluate(request_, tmp_path / "run")
    assert len(lines(tmp_path / "run")) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ["vt", "poems"]}, "unknown task 'poems'"),
        ({"tasks": ["perplexity", "narrativeqa"]}, "the data set narrativeqa was not found"),
        ({"systems": ["e2llm", "oracle"]}, "unknown system 'oracle'"),
        ({"budget": 9999}, "e2llm: a budget of 9,999 positions is more than the decoder's window of 512"),
        ({"tasks": []}, "name at least one task"),
    ],
)
def test_what_cannot_work_fails_before_anything_is_answered(evaluate, request_, tmp_path, changes, words):
    with pytest.raises(E2LLMError, match=words):
        evaluate(replace(request_, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_processes_do_not_write_into_one_folder(evaluate, request_, tmp_path):
    evaluate(request_, tmp_path / "run")
    with open_predictions(tmp_path / "run"), pytest.raises(E2LLMError, match="in use by another process"):
        evaluate(request_, tmp_path / "run")


def test_predictions_of_unknown_settings_are_left_alone(evaluate, request_, tmp_path):
    (tmp_path / "predictions.jsonl").write_text("mine\n")
    with pytest.raises(E2LLMError, match=r"has predictions.jsonl but no settings.json"):
        evaluate(request_, tmp_path)
    assert (tmp_path / "predictions.jsonl").read_text() == "mine\n"


def test_a_task_without_a_question_is_explained(evaluate, request_, tmp_path):
    scores = evaluate(
        replace(
            request_, tasks=["perplexity", "restatement"], systems=["bm25", "e2llm"], limit=1, budget=500
        ),
        tmp_path / "run",
    )
    first, second = scores["provenance"]["notes"]
    assert first.startswith(
        "perplexity asks no question: bm25 chose passages by the words of its prompt alone"
    )
    assert second.startswith("restatement: bm25 had the text itself in the input")
    row = scores["rows"][0]
    assert row["values"]["perplexity"] == pytest.approx(math.exp(row["values"]["loss_nats"]))
    assert row["cost"] == {}  # nothing was generated
