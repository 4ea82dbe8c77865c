import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e2llm import Engine
from e2llm.documents import Document
from e2llm.errors import E2LLMError
from e2llm.inference.context import Context
from tiny_models import TEXT, tiny_model, tiny_processor

LONG = "".join(f"Boat {i} has {'very ' * (i % 7)}old sails. " for i in range(60))


def assert_same(one, other):
    assert one.chunks == other.chunks
    assert one.sources == other.sources
    assert one.num_tokens == other.num_tokens
    assert one.content.token_counts == other.content.token_counts
    torch.testing.assert_close(one.kept, other.kept, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.content.read.vectors, other.content.read.vectors, atol=1e-5, rtol=1e-5)


@given(st.integers(0, 30), st.text("ab. \nQ", max_size=120))
@settings(max_examples=30, deadline=None)
def test_an_edited_context_is_the_edited_text_read_afresh(engine, index, text):
    context = engine.read(LONG, progress=False)
    context.replace(index, text)
    assert_same(context, engine.read(context.documents[0].text, progress=False))


@pytest.mark.parametrize("overlap", [0, 12])
@pytest.mark.parametrize("kind", ["prose", "code", "tokens"])
def test_edits_keep_to_the_way_the_context_was_split(overlap, kind):
    engine = Engine(tiny_model(), tiny_processor(overlap_chars=overlap, chunk_kind=kind))
    context = engine.read(LONG, chunk_size_chars=None if kind == "tokens" else 70, progress=False)
    context.replace(4, "def new(): a line that was not there. ")
    size = None if kind == "tokens" else 70
    assert_same(context, engine.read(context.documents[0].text, chunk_size_chars=size, progress=False))


def test_an_edit_reads_only_what_it_changed(engine, monkeypatch):
    context = engine.read(LONG, progress=False)
    read = []
    original = engine.reader.read
    monkeypatch.setattr(
        engine.reader, "read", lambda texts, **kw: read.extend(texts) or original(texts, **kw)
    )
    old = {chunk.text for chunk in context.chunks}
    num_encoded = context.replace(10, context.chunks[10].text.replace("old", "new"))
    assert 1 <= num_encoded == len(read) < 5
    assert not old & set(read)


def test_chunks_of_equal_text_are_read_once(engine, monkeypatch):
    read = []
    original = engine.reader.read
    monkeypatch.setattr(
        engine.reader, "read", lambda texts, **kw: read.extend(texts) or original(texts, **kw)
    )
    context = engine.read([Document("a", TEXT), Document("b", TEXT)], progress=False)
    assert len(read) == 5
    assert torch.equal(context.kept[:5], context.kept[5:])


def test_appending_adds_a_document(engine):
    context = engine.read(TEXT, progress=False)
    context.append("A second text.")
    context.append(Document("notes", "A third text."))
    assert context.sources[5:] == ["text 2", "notes"]
    assert_same(
        context,
        engine.read(
            [
                Document("text", TEXT),
                Document("text 2", "A second text."),
                Document("notes", "A third text."),
            ],
            progress=False,
        ),
    )


def test_documents_of_one_name_get_a_number(engine):
    context = engine.read([Document("d", "One."), Document("d", "Two.")], progress=False)
    context.append(Document("d", "Three."))
    context.extend(["Four.", Document("d", "Five.")])
    context.append("Six.", name="d")
    assert context.sources == ["d", "d (2)", "d (3)", "text 4", "d (4)", "d (5)"]


def test_deleting_leaves_the_rest(engine):
    context = engine.read(TEXT, progress=False)
    gone = context.chunks[1].text
    context.delete(1)
    assert context.documents[0].text == TEXT.replace(gone, "", 1)
    assert_same(context, engine.read(TEXT.replace(gone, "", 1), progress=False))


def test_a_context_without_its_last_chunk_is_empty_and_takes_new_texts(engine, tmp_path):
    context = engine.read("One boat.", progress=False)
    context.delete(0)
    assert (len(context), context.num_tokens) == (0, 0)
    assert engine.ask(context, "Where?", max_new_tokens=2).usage.chunks == 0
    assert engine.rank(context, "Where?") == []
    with pytest.raises(E2LLMError, match="chunk 0 does not exist; the context has no chunks"):
        context.replace(0, "x")
    context.save(tmp_path / "empty")
    loaded = Context.load(tmp_path / "empty", engine)
    loaded.edit(0, 0, 0, "Two boats.")
    assert_same(loaded, engine.read("Two boats.", progress=False))


def test_characters_can_be_inserted_anywhere(engine):
    context = engine.read(TEXT, progress=False)
    context.edit(0, 0, 0, "Before all. ")
    assert_same(context, engine.read("Before all. " + TEXT, progress=False))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c.replace(5, "x"), "chunk 5 does not exist; the context has chunks 0 to 4"),
        (lambda c: c.replace(-1, "x"), "chunk -1 does not exist"),
        (lambda c: c.append("  "), "the text to append is empty"),
        (lambda c: c.append(3), "a context takes strings and Documents, got int"),
        (lambda c: c.extend([3]), "a context takes strings and Documents, got int"),
        (
            lambda c: c.extend("five"),
            "extend takes a list of strings and Documents, got str; append takes one",
        ),
        (lambda c: c.extend(Document("d", "x")), "got Document; append takes one"),
        (lambda c: c.extend(None), "got NoneType; append"),
        (lambda c: c.append("a\0b"), r"character 1 is zero \(NUL\)"),
        (lambda c: c.replace(0, "a\0b"), r"character 1 is zero \(NUL\)"),
        (lambda c: c.edit(1, 0, 0, "x"), "document 1 does not exist"),
        (lambda c: c.edit(0, 5, 4, "x"), "characters 5 to 4 are not a span"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_and_changes_nothing(engine, edit, words):
    context = engine.read(TEXT, progress=False)
    before = context.content
    with pytest.raises(E2LLMError, match=words):
        edit(context)
    assert context.content is before


def test_a_context_of_another_model_is_refused(engine, context):
    other = Engine(tiny_model(max_soft_tokens=2), tiny_processor())
    with pytest.raises(E2LLMError, match="read by another model"):
        other.ask(context, "Where is the key?")


def test_a_context_is_refused_after_its_models_weights_changed():
    engine = Engine(tiny_model(), tiny_processor())
    context = engine.read(TEXT, progress=False)
    with torch.no_grad():
        engine.model.adapter.scale.mul_(2)
    with pytest.raises(E2LLMError, match="weights have changed"):
        engine.ask(context, "Where is the key?")
    with pytest.raises(E2LLMError, match="weights have changed"):
        context.append("More.")


def test_a_text_that_was_not_read_can_only_be_given_raw(engine):
    raw = Context.of_text(TEXT)
    assert engine.ask(raw, "Who?", expand=[0], max_new_tokens=2).usage.soft_tokens == 0
    with pytest.raises(E2LLMError, match="cannot be edited"):
        raw.append("More.")


def test_questions_keep_the_content_they_began_with(engine):
    context = engine.read(TEXT, progress=False)
    expected = engine.ask(context, "Who?", max_new_tokens=6).text
    stream = engine.stream(context, "Who?", max_new_tokens=6)
    context.delete(0)
    assert "".join(stream) == expected


def test_edits_of_several_threads_all_count(engine):
    context = engine.read(TEXT, progress=False)
    threads = [threading.Thread(target=context.append, args=(f"Text number {i}.",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = {document.text for document in context.documents}
    assert texts == {TEXT, *(f"Text number {i}." for i in range(6))}
    assert len(context.documents) == 7
