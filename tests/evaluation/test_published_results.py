"""`recipes/publish_results.py`: runs into the documents, and nothing else of them changes."""

import importlib.util
from pathlib import Path

import pytest
from run_folders import prediction, write_run

SCRIPT = Path(__file__).parents[2] / "recipes" / "publish_results.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("publish_results", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def docs(tmp_path, script):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "results.md").write_text(
        f"# Results\n\n{script.BEGIN}\nold\n{script.END}\n\n## Older\n"
    )
    return tmp_path / "docs"


def run_with(folder, score):
    lines = [
        prediction("qmsum", system, f"q{n}", score + n / 10) for n in range(3) for system in ("e2llm", "bm25")
    ]
    return write_run(folder, lines)


def test_runs_are_put_between_the_marks_and_put_anew(script, docs, tmp_path):
    tasks, needles = run_with(tmp_path / "tasks", 0.111), run_with(tmp_path / "needles", 0.333)
    assert script.main([str(tasks), str(needles), "--docs", str(docs)]) == 0
    text = (docs / "results.md").read_text()
    assert text.startswith(f"# Results\n\n{script.BEGIN}\n\n### tasks\n")
    assert text.endswith(f"{script.END}\n\n## Older\n")
    assert "old" not in text
    assert text.index("0.211") < text.index("### needles") < text.index("0.433")
    assert "#### Scores" in text
    assert "#### Provenance" in text
    assert "#### Examples" not in text
    assert script.main([str(tasks), "--docs", str(docs)]) == 0
    assert "0.433" not in (docs / "results.md").read_text()


def test_plots_have_names_of_their_run(script, docs, tmp_path):
    pytest.importorskip("matplotlib")
    script.main([str(run_with(tmp_path / "tasks", 0.2)), "--docs", str(docs)])
    assert (docs / "plots" / "smol-tasks-score-against-cost.png").read_bytes()[1:4] == b"PNG"
    assert "(plots/smol-tasks-score-against-cost.png)" in (docs / "results.md").read_text()
    assert (docs / "plots" / "smol.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("spoil", ["document", "run"])
def test_what_is_missing_is_said_and_the_document_stays(script, docs, tmp_path, spoil, capsys):
    run = run_with(tmp_path / "tasks", 0.2)
    if spoil == "document":
        (docs / "results.md").write_text("# Results\n")
    else:
        (run / "scores.json").unlink()
    before = (docs / "results.md").read_text()
    assert script.main([str(run), "--docs", str(docs)]) == 1
    assert ("begin" if spoil == "document" else "not finished") in capsys.readouterr().err
    assert (docs / "results.md").read_text() == before
