import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_parts import questions

from e2llm.records import read_records, write_records

SCRIPT = Path(__file__).parents[2] / "recipes" / "self_distill.py"


@pytest.fixture(scope="module")
def self_distill():
    spec = importlib.util.spec_from_file_location("self_distill", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["self_distill"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(self_distill, decoder, tmp_path, monkeypatch):
    """Runs the script on six questions; every generation ends (a random decoder would not)."""
    given = [replace(item, context=item.context + "\u2028") for item in questions(6)]  # no end of a line
    write_records(tmp_path / "questions.jsonl", given)
    whole = self_distill.Answerer.__call__
    seen = []

    def answer(self, record):
        made = whole(self, record)
        seen.append(record.id)
        return None if made is None else f"It is {record.id}."

    monkeypatch.setattr(self_distill.Answerer, "__call__", answer)

    def start(*more):
        arguments = ["--model", decoder, "--records", str(tmp_path / "questions.jsonl")]
        return self_distill.main(
            [*arguments, "-o", str(tmp_path / "out.jsonl"), "--max-new-tokens", "4", *more]
        )

    start.seen = seen
    return start


def test_the_decoders_answers_become_records(run, tmp_path, capsys):
    assert run() == 0
    records = list(read_records(tmp_path / "out.jsonl"))
    given = list(read_records(tmp_path / "questions.jsonl"))
    assert [(item.context, item.prompt, item.evidence) for item in records] == [
        (item.context, item.prompt, item.evidence) for item in given
    ]
    assert records[2].answer == "It is boat-2."
    assert "out.jsonl: 6 answered; left out: 0 whose context" in capsys.readouterr().out
    assert not (tmp_path / "out.jsonl.part").exists()


def test_contexts_beyond_the_window_are_left_out_and_counted(run, tmp_path, capsys):
    long = {"context": "A goat walks. " * 400, "prompt": "Who?"}
    with (tmp_path / "questions.jsonl").open("a") as stream:
        stream.write(json.dumps(long) + "\n")
    assert run() == 0
    assert "6 answered; left out: 1 whose context does not fit" in capsys.readouterr().out


def test_a_run_that_was_cut_short_goes_on(run, tmp_path, self_distill, monkeypatch):
    def break_off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(self_distill, "write_records", break_off)
        with pytest.raises(KeyboardInterrupt):
            run()
    part = tmp_path / "out.jsonl.part"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    run.seen.clear()
    assert run() == 0
    assert run.seen == ["boat-3", "boat-4", "boat-5"]
    assert [item.id for item in read_records(tmp_path / "out.jsonl")] == [f"boat-{n}" for n in range(6)]


def test_an_answer_is_the_decoders_own_and_unfinished_ones_do_not_count(self_distill, decoder):
    from e2llm.modeling.checkpoints.parts import load_part, load_tokenizer

    model, _ = load_part("decoder", decoder)
    answerer = self_distill.Answerer(model, load_tokenizer(decoder), 3)
    answer = answerer(questions(1)[0])
    assert answer == ""  # a random decoder does not end within three tokens
    answerer.template.after_answer[:] = list(range(320))
    assert isinstance(answerer(questions(1)[0]), str)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens must be 1 or more, got 0"),
        (["--records", "/nowhere.jsonl"], "no such records file: /nowhere.jsonl"),
        (["--model", "/nowhere"], "no such folder"),
        (["-o", str(SCRIPT)], "is there already"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(run, capsys, more, message):
    assert run(*more) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("self_distill: ")
    assert message in error


def test_other_settings_do_not_go_on_with_what_was_begun(run, tmp_path, capsys):
    (tmp_path / "out.jsonl.part").write_text('{"model": "another"}\n')
    assert run() == 1
    assert "was begun with {'model': 'another'}" in capsys.readouterr().err
