"""What the documents say of the code holds: the README's Python runs, the files it names exist."""

import re
from pathlib import Path

import pytest

import e2llm

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("*/*/README.md"),
    ]
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_first_python_of_the_readme_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_every_public_name_is_in_the_documents() -> None:
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    missing = [name for name in e2llm.__all__ if name not in text and not name.startswith("__")]
    assert not missing


def test_every_public_name_loads() -> None:
    assert [name for name in e2llm.__all__ if getattr(e2llm, name, None) is None] == []
