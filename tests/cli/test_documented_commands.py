"""Every example of docs/commands.md runs, each block by itself and in its order."""

import io
import re
import shlex
from pathlib import Path

import pytest

from e2llm import ChunkStore
from tiny_models import TEXT

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
BLOCKS = [
    [line for line in block.replace("\\\n", "").splitlines() if line.startswith("e2llm ")]
    for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
]
COMMANDS = [line for block in BLOCKS for line in block]


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
    ChunkStore(folder / "kept.store").close()
    for name in ("recipes", "examples"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_every_command_has_an_example():
    from e2llm.cli.main import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    names |= {group.name for group in app.registered_groups}
    assert {shlex.split(line)[1] for line in COMMANDS} == names


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: " ".join(block[:1]))
def test_the_examples_run(run, folder, monkeypatch, block):
    monkeypatch.chdir(folder)
    for line in block:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Where is the key?\n")))
        result = run(*shlex.split(line)[1:])
        assert result.code == 0, (line, result.err)
        assert result.out, line
