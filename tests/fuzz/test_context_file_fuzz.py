import json
import struct

import pytest
from fuzzing import HUGE, altered, bounded, damaged, refused
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from e2llm import ChatSession, Context
from e2llm.documents import Document
from e2llm.inference.context_file import _hash_tensors, is_context_file
from tiny_models import TEXT

KEY = "e2llm_context"


@pytest.fixture(scope="module")
def saved(engine, tmp_path_factory):
    """The bytes of a saved chat about two documents, its manifest and its tensors."""
    file = tmp_path_factory.mktemp("saved") / "book.e2llm"
    chat = ChatSession(
        engine, engine.read([Document("one", TEXT), Document("zwei", "Über — 漢字.")], progress=False)
    )
    chat.add_turn("Where?", "There.")
    chat.save(file)
    with safe_open(file, "pt") as opened:
        manifest = json.loads(opened.metadata()[KEY])
    return file.read_bytes(), manifest, load_file(file)


def check(file, engine):
    """Whatever the file holds, it is refused by name, or a context that can be asked, edited and saved."""
    assert is_context_file(file) in (True, False)
    chat = refused(lambda: ChatSession.load(file, engine), file)
    if chat is not None:
        context = chat.context
        assert sum(len(chunk.text) for chunk in context.chunks) <= 2 * sum(
            len(d.text) for d in context.documents
        )
        refused(lambda: engine.ask(context, "Where?", expand=1, max_new_tokens=1, overflow="select"))
        context.append("More.")
        chat.save(file.with_suffix(".again"))
        repr(context).encode()


@bounded
@given(st.data())
def test_damaged_bytes_are_refused(engine, saved, tmp_path, data):
    file = tmp_path / "book.e2llm"
    content = saved[0]
    if data.draw(st.booleans()):  # most of the rest is tensors, whose hash finds all
        (length,) = struct.unpack("<Q", content[:8])
        header = data.draw(damaged(content[8 : 8 + length]))
        content = struct.pack("<Q", len(header)) + header + content[8 + length :]
    else:
        content = data.draw(damaged(content))
    file.write_bytes(content)
    check(file, engine)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_any_stated_length_is_refused(engine, saved, tmp_path, length):
    file = tmp_path / "book.e2llm"
    file.write_bytes(struct.pack("<Q", length) + saved[0][8:])
    assert refused(lambda: Context.load(file, engine), file) is None
    assert not is_context_file(file)


def write(file, manifest, tensors):
    if isinstance(manifest, dict):
        manifest = {**manifest, "tensors_sha256": _hash_tensors(tensors)}
    save_file(tensors, file, {KEY: manifest if isinstance(manifest, str) else json.dumps(manifest)})


@bounded
@given(st.data())
def test_other_values_in_the_manifest_are_refused_or_valid(engine, saved, tmp_path, data):
    write(tmp_path / "book.e2llm", data.draw(altered(saved[1])), saved[2])
    check(tmp_path / "book.e2llm", engine)


@pytest.mark.parametrize(
    "manifest",
    ["[" * 20_000, f'{{"format": {HUGE}}}', "NaN", '{"format": NaN}', '{"format": 0}', "", "\ud7ff"],
)
def test_a_manifest_that_is_none_is_refused(engine, saved, tmp_path, manifest):
    write(tmp_path / "book.e2llm", manifest, saved[2])
    assert refused(lambda: Context.load(tmp_path / "book.e2llm", engine), tmp_path) is None
    check(tmp_path / "book.e2llm", engine)


@pytest.mark.parametrize(
    "changes",
    [
        {"read_seconds": float("nan")},
        {"read_seconds": -1},
        {"num_tokens": -5},
        {"format": True},
        {"splitting": {"chunk_size_chars": "48", "overlap_chars": 0, "kind": "prose"}},
        {"splitting": {"chunk_size_chars": 0, "overlap_chars": 0, "kind": "prose"}},
        {"splitting": {"chunk_size_chars": 48, "overlap_chars": -1, "kind": "prose"}},
        {"splitting": {"chunk_size_chars": 48, "overlap_chars": 0, "kind": "verse"}},
    ],
)
def test_values_out_of_range_are_refused(engine, saved, tmp_path, changes):
    write(tmp_path / "book.e2llm", {**saved[1], **changes}, saved[2])
    assert refused(lambda: Context.load(tmp_path / "book.e2llm", engine), tmp_path) is None


@pytest.mark.parametrize("sizes", [(-3, 3), (1e3, 1), (None, 1), (True, 1), (10**30, 1), (3, 3)])
def test_documents_that_do_not_make_up_the_texts_are_refused(engine, saved, tmp_path, sizes):
    first, second = saved[1]["documents"][:2]
    documents = [{**first, "bytes": sizes[0]}, {**second, "bytes": sizes[1]}]
    write(tmp_path / "book.e2llm", {**saved[1], "documents": documents}, saved[2])
    assert refused(lambda: Context.load(tmp_path / "book.e2llm", engine), tmp_path) is None
