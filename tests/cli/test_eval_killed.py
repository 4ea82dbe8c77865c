"""Real processes of `e2llm eval` that are killed at chosen moments, and go on."""

import json
import signal

import pytest

from e2llm import Record
from e2llm.records import write_records
from killing import run_struck
from tiny_models import TEXT

pytestmark = pytest.mark.slow

RUNNER = "e2llm.evaluation.runner"
# Where, and how many whole lines there are then, and how many are begun.
MOMENTS = {
    "before the settings are written": (("e2llm.evaluation.run.run_settings", "RunSettings.write", 1), 0, 0),
    "in an answer": ((RUNNER, "answer_item", 4), 3, 0),
    "in the middle of a line": (("e2llm.evaluation.run.predictions", "PredictionFile.add", 6), 5, 1),
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
    done = run_struck(signal.SIGKILL, place, *arguments(folder))
    assert done.returncode == -signal.SIGKILL, done.stderr
    written = (folder / "predictions.jsonl").read_bytes()
    assert (written.count(b"\n"), bool(written.rpartition(b"\n")[2])) == (num_whole, bool(num_begun))
    result = run(*arguments(folder))
    assert (result.code, result.err) == (0, "")
    assert predictions(folder) == predictions(whole)
    assert facts(folder) == facts(whole)
    assert (folder / "report.html").exists()
