"""`e2llm serve`: what it refuses before it serves."""

import json
import socket

import pytest

from e2llm.serving.http.keys import key_line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "give --api-key"),
        (["--api-key", "short"], "16 or more"),
        (["--api-key-file", "/nonexistent/keys"], "keys"),
    ],
)
def test_a_server_that_would_be_open_does_not_start(run, model, options, words):
    result = run("serve", model, "--port", "0", *options)
    assert result.code == 1
    assert words in result.err


def test_a_file_in_the_place_of_the_folder_is_told_before_the_model_is_loaded(run, text_file):
    result = run("serve", "/no/model", "--port", 0, "--folder", text_file)
    assert result.code == 1
    assert f"{text_file} is a file; name a folder" in result.err


def test_a_taken_port_is_an_error_that_says_so(run, model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("serve", model, "--port", taken.getsockname()[1])
    assert result.code == 1
    assert "choose another --port" in result.err


def test_a_new_key_is_printed_for_programs(run):
    made = json.loads(run("serve", "--new-api-key", "--json").out)
    assert key_line(made["key"]) == made["line"]


def test_a_program_is_told_the_address(run, model, monkeypatch):
    def serve_nobody(engine, settings, listening, backend, on_start):
        on_start("http://127.0.0.1:1")
        listening.close()

    monkeypatch.setattr("e2llm.serving.app.run_server", serve_nobody)
    result = run("serve", model, "--port", 0, "--model-name", "named", "--json")
    assert json.loads(result.out) == {"url": "http://127.0.0.1:1", "model": "named"}


def test_a_new_key_comes_with_its_line(run):
    result = run("serve", "--new-api-key")
    key, line = result.out.split()
    assert key.startswith("e2llm-")
    assert line.startswith("sha256:")
