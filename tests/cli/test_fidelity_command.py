"""`e2llm fidelity`: what it prints, writes and refuses."""

import json

import pytest


def test_json_has_every_chunk(run, model, text_file):
    result = run("fidelity", text_file, "--model", model, "--json")
    report = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert [row["chunk"] for row in report["chunks"]] == [0, 1, 2, 3, 4]
    assert all(0 < row["score"] < 1 for row in report["chunks"])


def test_a_sample_is_spread_over_the_text(run, model, text_file):
    report = json.loads(run("fidelity", text_file, "--model", model, "--json", "--sample", 2).out)
    assert [row["chunk"] for row in report["chunks"]] == [0, 2]


def test_a_pipe_gets_blocks_without_colour_and_the_worst_chunks(run, model, text_file):
    result = run("fidelity", text_file, "--model", model)
    strip, scale, *rest = result.out.splitlines()
    assert result.code == 0
    assert len(strip) == 5
    assert scale.startswith("scale: ")
    assert "\x1b" not in result.out
    assert sum("harbour.txt [" in line for line in rest) == 3


def test_picture_is_written_for_a_program_too(run, model, text_file, tmp_path):
    pytest.importorskip("matplotlib")
    file = tmp_path / "fidelity.png"
    result = run("fidelity", text_file, "--model", model, "--png", file, "--json", "--sample", 1)
    assert json.loads(result.out)["chunks"]
    assert file.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_folder_for_the_picture_is_refused_before_anything_is_read(run, tmp_path):
    pytest.importorskip("matplotlib")
    result = run("fidelity", __file__, "--png", tmp_path)
    assert result.code == 1
    assert f"{tmp_path} is a folder; name a file such as" in result.err


def test_help_has_an_example(run):
    assert "e2llm fidelity examples/" in run("fidelity", "--help").out
