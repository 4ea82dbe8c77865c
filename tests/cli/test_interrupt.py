"""Ctrl-C, as a real SIGINT in the midst of each long command: one line, code 130, nothing half there."""

import os
import signal
import subprocess
import sys

import pytest
import yaml

from e2llm import Record
from e2llm.records import write_records
from killing import SOURCE, run_struck
from tiny_models import TEXT

pytestmark = pytest.mark.slow


@pytest.fixture
def recipe(bases, tmp_path):
    records = [Record(f"{number}. {TEXT}", f"Where is {number}?", "a stone") for number in range(4)]
    records += [Record(f"Text {number}. {TEXT}", "", "") for number in range(4)]
    write_records(tmp_path / "records.jsonl", records)
    content = {
        "name": "small", "output": str(tmp_path / "run"),
        "encoder": {"source": str(bases / "encoder"), "mode": "frozen"},
        "decoder": {"source": str(bases / "decoder"), "mode": "frozen"},
        "adapter": {"max_soft_tokens": 2}, "chunking": {"chunk_size_chars": 48},
        "data": {"train": [{"path": "records.jsonl"}], "validation_fraction": 0},
        "objectives": {"understanding": {"window_chunks": [1, 2]}, "soft_tokens": [2, 1]},
        "train": {"steps": 4, "batch_size": 2, "save_every_steps": 2, "precision": "fp32",
                  "evaluate_every_steps": 2},
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def commands(model, text_file, recipe, tmp_path):
    """Each command with the moment of its interrupt, and what it leaves when it then runs to its end."""
    out = tmp_path / "out"
    (tmp_path / "notes").mkdir()
    for number in range(3):
        (tmp_path / "notes" / f"{number}.txt").write_text(TEXT)
    base = ("--model", model, "--device", "cpu")
    task = f"answers={tmp_path / 'records.jsonl'}"
    return {
        "read": (("e2llm.store.chunk_store", "ChunkStore.put_many", 1),
                 ("read", text_file, "-o", out, "--store", tmp_path / "store", *base), out),
        "save": (("e2llm.inference.context_file", "save", 1), ("read", text_file, "-o", out, *base), out),
        "ask": (("e2llm.inference.decoding.generation", "generate_ids", 1),
                ("ask", text_file, "Where?", *base), None),
        "train": (("e2llm.training.trainer", "E2LLMTrainer.compute_loss", 4),
                  ("train", recipe, "--resume"), tmp_path / "run" / "result.json"),
        "eval": (("e2llm.evaluation.runner", "answer_item", 2),
                 ("eval", "--tasks", task, "--systems", "e2llm,bm25", "-o", out, *base), out / "scores.json"),
        "prepare": (("e2llm.records", "record_to_dict", 2),
                    ("prepare", "text", "--from", tmp_path / "notes", "-o", out), out),
        "bench": (("e2llm.bench.speed", "Worker.ask", 2),
                  ("bench", "--contexts", 100, "--repeats", 1, "--model", model), None),
        "export": (("e2llm.modeling.checkpoints.save", "write_weights", 1),
                   ("export", model, out), out / "config.json"),
    }  # fmt: skip


NAMES = ["read", "save", "ask", "train", "eval", "prepare", "bench", "export"]


@pytest.mark.parametrize("name", NAMES)
def test_a_command_that_is_interrupted_leaves_nothing_half_there_and_then_runs(run, commands, name, tmp_path):
    moment, arguments, result = commands[name]
    done = run_struck(signal.SIGINT, moment, *arguments)
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    *_, last = done.stderr.splitlines()
    how = {"train": "; continue with --resume", "eval": "; the same command continues the run"}.get(name, "")
    assert last == f"e2llm: error: interrupted; everything saved so far is intact{how}"
    assert "Traceback" not in done.stderr
    assert result is None or not result.exists()
    left = [item.name for item in tmp_path.rglob("*") if item.name.startswith((".out", ".e2llm-"))]
    assert left == []
    again = run(*arguments)
    assert again.code == 0, again.err
    assert result is None or result.exists()


def test_a_server_that_is_interrupted_ends_as_it_should(model, tmp_path):
    command = [sys.executable, "-m", "e2llm", "serve", str(model), "--port", "0", "--folder", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # a shell's job in the background ignores it, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        while "e2llm serves" not in (line := process.stderr.readline()):
            assert line, "the server did not start"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 0
    assert "Traceback" not in rest
    assert "error" not in rest
