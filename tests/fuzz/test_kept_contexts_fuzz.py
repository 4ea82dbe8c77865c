import json

import pytest
from fuzzing import DEEP, HUGE, altered, as_json, bounded, damaged, refused
from hypothesis import given
from hypothesis import strategies as st

from e2llm import ChunkStore
from e2llm.documents import Document
from e2llm.serving.http.api_error import ApiError
from e2llm.serving.kept_contexts import KeptContexts

OWNER = "o" * 64


@pytest.fixture(scope="module")
def kept(engine, tmp_path_factory):
    """Two contexts in a folder: one that stays whole, and one whose file is tampered with."""
    folder = tmp_path_factory.mktemp("contexts")
    with ChunkStore(folder / "store") as store:
        contexts = KeptContexts(folder, engine, store, memory_bytes=0, max_contexts=9)
        whole = contexts.create(OWNER, "whole", [Document("text", "A blue stone.")], None)
        other = contexts.create(OWNER, "other", [Document("a", "One boat."), Document("b", "Two boats.")], 40)
        file = folder / f"{other.facts.id}.json"
        yield contexts, whole.facts, file, file.read_bytes()


def check(kept, content, caplog):
    """A file with anything in it breaks no listing, is told of, and is an error to whoever asks for it."""
    contexts, whole, file, _ = kept
    file.unlink(missing_ok=True)
    file.write_bytes(content)
    caplog.clear()
    listed = contexts.list(OWNER)
    assert whole in listed
    for facts in listed:
        json.dumps(vars(facts)).encode("ascii")
        assert facts.version >= 1
        assert isinstance(facts.name, str)
    told = None
    try:
        found = refused(lambda: contexts.get(file.stem, OWNER))
    except ApiError as error:
        found, told = None, error
    assert told is None or (told.status in (404, 500) and str(file.parent) not in json.dumps(told.body))
    if file.stem not in {facts.id for facts in listed}:
        assert found is None
    if found is None and file.stem not in {facts.id for facts in listed} and "holds" not in caplog.text:
        is_unsealed = b'"checksum"' not in content
        assert file.name in caplog.text or (is_unsealed and readable_owner(content) not in (None, OWNER))


def readable_owner(content):
    """The owner that a whole file states."""
    try:
        return json.loads(content)["owner"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


@bounded
@given(st.data())
def test_a_damaged_file_breaks_no_listing_and_is_told_of(kept, caplog, data):
    check(kept, data.draw(damaged(kept[3])), caplog)


@bounded
@given(st.data())
def test_other_values_in_a_file_are_refused_or_valid(kept, caplog, data):
    check(kept, as_json(data.draw(altered(json.loads(kept[3])))), caplog)


@pytest.mark.parametrize(
    "content", [b"", DEEP.encode(), HUGE.encode(), b"\xff", b"{}", b"NaN", b'{"format": NaN}']
)
def test_a_file_of_something_else_breaks_no_listing(kept, caplog, content):
    check(kept, content, caplog)


@pytest.mark.parametrize(
    "changes",
    [
        {"created_at": "x"}, {"created_at": float("nan")}, {"version": "1"}, {"version": 0}, {"name": 5},
        {"name": "\ud800"}, {"chunk_size_chars": "4"}, {"chunk_size_chars": 0},
        {"owner": 3}, {"format": True},
        {"format": 0}, {"documents": []}, {"documents": {}}, {"documents": [{"name": "a", "text": 5}]},
        {"documents": [{"name": 5, "text": "a"}]}, {"documents": [{"name": "a", "text": "\ud800"}]},
        {"documents": [{"name": "a", "text": "a", "kind": "verse"}]},
        {"documents": [{"name": "a", "text": "a", "heading": None}]},
    ],
)  # fmt: skip
def test_values_that_cannot_be_right_are_damage(kept, caplog, changes):
    contexts, whole, file, content = kept
    file.unlink(missing_ok=True)
    file.write_bytes(as_json({**json.loads(content), "checksum": None, **changes}))
    caplog.clear()
    assert contexts.list(OWNER) == [whole]
    assert file.name in caplog.text
    with pytest.raises(ApiError) as caught:
        contexts.get(file.stem, OWNER)
    assert caught.value.status == 500
    assert str(file.parent) not in json.dumps(caught.value.body)


@pytest.mark.parametrize(("right", "wrong"), [(OWNER, "p" + OWNER[1:]), ("One boat", "Ten boat")])
def test_a_value_that_could_be_right_is_damage_by_the_checksum(kept, caplog, right, wrong):
    contexts, whole, file, content = kept
    file.unlink(missing_ok=True)
    file.write_bytes(content.replace(right.encode(), wrong.encode()))
    caplog.clear()
    assert contexts.list(OWNER) == [whole]
    assert f"{file.name}: its checksum is another one" in caplog.text


def test_a_file_without_a_checksum_as_older_ones_are_is_whole(kept):
    contexts, _, file, content = kept
    older = json.loads(content)
    del older["checksum"]
    file.unlink(missing_ok=True)
    file.write_bytes(as_json(older))
    assert len(contexts.list(OWNER)) == 2


def test_a_file_that_cannot_be_read_hides_no_other(kept, caplog):
    contexts, whole, file, _ = kept
    file.unlink(missing_ok=True)
    file.mkdir()
    caplog.clear()
    assert contexts.list(OWNER) == [whole]
    assert file.name in caplog.text
    file.rmdir()


def test_a_damaged_file_is_told_of_once_until_it_changes(kept, caplog):
    contexts, _, file, content = kept
    file.write_bytes(b"{")
    caplog.clear()
    for _ in range(3):
        contexts.list(OWNER)
    assert caplog.text.count(file.name) == 1
    file.write_bytes(content)
    assert len(contexts.list(OWNER)) == 2
