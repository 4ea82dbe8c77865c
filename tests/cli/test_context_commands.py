"""The commands that keep, judge and talk about contexts, and the benchmark."""

import io
import json

import pytest

from e2llm import ChunkStore
from e2llm.cli.reading.store import parse_size
from tiny_models import TEXT

QUESTION = "Where is the key?"


@pytest.fixture
def book(run, model, text_file, tmp_path):
    assert run("read", text_file, "-o", tmp_path / "book.e2llm", "--model", model).code == 0
    return tmp_path / "book.e2llm"


def test_a_saved_context_answers_as_its_file_does(run, model, text_file, book):
    fresh = run("ask", text_file, QUESTION, "--model", model)
    saved = run("ask", book, QUESTION, "--model", model)
    assert saved.out == fresh.out
    assert "; read earlier in " in saved.err
    assert "; read earlier in " not in fresh.err


def test_reading_says_what_it_read(run, model, text_file, tmp_path):
    result = run("read", text_file, "--store", tmp_path / "store", "--model", model, "--json")
    facts = json.loads(result.out)
    assert (facts["chunks"], facts["chunks_encoded"], facts["saved_to"]) == (5, 5, None)
    again = run("read", text_file, "--store", tmp_path / "store", "--model", model, "--json")
    assert json.loads(again.out)["chunks_encoded"] == 0


def test_reading_needs_a_place_to_keep_it(run, model, text_file, tmp_path):
    assert run("read", text_file, "--model", model).code == 2
    assert run("read", text_file, "-o", tmp_path, "--model", model).code == 2


def test_chunks_are_expanded_on_request(run, model, text_file):
    result = run("ask", text_file, QUESTION, "--model", model, "--expand", 1, "--select", "bm25", "--json")
    answer = json.loads(result.out)
    assert len(answer["expanded"]) == 1
    start, end = answer["expanded"][0]
    assert "key" in TEXT[start:end]


def test_a_budget_and_a_policy_say_what_the_decoder_gets(run, model, text_file):
    asked = ("ask", text_file, QUESTION, "--model", model, "--json")
    answer = json.loads(run(*asked, "--budget", 75, "--policy", "raw").out)
    assert answer["usage"]["soft_tokens"] == 0 < answer["left_out"]
    assert answer["usage"]["raw_tokens"] <= 75
    assert json.loads(run(*asked, "--policy", "soft").out)["expanded"] == []


def test_what_does_not_fit_can_be_left_out(run, model, tmp_path):
    (tmp_path / "long.txt").write_text("A short sentence of a long text. " * 900)
    result = run("ask", tmp_path / "long.txt", QUESTION, "--model", model, "--overflow", "select", "--json")
    assert json.loads(result.out)["left_out"] > 0


def test_a_store_is_shown_checked_and_pruned(run, model, text_file, tmp_path):
    folder = tmp_path / "store"
    run("read", text_file, "--store", folder, "--model", model)
    assert run("store", "info", folder).out.startswith("5 chunks, ")
    assert json.loads(run("store", "info", folder, "--json").out)["num_entries"] == 5
    assert run("store", "verify", folder).out == "5 chunks checked, 0 damaged, 0 removed\n"
    assert run("store", "prune", folder).code == 2
    with ChunkStore(folder) as store:  # in use elsewhere
        assert run("store", "prune", folder, "--max-size", "1kB").out.startswith("removed ")
        assert len(store) < 5


def test_damage_is_told_by_the_exit_code_until_it_is_repaired(run, model, text_file, tmp_path):
    folder = tmp_path / "store"
    run("read", text_file, "--store", folder, "--model", model)
    with ChunkStore(folder) as store:
        store._database.connection.execute("UPDATE entries SET value = x'00' WHERE id = 1")
    result = run("store", "verify", folder)
    assert (result.code, "remove damage with --repair" in result.err) == (1, True)
    assert run("store", "verify", folder, "--repair").code == 0
    assert run("store", "verify", folder).out == "4 chunks checked, 0 damaged, 0 removed\n"


def test_no_store_is_made_by_looking(run, tmp_path):
    result = run("store", "info", tmp_path / "none")
    assert result.code == 1
    assert "no store in" in result.err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 500 * 10**6), ("1.5 GiB", 3 * 2**29), ("1000", 1000), ("2kb", 2000)]
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "-1", "1XB", "9" * 400])
def test_other_sizes_are_wrong_usage(run, model, text_file, tmp_path, text):
    run("read", text_file, "--store", tmp_path / "s", "--model", model)
    assert run("store", "prune", tmp_path / "s", f"--max-size={text}").code == 2


def test_fidelity_is_shown_as_a_strip_with_the_worst_chunks(run, model, text_file, tmp_path):
    result = run("fidelity", text_file, "--model", model, "--png", tmp_path / "f.png")
    lines = result.out.splitlines()
    assert len(lines[0]) == 5
    assert "5 chunks at 4 soft tokens: mean score" in lines[2]
    assert sum(line.startswith("  ") for line in lines) == 3
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_fidelity_of_some_chunks_as_json(run, model, text_file):
    result = run("fidelity", text_file, "--model", model, "--sample", 2, "--json")
    assert [item["chunk"] for item in json.loads(result.out)["chunks"]] == [0, 2]


def test_a_saved_context_among_texts_is_told_as_such(run, model, text_file, book, tmp_path):
    for arguments in (("ask", text_file, book, QUESTION), ("read", book, "-o", tmp_path / "new.e2llm")):
        result = run(*arguments, "--model", model)
        assert result.code == 1
        assert f"{book} is a saved context; give it as the only file" in result.err


@pytest.mark.parametrize("left", [64, -1])
def test_a_context_that_was_cut_short_is_told_as_damaged_and_not_as_a_text(run, model, book, tmp_path, left):
    cut = tmp_path / "cut.e2llm"
    cut.write_bytes(book.read_bytes()[:left])
    result = run("ask", cut, QUESTION, "--model", model)
    assert result.code == 1
    assert f"{cut}: not a saved context, or damaged (" in result.err


def chat(run, monkeypatch, lines, *arguments):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(("\n".join(lines) + "\n").encode())))
    return run("chat", *arguments)


def test_each_line_is_a_turn(run, model, text_file, monkeypatch):
    result = chat(run, monkeypatch, [QUESTION, "", "Who is Mira?"], text_file, "--model", model)
    assert result.code == 0
    assert result.out.count("\n") == 2


def test_turns_as_json(run, model, text_file, monkeypatch):
    result = chat(run, monkeypatch, [QUESTION, "Who?"], text_file, "--model", model, "--json", "--expand", 2)
    assert [json.loads(line)["usage"]["chunks"] for line in result.out.splitlines()] == [5, 5]


def test_a_session_goes_on_from_its_file(run, model, text_file, tmp_path, monkeypatch):
    file = tmp_path / "talk.e2llm"
    options = ("--model", model, "--session", file)
    whole = chat(run, monkeypatch, ["One?", "Two?"], text_file, "--model", model)
    first = chat(run, monkeypatch, ["One?"], text_file, *options)
    second = chat(run, monkeypatch, ["Two?"], text_file, *options)
    assert first.out + second.out == whole.out


def test_commands_of_a_conversation(run, model, text_file, tmp_path, monkeypatch):
    lines = [f"/add {text_file}", QUESTION, f"/save {tmp_path / 'x.e2llm'}", "/quit", "Not asked"]
    result = chat(run, monkeypatch, lines, "--model", model)
    assert result.out.count("\n") == 1
    assert "5 chunks encoded" in result.err
    assert (tmp_path / "x.e2llm").is_file()


def test_the_first_line_may_begin_with_a_mark_and_a_bad_line_does_not_end_a_conversation(
    run, model, text_file, monkeypatch
):
    lines = [
        b"\xef\xbb\xbf/add " + bytes(text_file),
        b"\xcf\xf0\xe8",
        b"a\0b",
        "Où est la clef bleue ?".encode("cp1252"),
        b"",
    ]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\r\n".join(lines))))
    result = run("chat", "--model", model)
    assert (result.code, result.out.count("\n")) == (0, 1)
    added, *told = result.err.splitlines()
    assert added.startswith("added 1 source, 5 chunks")
    assert [line.partition(": ")[2].partition(", ")[0] for line in told] == [
        "this line: byte 0 is not valid utf-8",
        "this line: contains zero bytes",
    ]


@pytest.mark.parametrize("command", ["ask", "read", "chat"])
def test_what_a_folder_leaves_out_is_told_and_listed(run, model, tmp_path, monkeypatch, command):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "ok.txt").write_text("The code is 4817.")
    (folder / "old.txt").write_bytes("Код 4817.".encode("cp1251"))
    (folder / "photo.png").write_bytes(b"\x89PNG\0")
    rest = {"ask": [QUESTION], "read": ["-o", tmp_path / "x.e2llm"], "chat": []}[command]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(QUESTION.encode())))
    result = run(command, folder, *rest, "--model", model, "--json")
    problem = "byte 0 is not valid utf-8, and other encodings cannot be told for sure; save the file as UTF-8"
    assert result.err == (
        f"[left out of {folder}: 1 not read ({folder}/old.txt: {problem}), 1 binary ({folder}/photo.png)]\n"
    )
    assert json.loads(result.out)["left_out_files"] == [
        {"name": f"{folder}/photo.png", "reason": "binary"},
        {"name": f"{folder}/old.txt", "reason": problem},
    ]


def test_each_file_of_a_folder_is_decoded_once(run, model, tmp_path, monkeypatch):
    from e2llm.documents import records

    decoded = []
    decode = records.decode_text
    monkeypatch.setattr(records, "decode_text", lambda data, name: decoded.append(name) or decode(data, name))
    (tmp_path / "a.txt").write_text("One boat.")
    (tmp_path / "b.txt").write_text("Two boats.")
    assert run("ask", tmp_path, QUESTION, "--model", model).code == 0
    assert decoded == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]


def test_an_address_is_named_whole(run, model):
    result = run("ask", "https://boats.org/a.html", QUESTION, "--model", model)
    assert result.code == 1
    assert "https://boats.org/a.html (addresses are not fetched: save the page as a file)" in result.err


def test_reading_with_many_workers_takes_documents_of_every_format(run, model, tmp_path, monkeypatch):
    from e2llm.scale.corpus_reading import CorpusReport

    taken = []
    monkeypatch.setattr(
        "e2llm.scale.corpus_reading.read_corpus",
        lambda documents, *_, **__: taken.extend(documents) or CorpusReport(),
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in/page.txt").write_text("<html><p>One boat.")
    (tmp_path / "in/old.txt").write_bytes("Код".encode("cp1251"))
    result = run(
        "read", tmp_path / "in", "--store", tmp_path / "s", "--workers", 1, "--model", model, "--json"
    )
    assert [item.text.strip() for item in taken] == ["One boat."]
    assert [item["name"] for item in json.loads(result.out)["left_out_files"]] == [f"{tmp_path}/in/old.txt"]


def test_an_unknown_command_of_a_conversation_ends_it_in_a_pipe(run, model, monkeypatch):
    result = chat(run, monkeypatch, ["/frobnicate"], "--model", model)
    assert result.code == 1
    assert "is not a command; use one of: /add FILE..." in result.err


@pytest.mark.parametrize("name", ["harbour.txt", "harbour.txt/x.e2llm"])
def test_a_failed_save_does_not_end_a_conversation_on_a_terminal(run, model, text_file, monkeypatch, name):
    place = text_file.parent / name
    terminal = io.TextIOWrapper(io.BytesIO(f"/save {place}\n{QUESTION}\n".encode()))
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    result = run("chat", "--model", model)
    (told,) = [line for line in result.err.splitlines() if "error: " in line]
    assert str(place) in told
    assert (result.code, result.out.count("\n")) == (0, 1)


def test_a_file_that_holds_anything_else_is_not_written_over(run, model, text_file, book):
    before = text_file.read_bytes()
    assert run("read", text_file, "-o", text_file, "--model", model).code == 2
    assert run("fidelity", text_file, "--png", text_file, "--model", model).code == 2
    assert text_file.read_bytes() == before
    assert run("read", text_file, "-o", book, "--model", model).code == 0  # a context may be renewed


def test_a_text_is_no_session_and_stays_as_it_is(run, model, text_file, monkeypatch):
    before = text_file.read_bytes()
    result = chat(run, monkeypatch, [QUESTION], "--model", model, "--session", text_file)
    assert (result.code, result.out) == (1, "")
    assert f"{text_file} is not a saved session" in result.err
    assert text_file.read_bytes() == before


def test_an_added_document_is_kept_in_the_session(run, model, text_file, tmp_path, monkeypatch):
    file = tmp_path / "talk.e2llm"
    chat(run, monkeypatch, [f"/add {text_file}", "/quit"], "--model", model, "--session", file)
    result = chat(run, monkeypatch, [QUESTION], "--model", model, "--session", file, "--json")
    assert json.loads(result.out)["usage"]["chunks"] == 5
