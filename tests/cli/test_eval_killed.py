"""Real processes of `e2llm eval` that are killed at chosen moments, and go on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from e2llm import Record
from e2llm.records import write_records
from tiny_models import TEXT

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

# The process kills itself when a function is called for the n-th time: a SIGKILL, at a known place. Of what a
# stream would write then, the first half reaches the file.
KILLED = """
import importlib, os, signal, sys
module, name, count, *arguments = sys.argv[1:]
owner = importlib.import_module(module)
while "." in name:
    first, _, name = name.partition(".")
    owner = getattr(owner, first)
function, calls = getattr(owner, name), []

def killed(*args, **kwargs):
    calls.append(1)
    if len(calls) == int(count):
        if name == "add":
            import json
            line = json.dumps(args[1]).encode()
            args[0]._stream.write(line[: len(line) // 2])
            args[0]._stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*args, **kwargs)

setattr(owner, name, killed)
from e2llm.cli.main import entry_point
sys.exit(entry_point(arguments))
"""
RUNNER = "e2llm.evaluation.runner"
# Where, and how many whole lines there are then, and how many are begun.
MOMENTS = {
    "before the settings are written": (("e2llm.evaluation.run_settings", "RunSettings.write", 1), 0, 0),
    "in an answer": ((RUNNER, "answer_item", 4), 3, 0),
    "in the middle of a line": (("e2llm.evaluation.prediction_file", "PredictionFile.add", 6), 5, 1),
    "before the scores are written": ((RUNNER, "summarize", 1), 8, 0),
}
TIMES = ("read_seconds", "first_token_seconds", "ms_per_token", "peak_extra_bytes")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "records.jsonl"
    texts = (TEXT, TEXT[:60])
    write_records(file, [Record(text, prompt, "a stone") for text in texts for prompt in ("Where?", "Who?")])
    return file


@pytest.fixture
def arguments(model, records):
    def arguments(folder):
        names = ("--tasks", f"answers={records}", "--systems", "e2llm,bm25", "--budget", 150)
        return [str(item) for item in ("eval", *names, "--model", model, "--device", "cpu", "-o", folder)]

    return arguments


def predictions(folder):
    """Without what a clock or another process changes."""
    entries = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    for entry in entries:
        for name in TIMES:
            del entry["cost"][name]
    return entries


def facts(folder):
    """Scores, tests and tasks without times."""
    scores = json.loads((folder / "scores.json").read_text())
    for row in scores["rows"]:
        for name in TIMES:
            row["cost"].pop(name, None)
    return {key: scores[key] for key in ("rows", "comparisons", "tasks")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_any_moment_ends_with_the_predictions_of_an_undisturbed_one(
    run, arguments, whole, tmp_path, moment
):
    if not (whole / "scores.json").exists():
        assert run(*arguments(whole)).code == 0
    place, num_whole, num_begun = MOMENTS[moment]
    folder = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, place), *arguments(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    written = (folder / "predictions.jsonl").read_bytes()
    assert (written.count(b"\n"), bool(written.rpartition(b"\n")[2])) == (num_whole, bool(num_begun))
    result = run(*arguments(folder))
    assert (result.code, result.err) == (0, "")
    assert predictions(folder) == predictions(whole)
    assert facts(folder) == facts(whole)
    assert (folder / "report.html").exists()
