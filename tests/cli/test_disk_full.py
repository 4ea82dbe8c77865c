"""A disk that fills up, as a limit on the size of files, and folders that cannot be written to."""

import errno
import os
import resource
from contextlib import contextmanager

import pytest
import yaml
from test_errors import assert_fails

from e2llm import Record
from e2llm.records import write_records
from tiny_models import TEXT


@contextmanager
def no_file_above(num_bytes):
    """Writes beyond so many bytes of a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "results").mkdir()
    return tmp_path / "results" / "out"


def test_a_context_that_does_not_fit_on_the_disk(run, model, text_file, out):
    with no_file_above(1000):
        result = run("read", text_file, "-o", out, "--model", model)
    assert_fails(result, 1, "disk is full", out)
    assert list(out.parent.iterdir()) == []


def test_a_store_that_does_not_fit_on_the_disk(run, model, text_file, out):
    assert run("read", text_file, "--store", out, "--model", model).code == 0
    text_file.write_text(TEXT[::-1] * 3)
    with no_file_above(4096):
        result = run("read", text_file, "--store", out, "--model", model)
    assert_fails(result, 1, out)
    with no_file_above(4096):
        answered = run("ask", text_file, "Where is the key?", "--store", out, "--model", model)
    assert answered.code == 0
    assert answered.err.count("Texts are read without the store]") == 1
    assert run("read", text_file, "--store", out, "--model", model).code == 0


def test_a_question_is_answered_without_a_damaged_store(run, model, text_file, out):
    out.mkdir()
    (out / "store.sqlite").write_bytes(b"no database" * 1000)
    answered = run("ask", text_file, "Where is the key?", "--store", out, "--model", model)
    assert answered.code == 0
    assert f"[{out / 'store.sqlite'} is damaged" in answered.err
    assert_fails(run("read", text_file, "--store", out, "--model", model), 1, "is damaged")


def test_an_export_that_does_not_fit_on_the_disk(run, model, out):
    with no_file_above(20_000):
        result = run("export", model, out)
    assert_fails(result, 1, "disk is full")
    assert list(out.parent.iterdir()) == []


def test_records_that_do_not_fit_on_the_disk(run, tmp_path, out):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text(TEXT * 20)
    with no_file_above(500):
        result = run("prepare", "text", "--from", tmp_path / "notes", "-o", out)
    assert_fails(result, 1, "disk is full", out)
    assert list(out.parent.iterdir()) == []


def test_predictions_that_do_not_fit_on_the_disk(run, model, tmp_path, out):
    write_records(
        tmp_path / "r.jsonl", [Record(TEXT, f"Where is {number}?", "a stone") for number in range(9)]
    )
    arguments = ("eval", "--tasks", f"answers={tmp_path / 'r.jsonl'}", "--model", model, "-o", out)
    with no_file_above(3000):
        result = run(*arguments)
    assert_fails(result, 1, "disk is full")
    assert not (out / "scores.json").exists()
    again = run(*arguments)
    assert again.code == 0, again.err


@pytest.mark.parametrize("limit", [2000, 20_000, 30_000])
def test_a_checkpoint_that_does_not_fit_on_the_disk(run, bases, tmp_path, limit):
    records = [Record(f"{number}. {TEXT}", f"Where is {number}?", "a stone") for number in range(6)]
    write_records(tmp_path / "r.jsonl", records)
    content = {
        "name": "small", "output": str(tmp_path / "run"),
        "encoder": {"source": str(bases / "encoder"), "mode": "frozen"},
        "decoder": {"source": str(bases / "decoder"), "mode": "frozen"},
        "adapter": {"max_soft_tokens": 2}, "chunking": {"chunk_size_chars": 48},
        "data": {"train": [{"path": "r.jsonl"}], "validation_fraction": 0},
        "objectives": {"understanding": {"window_chunks": [1, 2]}, "soft_tokens": [2, 1]},
        "train": {"steps": 2, "batch_size": 2, "save_every_steps": 2, "precision": "fp32",
                  "evaluate_every_steps": 2},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    with no_file_above(limit):
        result = run("train", tmp_path / "recipe.yaml", "--resume")
    assert result.code == 1
    assert "unexpected" not in result.err
    assert "disk is full" in result.err.splitlines()[-1]
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    again = run("train", tmp_path / "recipe.yaml", "--resume")
    assert again.code == 0, again.err


def test_a_place_that_may_not_be_written_to(run, model, text_file, out, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(out.parent / ".out.x"))

    monkeypatch.setattr("e2llm.files.tempfile.mkstemp", refuse)
    result = run("read", text_file, "-o", out, "--model", model)
    assert_fails(result, 1, f"{out}: Read-only file system; choose another place")
