from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from e2llm import Engine
from e2llm.documents import Document, load_documents
from e2llm.errors import E2LLMError, E2LLMWarning
from tiny_models import TEXT, tiny_model, tiny_processor

LONG = "".join(f"Boat {i} has {'very ' * (i % 7)}old sails. " for i in range(60))


def one_by_one(engine, texts):
    rows = []
    with torch.no_grad():
        for text in texts:
            inputs = engine.processor.encode_chunk_texts([text])
            rows.append(engine.model.encode_chunks(**inputs)[0])
    return torch.stack(rows)


def test_soft_tokens_are_those_of_each_chunk_by_itself_in_text_order(engine):
    context = engine.read(LONG, progress=False)
    assert len({len(chunk.text) for chunk in context.chunks}) > 5
    expected = one_by_one(engine, [chunk.text for chunk in context.chunks])
    torch.testing.assert_close(context.kept, expected, atol=1e-5, rtol=1e-4)


def test_chunks_rejoin_to_the_text(engine):
    context = engine.read(LONG, progress=False)
    assert "".join(chunk.text for chunk in context.chunks) == LONG
    assert all(LONG[chunk.start : chunk.end] == chunk.text for chunk in context.chunks)


def test_a_chunk_size_beyond_the_encoders_limit_is_answered_once(engine):
    with pytest.warns(E2LLMWarning) as noted:
        context = engine.read([LONG, LONG], chunk_size_chars=2000, progress=False)
    longest = max(len(chunk.text) for chunk in context.chunks)
    assert [str(item.message) for item in noted] == [
        "chunks of 2,000 characters were requested, but the encoder reads at most 64 tokens at once: the "
        f"longest chunk has {longest} characters"
    ]


@pytest.mark.parametrize("size", [20, 48])
def test_a_chunk_size_that_is_kept_gives_no_note(engine, size, recwarn):
    engine.read(LONG, chunk_size_chars=size, progress=False)
    engine.read("A short text.", chunk_size_chars=2000, progress=False)
    assert [item for item in recwarn if item.category is E2LLMWarning] == []


def test_soft_tokens_lie_on_the_cpu_without_gradients(engine, context):
    assert context.kept.shape == (len(context), 4, 32)
    assert not context.kept.requires_grad
    assert context.kept.device.type == "cpu"


@pytest.mark.parametrize("text", ["", "   \n\t "])
def test_a_text_without_words_is_refused(engine, text):
    with pytest.raises(E2LLMError, match="context is empty"):
        engine.read(text)


def test_no_documents_are_refused(engine):
    with pytest.raises(E2LLMError, match="context is empty"):
        engine.read([])


def test_a_text_longer_than_the_decoders_window_is_read(engine):
    context = engine.read(LONG * 3, progress=False)
    assert context.num_tokens > engine.window


def test_no_bar_is_shown_in_a_pipe(engine, capsys):
    engine.read(LONG * 4)
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_shown_when_asked_for(engine, capsys):
    engine.read(LONG, progress=True)
    assert "reading" in capsys.readouterr().err


def test_paths_and_documents_are_read_in_their_order(engine, tmp_path):
    (tmp_path / "b.txt").write_text("Text b.")
    (tmp_path / "a.md").write_text("Text a.")
    context = engine.read([Document("first", "Text zero."), tmp_path], progress=False)
    assert [chunk.text for chunk in context.chunks] == ["Text zero.", "Text a.", "Text b."]
    assert context.sources == ["first", str(tmp_path / "a.md"), str(tmp_path / "b.txt")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"a\0b", "binary"),
        ("\u043c\u0438\u0440".encode("cp1251"), "byte 0"),
    ],
)
def test_a_file_that_is_no_text_is_named(tmp_path, content, words):
    file = tmp_path / "x.txt"
    file.write_bytes(content)
    with pytest.raises(E2LLMError, match=words) as error:
        load_documents([file])
    assert str(file) in str(error.value)


def test_a_short_text_that_names_a_file_is_read_as_that_file(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("Text a.")
    assert engine.read("a.txt", progress=False).documents[0].text == "Text a."
    assert engine.read_text("a.txt", progress=False).documents[0].text == "a.txt"
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: b\.txt; Engine\.read_text"):
        engine.read("b.txt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*gone\.txt"):
        load_documents([tmp_path / "gone.txt"])


def test_threads_get_the_answers_of_one_question_after_another(context):
    engine = Engine(tiny_model(), tiny_processor())
    questions = ["Where is the key?", "How many boats?", "Who?", "A longer question about the lights."] * 2
    expected = [engine.ask(context, item, soft_tokens=2, max_new_tokens=12).text for item in questions]
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(
            lambda item: engine.ask(context, item, soft_tokens=2, max_new_tokens=12), questions
        )
        assert [answer.text for answer in answers] == expected


def test_one_thread_at_a_time_uses_the_tokenizers(engine, monkeypatch):
    calls = set()

    def guarded(name):
        function = getattr(engine.processor, name)

        def call(*args, **kwargs):
            assert engine._tokenizing._is_owned(), name
            calls.add(name)
            return function(*args, **kwargs)

        return call

    names = {"split", "encode", "encode_chunk_texts", "lay_out", "decode_answer"}
    for name in names:
        monkeypatch.setattr(engine.processor, name, guarded(name))
    context = engine.read(TEXT, progress=False)
    engine.ask(context, "Who?", expand=[0], max_new_tokens=2)
    list(engine.stream(context, "Who?", max_new_tokens=2))
    engine.restate(context, [0])
    assert calls == names


def test_threads_read_and_stream_at_once(engine, context):
    expected = engine.ask(context, "Who?", max_new_tokens=12).text
    with ThreadPoolExecutor(4) as pool:
        reads = [pool.submit(engine.read, TEXT, progress=False) for _ in range(6)]
        streams = [
            pool.submit(lambda: "".join(engine.stream(context, "Who?", max_new_tokens=12))) for _ in range(6)
        ]
        for item in reads:
            torch.testing.assert_close(item.result().kept, context.kept, atol=1e-5, rtol=1e-5)
        assert [item.result() for item in streams] == [expected] * 6


def test_chunks_are_read_and_given_raw_with_their_heading(engine, tmp_path, seen):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "a.py").write_text(
        "def first():\n    return 1\n\n\ndef second():\n    return 2\n" * 3
    )
    context = engine.read(load_documents([tmp_path]), progress=False)
    assert len(context) > 3
    assert context.content.texts[1] == "# File: pkg/a.py\n" + context.chunks[1].text
    assert "".join(chunk.text for chunk in context.chunks) == context.documents[0].text
    assert any(chunk.text.startswith("def ") for chunk in context.chunks[1:])
    rows = engine.processor.encode_chunk_ids(context.content.texts)
    assert max(len(row) for row in rows) <= engine.processor.max_chunk_tokens
    engine.ask(context, "Who?", expand=[1], max_new_tokens=1)
    assert context.content.texts[1] in engine.processor.tokenizer.decode(seen.ids)
