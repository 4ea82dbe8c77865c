"""Every example of docs/commands.md runs, in the order in which they stand there."""

import io
import re
import shlex
from pathlib import Path

import pytest

from tiny_models import TEXT

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace("\\\n", "").splitlines()
    if line.startswith("e2llm ")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the page says the folder holds."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "notes.txt").write_text(TEXT)
    (folder / "texts").mkdir()
    (folder / "texts" / "notes.txt").write_text(TEXT)
    (folder / "src").mkdir()
    (folder / "src" / "store.py").write_text("def open_store(path):\n    return sqlite3.connect(path)\n")
    record = (
        '{"context": "The key is under the stone. ", "prompt": "Where is it?", "answer": "under the stone"}\n'
    )
    (folder / "records.jsonl").write_text(record * 4)
    for name in ("recipes", "examples"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_every_command_has_an_example():
    from e2llm.cli.main import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    names |= {group.name for group in app.registered_groups}
    assert {shlex.split(line)[1] for line in COMMANDS} == names


@pytest.mark.parametrize("line", COMMANDS)
def test_the_example_runs(run, folder, monkeypatch, line):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Where is the key?\n")))
    result = run(*shlex.split(line)[1:])
    assert result.code == 0, result.err
    assert result.out
