"""What commands print for people has no control characters; what they print as JSON keeps every character."""

import json
import re
from pathlib import Path

import pytest

import e2llm.cli
from e2llm.cli.printing import echo, print_json
from e2llm.messages import printable

EVIL = "\x1b]0;owned\x07\x1b[2J4817\b\b\b\b9999\x9b31m\x7f\u202e"
SHOWN = r"\x1b]0;owned\x07\x1b[2J4817\x08\x08\x08\x089999\x9b31m\x7f\u202e"


def test_control_characters_are_shown_and_other_characters_stay():
    assert printable(f"{EVIL}\tçà 水 אב 👩‍🚀\r\nnext\n") == f"{SHOWN}\tçà 水 אב 👩‍🚀\nnext\n"


def test_commands_print_through_one_place(capsys):
    echo(EVIL)
    echo(EVIL, err=True, nl=False)
    assert capsys.readouterr() == (f"{SHOWN}\n", SHOWN)
    folder = Path(e2llm.cli.__file__).parent
    others = [file for file in folder.rglob("*.py") if file.name != "printing.py"]
    assert not [file for file in others if re.search(r"(\.echo|\bprint)\(", file.read_text())]


def test_json_is_exact_and_without_control_characters(capsys):
    value = {"text": f"{EVIL}\r\n\ud800 水"}
    print_json(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert printable(text) == text


@pytest.mark.parametrize("as_json", [False, True])
def test_a_document_does_not_control_the_terminal(run, model, tmp_path, as_json):
    file = tmp_path / "a\x1b[31m.txt"
    file.write_text("The code of the safe is \x1b[2J4817.")
    result = run("restate", file, "--chunk", 0, "--model", model, *(["--json"] if as_json else []))
    assert result.code == 0, result.err
    assert "\x1b" not in result.out
    if as_json:
        assert json.loads(result.out)[0]["text"] == file.read_text()
    else:
        assert r"a\x1b[31m.txt" in result.out
        assert r"safe is \x1b[2J4817." in result.out


def test_the_name_of_a_file_in_an_error_does_not_control_the_terminal(run, model, tmp_path):
    result = run("ask", tmp_path / "gone\x1b[31m.txt", "Where is it?", "--model", model)
    assert result.code == 1
    assert r"gone\x1b[31m.txt" in result.err
    assert "\x1b" not in result.err
