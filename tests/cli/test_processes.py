"""The command line as its users meet it: processes, pipes, signals."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from e2llm.cli.main import app

QUESTION = "Where is the key?"
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]


def e2llm(*arguments, **options):
    command = [sys.executable, "-m", "e2llm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, **options)


def run_code(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example(run, command):
    result = run(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert re.search(rf"Examples?:\s+e2llm {command} ", result.out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json(run, command):
    assert "--json" in run(command, "--help").out


def test_the_command_line_starts_without_torch():
    result = run_code("import sys, e2llm.cli.main; print({'torch', 'transformers'} & set(sys.modules))")
    assert result.stdout == "set()\n"


def test_a_process_is_quiet_in_a_pipe_and_reads_standard_input(model, run, text_file, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    # transformers notes on stderr that greedy answers ignore a temperature
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "temperature": 0.5}))
    result = e2llm("ask", "-", QUESTION, "--model", folder, "--json", input=text_file.read_text())
    assert (result.returncode, result.stderr) == (0, "")
    expected = json.loads(run("ask", text_file, QUESTION, "--model", model, "--json").out)
    assert json.loads(result.stdout)["text"] == expected["text"]


def test_a_debugged_process_ends_in_a_traceback(tmp_path):
    result = e2llm("prepare", "text", "--from", tmp_path / "gone", "-o", tmp_path / "s.json", "--debug")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1].startswith("FileNotFoundError: ")


def test_a_pipe_that_closes_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "e2llm", "prepare", "--list"]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=100)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")


def test_ctrl_c_ends_a_process_with_130_and_one_line():
    code = (
        "import signal, e2llm.cli.opening, e2llm.cli.main as cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "e2llm.cli.opening.read_documents = lambda *_: signal.raise_signal(signal.SIGINT)\n"
        "cli.sys.argv = ['e2llm', 'ask', 'x', 'Who?']\n"
        "cli.main()"
    )
    result = run_code(code)
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr == "e2llm: error: interrupted; everything saved so far is intact\n"


def test_a_terminal_without_utf8_gets_question_marks():
    code = "import e2llm.cli.main as cli, typer\ncli.entry_point = lambda: typer.echo('\u20ac')\ncli.main()"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, timeout=100, env=environment)
    assert result.stdout == b"?\n"
