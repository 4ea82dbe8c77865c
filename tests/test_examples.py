"""Every example runs as it stands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
# Arguments that make an example short, and words that it must print.
RUNS = {
    "ask_a_book.py": (["{book}"], ["read 1,", "Who is Anne's best friend?"]),
    "long_dialogue.py": (["--dialogues", "1", "--turns", "4"], []),
    "train_on_your_records.py": (["--steps", "2", "--output", "{folder}/run"], ["2 steps"]),
    "add_an_adapter.py": ([], ["parameters to train", "soft tokens of"]),
    "compare_systems.py": (["--limit", "1", "--output", "{folder}/compared"], ["last-chunks:last=1", "bm25"]),
    "serve_and_call.py": ([], ["ctx_", "positions", "as text:"]),
    "chat_with_growing_document.py": (["--session", "{folder}/talk.e2llm"], ["monday: 1 new chunk(s)"]),
    "ask_a_repository.py": (["--store", "{folder}/store"], ["read now", "source:"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    (folder / "book.txt").write_text((EXAMPLES / "anne_of_green_gables.txt").read_text()[:8000])
    return folder


def test_every_example_is_run():
    assert {file.name for file in EXAMPLES.glob("*.py")} == set(RUNS)


@pytest.mark.real
@pytest.mark.parametrize("name", RUNS)
def test_the_example_runs(name, folder):
    arguments, words = RUNS[name]
    given = [item.format(folder=folder, book=folder / "book.txt") for item in arguments]
    result = subprocess.run(
        [sys.executable, EXAMPLES / name, *given],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout
    for word in words:
        assert word in result.stdout


@pytest.mark.real
def test_the_notebook_runs_from_top_to_bottom(monkeypatch, capsys):
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.chdir(EXAMPLES)
    notebook = json.loads((EXAMPLES / "compression_dial.ipynb").read_text())
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names = {}
    for number, source in enumerate(code):
        source = source.replace("[:12_000]", "[:3_000]")
        exec(compile(source, f"cell {number}", "exec"), names)
    out = capsys.readouterr().out
    assert "rate 2: score" in out
    assert "one chunk as text" in out
