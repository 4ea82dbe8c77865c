import json
import os
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from e2llm import Context, Engine
from e2llm.documents import Document
from e2llm.errors import E2LLMError
from e2llm.inference.context_file import _hash_tensors, is_context_file
from tiny_models import TEXT, tiny_model, tiny_processor


@pytest.fixture
def saved(engine, tmp_path):
    documents = [Document("one", TEXT), Document("zwei", "Über alles — 漢字.", "code", "# File: x.py\n")]
    context = engine.read(documents, progress=False)
    context.save(tmp_path / "book.e2llm")
    return context, tmp_path / "book.e2llm"


def test_a_loaded_context_is_the_saved_one(engine, saved):
    context, file = saved
    loaded = Context.load(file, engine)
    assert loaded.documents == context.documents
    assert (loaded.chunks, loaded.sources, loaded.num_tokens) == (
        context.chunks,
        context.sources,
        context.num_tokens,
    )
    assert torch.equal(loaded.kept, context.kept)
    assert loaded.read_seconds == context.read_seconds
    question = {"question": "Where is the key?", "max_new_tokens": 6, "expand": 1}
    assert engine.ask(loaded, **question).text == engine.ask(context, **question).text


def test_places_are_kept_and_files_without_them_are_as_before(engine, saved, tmp_path):
    assert "places" not in load_file(saved[1])
    places = ((0, "page 1"), (5, "page 2"))
    context = engine.read([Document("a", "One.\nTwo.", places=places), Document("b", "B.")], progress=False)
    context.save(tmp_path / "a.e2llm")
    loaded = Context.load(tmp_path / "a.e2llm", engine)
    assert [item.places for item in loaded.documents] == [places, ()]
    context.edit(0, 0, 5, "")
    assert [item.places for item in context.documents] == [((0, "page 2"),), ()]


@pytest.mark.parametrize("content", [b"{}", b"[]", b'[[[0, "page 1"]], [], []]', b'[[["x", 1]], []]', b"[["])
def test_places_that_do_not_fit_are_damage(engine, saved, content):
    _, file = saved
    tensors = load_file(file)
    tensors["places"] = torch.tensor(bytearray(content), dtype=torch.uint8)
    with safe_open(file, "pt") as opened:
        manifest = json.loads(opened.metadata()["e2llm_context"])
    manifest["tensors_sha256"] = _hash_tensors(tensors)
    save_file(tensors, file, {"e2llm_context": json.dumps(manifest)})
    with pytest.raises(E2LLMError, match="not a saved context, or damaged"):
        Context.load(file, engine)


def test_a_loaded_context_can_be_edited(engine, saved):
    context, file = saved
    loaded = Context.load(file, engine)
    for item in (loaded, context):
        item.replace(2, "The key is gone. ")
    assert torch.equal(loaded.kept, context.kept)


def test_a_wrong_model_is_refused_with_the_reason(saved):
    other = Engine(tiny_model(max_soft_tokens=2), tiny_processor())
    with pytest.raises(E2LLMError, match=r"come from another model or precision \(fingerprint"):
        Context.load(saved[1], other)


def change_manifest(file, **changes):
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        manifest = json.loads(opened.metadata()["e2llm_context"])
    save_file(tensors, file, {"e2llm_context": json.dumps({**manifest, **changes})})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 3}, "context format 3 is newer"),
        ({"tensors_sha256": "0" * 64}, "the hash of the tensors is wrong"),
        ({"num_tokens": "x"}, "damaged"),
        ({"num_tokens": float("inf")}, "damaged"),
        ({"read_seconds": "x"}, "damaged"),
        ({"extra": "abc"}, "damaged"),
        ({"documents": []}, "damaged"),
        ({"splitting": {"size": 3}}, "damaged"),
        ({"documents": [{"name": "x", "bytes": 3, "kind": None, "heading": ""}]}, "damaged"),
    ],
)
def test_a_manifest_that_does_not_hold_is_refused(engine, saved, changes, words):
    change_manifest(saved[1], **changes)
    with pytest.raises(E2LLMError, match=words):
        Context.load(saved[1], engine)


@pytest.mark.parametrize("name", ["soft_tokens", "vectors", "chunks", "texts"])
def test_tensors_that_do_not_hold_are_refused(engine, saved, name):
    file = saved[1]
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors[name] = tensors[name][:-1].clone() if name != "chunks" else tensors[name] + 1000
    save_file(tensors, file, metadata)
    with pytest.raises(E2LLMError, match="damaged"):
        Context.load(file, engine)


@pytest.mark.parametrize("content", [b"", b"text", struct.pack("<Q", 10**12) + b'{"', b"\0" * 64])
def test_other_files_are_refused(engine, tmp_path, content):
    file = tmp_path / "other.e2llm"
    file.write_bytes(content)
    assert not is_context_file(file)
    with pytest.raises(E2LLMError, match="not a saved context, or damaged"):
        Context.load(file, engine)


def test_a_checkpoint_is_no_context(engine, tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(E2LLMError, match="not a saved context"):
        Context.load(tmp_path / "w.safetensors", engine)
    with pytest.raises(FileNotFoundError, match="no such context file"):
        Context.load(tmp_path / "missing.e2llm", engine)


def test_a_saved_context_is_told_from_other_files(saved):
    assert is_context_file(saved[1])


def test_a_failed_save_leaves_the_old_file(engine, saved, monkeypatch):
    context, file = saved
    before = file.read_bytes()

    def fail(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        context.save(file)
    assert file.read_bytes() == before
    assert [item.name for item in file.parent.iterdir()] == [file.name]


def test_a_change_of_any_value_is_noticed(engine, saved):
    file = saved[1]
    data = bytearray(file.read_bytes())
    for place in range(len(data) // 3, len(data), 997):
        changed = bytearray(data)
        changed[place] ^= 1
        file.write_bytes(changed)
        with pytest.raises(E2LLMError, match="damaged"):
            Context.load(file, engine)


def test_a_link_leads_to_the_file_that_is_replaced(engine, saved, tmp_path):
    context, file = saved
    (tmp_path / "link.e2llm").symlink_to(file)
    context.append("More text.")
    context.save(tmp_path / "link.e2llm")
    assert (tmp_path / "link.e2llm").is_symlink()
    assert len(Context.load(file, engine).documents) == 3


@pytest.mark.parametrize(("name", "words"), [(".", "is a folder"), ("a\0b", "cannot be written to")])
def test_a_place_that_is_no_file_is_refused(saved, tmp_path, name, words):
    with pytest.raises(E2LLMError, match=words):
        saved[0].save(f"{tmp_path}/{name}")


def test_a_device_is_not_replaced(saved, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(E2LLMError, match="is a device; name a file"):
        saved[0].save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
