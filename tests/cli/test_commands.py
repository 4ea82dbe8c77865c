import contextlib
import io
import json
import shutil
import sys

import pytest

from e2llm import Engine
from e2llm.cli.reading.ask import print_piece
from e2llm.messages import printable
from tiny_models import TEXT

QUESTION = "Where is the key?"


def stdin_of(data: bytes):
    return io.TextIOWrapper(io.BytesIO(data))


@pytest.fixture(scope="module")
def engine(model):
    return Engine.from_pretrained(model, device="cpu")


def test_ask_prints_the_answer_alone_on_stdout(run, model, text_file, engine):
    result = run("ask", text_file, QUESTION, "--model", model)
    assert result.code == 0
    answer = engine.ask(engine.read(TEXT), QUESTION)
    assert result.out == printable(answer.text) + "\n"
    *sources, cost = result.err.splitlines()
    assert [line.partition(": ")[0] for line in sources] == [
        f"[{number}] {text_file}, line 1" for number in range(1, len(answer.sources[:3]) + 1)
    ]
    assert len(sources) > 1
    assert answer.sources[0].text.split()[0] in sources[0]
    assert cost.startswith("[84 tokens in 5 chunks as 0 soft tokens and 5 chunks as text ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--soft-tokens", 4),
            "200 chunks at 4 soft tokens each take 800 positions, but there is room for ",
        ),
        (("--soft-tokens", 5), "soft tokens per chunk must be from 1 to 4, got 5"),
        (("--overflow", "luck"), "overflow must be error or select, got 'luck'"),
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_is_read(
    run, model, tmp_path, monkeypatch, options, words
):
    monkeypatch.setattr(Engine, "read", lambda *_args, **_kwargs: pytest.fail("it was read"))
    book = tmp_path / "book.txt"
    book.write_text(TEXT * 40)
    result = run("ask", book, QUESTION, "--model", model, *options)
    assert result.code == 1
    assert words in result.err


def test_one_chunk_is_told_of_as_one(run, model, tmp_path):
    page = tmp_path / "page.txt"
    page.write_text("Dan ran.")
    result = run("ask", page, QUESTION, "--model", model, "--expand", 0)
    assert " tokens in 1 chunk as 4 soft tokens (" in result.err


def test_ask_answers_from_soft_tokens_alone_on_request(run, model, text_file, engine):
    result = run("ask", text_file, QUESTION, "--model", model, "--expand", 0)
    assert result.out == printable(engine.ask(engine.read(TEXT), QUESTION, expand=0).text) + "\n"
    assert "[84 tokens in 5 chunks as 20 soft tokens (4.2x); read " in result.err


def test_without_room_for_a_raw_chunk_soft_tokens_answer_alone(run, model, text_file, engine):
    usage = engine.ask(engine.read(TEXT), QUESTION, soft_tokens=1, expand=0, max_new_tokens=1).usage
    room = engine.window - usage.soft_tokens - usage.raw_tokens
    asked = ["ask", text_file, QUESTION, "--model", model, "--soft-tokens", 1, "--max-new-tokens", room]
    assert json.loads(run(*asked, "--json").out)["expanded"] == []
    assert json.loads(run(*asked, "--expand", 1, "--json").out)["expanded"] == []


def test_the_answer_comes_in_pieces(run, model, text_file, monkeypatch):
    pieces = []
    monkeypatch.setattr(
        "e2llm.cli.reading.ask.print_piece", lambda piece: pieces.append(piece) or print_piece(piece)
    )
    result = run("ask", text_file, QUESTION, "--model", model)
    assert len(pieces) > 5
    assert "".join(map(printable, pieces)) + "\n" == result.out


def test_a_piece_is_on_the_terminal_before_the_next_one_comes():
    stream = io.TextIOWrapper(io.BytesIO(), line_buffering=False)
    with contextlib.redirect_stdout(stream):
        print_piece("wor")
        assert stream.buffer.getvalue() == b"wor"


def test_json_holds_answer_usage_and_timing_and_nothing_else_is_printed(run, model, text_file):
    plain = run("ask", text_file, QUESTION, "--model", model, "--soft-tokens", 2, "--max-new-tokens", 9)
    result = run(
        "ask", text_file, QUESTION, "--model", model, "--soft-tokens", 2, "--max-new-tokens", 9, "--json"
    )
    data = json.loads(result.out)
    named = ["expanded", "expanded_chunks", "left_out", "sources", "levels", "cited", "left_out_files"]
    assert list(data) == ["text", "usage", "timing", *named]
    assert data["text"] + "\n" == plain.out
    assert (data["usage"]["soft_tokens"], data["usage"]["new_tokens"]) == (10, 9)
    assert set(data["timing"]) == {"read_seconds", "first_token_seconds", "total_seconds", "sources_seconds"}
    assert result.err == ""


def test_several_files_and_folders_are_one_context(run, model, text_file, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/two.md").write_text("A second text.")
    result = run("ask", text_file, tmp_path / "more", QUESTION, "--model", model, "--json")
    assert json.loads(result.out)["usage"]["chunks"] == 6


def test_a_document_is_read_and_its_places_are_sources(run, model, tmp_path):
    (tmp_path / "talk.srt").write_text("1\n00:12:05,000 --> 00:12:07,000\nThe key is under the stone.\n")
    result = run("ask", tmp_path / "talk.srt", QUESTION, "--model", model)
    assert f"[1] {tmp_path / 'talk.srt'}, 00:12:05: The key" in result.err
    run("read", tmp_path / "talk.srt", "--model", model, "-o", tmp_path / "talk.e2llm")
    result = run("ask", tmp_path / "talk.e2llm", QUESTION, "--model", model, "--json")
    assert json.loads(result.out)["sources"][0]["place"] == "00:12:05"


def test_a_dash_reads_standard_input(run, model, text_file, monkeypatch):
    monkeypatch.setattr(sys, "stdin", stdin_of(TEXT.replace(". ", ".\r\n").encode("utf-8-sig")))
    piped = run("ask", "-", QUESTION, "--model", model)
    text_file.write_text(TEXT.replace(". ", ".\n"))
    assert (piped.code, piped.out) == (0, run("ask", text_file, QUESTION, "--model", model).out)


@pytest.mark.parametrize(
    ("data", "words"),
    [(b" \n", "empty"), (b"\xec\xe8\xf0", "byte 0 is not valid utf-8"), (b"a\0b", "binary")],
)
def test_standard_input_that_is_no_text_is_refused(run, model, monkeypatch, data, words):
    monkeypatch.setattr(sys, "stdin", stdin_of(data))
    result = run("ask", "-", QUESTION, "--model", model)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("e2llm: error: standard input")
    assert words in result.err


def test_compare_shows_both_ways(run, model, text_file):
    arguments = ("ask", text_file, QUESTION, "--model", model, "--max-new-tokens", 6, "--compare")
    answer, heading, *_ = run(*arguments).out.splitlines()
    data = json.loads(run(*arguments, "--json").out)
    assert answer == data["text"]
    assert heading.split() == ["e2llm", "full", "context"]
    assert data["full_context"]["context_fraction"] == 1.0
    assert {"text", "first_token_seconds", "total_seconds", "peak_extra_bytes"} <= set(data["full_context"])
    assert data["peak_extra_bytes"] >= 0


def test_restate_shows_chunks_beside_their_text(run, model, text_file, engine):
    context = engine.read(TEXT)
    result = run("restate", text_file, "--chunk", 3, "--chunk", 0, "--model", model, "--json")
    rows = json.loads(result.out)
    assert [row["chunk"] for row in rows] == [3, 0]
    assert [row["restated"] for row in rows] == engine.restate(context, [3, 0])
    assert [TEXT[slice(*row["span"])] for row in rows] == [row["text"] for row in rows]
    plain = run("restate", text_file, "--chunk", 0, "--model", model).out
    assert "text:     The harbour lights went out at nine." in plain


def test_info_describes_a_model(run, model, bases):
    facts = json.loads(run("info", model, "--json").out)["model"]
    assert (facts["window"], facts["max_soft_tokens"], facts["chunk_size_chars"]) == (512, 4, 48)
    assert facts["longest_context_chars"] == 512 * 48
    assert facts["bases"] == {"encoder": str(bases / "encoder"), "decoder": str(bases / "decoder")}
    assert "llama, " in facts["decoder"]
    assert f"placeholder: {facts['placeholder']}" in run("info", model).out


def test_an_exported_model_needs_no_bases_and_answers_equally(run, make_model, bases, text_file, tmp_path):
    copies = shutil.copytree(bases, tmp_path / "bases")
    folder = make_model(tmp_path / "model", copies)
    before = run("ask", text_file, QUESTION, "--model", folder).out
    result = run("export", folder, tmp_path / "deep/out", "--json")
    assert json.loads(result.out)["output"] == str(tmp_path / "deep/out")
    shutil.rmtree(copies)
    assert run("ask", text_file, QUESTION, "--model", folder).code == 1
    after = run("ask", text_file, QUESTION, "--model", tmp_path / "deep/out")
    assert (after.code, after.out) == (0, before)
    assert json.loads(run("info", tmp_path / "deep/out", "--json").out)["model"]["bases"] == "none"


def test_export_leaves_nothing_behind_when_it_fails(run, model, tmp_path, monkeypatch):
    def full_disk(*_args, **_kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("e2llm.modeling.processor.E2LLMProcessor.save_pretrained", full_disk)
    result = run("export", model, tmp_path / "out")
    assert (result.code, result.err) == (1, "e2llm: error: no space left on device\n")
    assert list(tmp_path.iterdir()) == []


def test_export_names_the_folder_that_cannot_be_made(run, model):
    result = run("export", model, "/proc/out")
    assert (result.code, result.err) == (1, "e2llm: error: /proc/out: No such file or directory\n")


def test_export_writes_over_nothing(run, model, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    result = run("export", model, tmp_path)
    assert result.code == 1
    assert "not an empty folder" in result.err
    assert [item.name for item in tmp_path.iterdir()] == ["mine.txt"]


def test_a_refined_answer_says_how_many_chunks_became_text(run, model, text_file, engine):
    options = ["--model", model, "--policy", "soft", "--budget", 100]
    result = run("ask", text_file, QUESTION, *options, "--refine", 1, "--json")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["usage"]["refined"] == len(answer["expanded_chunks"]) > 0
    assert answer["levels"].count("text") == len(answer["expanded_chunks"])


def test_a_joined_model_refers_to_its_parts_and_says_what_its_adapter_is(run, bases, text_file, tmp_path):
    encoder, decoder = bases / "encoder", bases / "decoder"
    text_file.write_text(text_file.read_text() * 20)
    result = run("join", encoder, decoder, "-o", tmp_path / "joined", "--texts", text_file, "--json")
    assert result.code == 0, result.err
    told = json.loads(result.out)
    assert told["adapter"] == "pooling"
    assert told["encoder_layers"] == [0, 1, 2]
    assert told["ridge"]["r2"] <= 1
    files = [file.name for file in (tmp_path / "joined").rglob("*.safetensors")]
    assert files == ["model.safetensors"]
    assert told["num_bytes"] < 400_000
    again = run("join", encoder, decoder, "-o", tmp_path / "joined")
    assert again.code == 1
    assert "is not an empty folder" in again.err


def test_join_refuses_layers_that_do_not_exist_and_texts_for_another_adapter(run, bases, text_file, tmp_path):
    encoder, decoder = bases / "encoder", bases / "decoder"
    result = run("join", encoder, decoder, "-o", tmp_path / "out", "--layers", "0,9")
    assert result.code == 1
    assert "encoder_layers must name different layers from 0 (the embeddings) to 2 (the last)" in result.err
    result = run("join", encoder, decoder, "-o", tmp_path / "out", "--layers", "last")
    assert result.code == 2
    assert "--layers takes layer numbers such as 0,3,6" in result.err
    result = run("join", encoder, decoder, "-o", tmp_path / "out", "--bidirectional")
    assert result.code == 1
    assert "the encoder (bert) is bidirectional already" in result.err
    result = run("join", encoder, decoder, "-o", tmp_path / "out", "--adapter", "mlp", "--texts", text_file)
    assert "--texts works only with --adapter pooling" in result.err
    assert not (tmp_path / "out").exists()
