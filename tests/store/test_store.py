import os
import signal
import sqlite3
import threading
import time
import warnings
from contextlib import closing

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from e2llm import ChunkStore, Engine
from e2llm.errors import E2LLMError, E2LLMWarning, StoreError
from e2llm.store.chunk_store import decode_entry, encode_entry
from tiny_models import TEXT, tiny_model, tiny_processor


def key(number):
    return number.to_bytes(32, "little")


def entry(number, size=8):
    return {"soft_tokens": torch.full((2, size), float(number)), "vector": torch.arange(3).bfloat16()}


@pytest.fixture
def store(tmp_path):
    with ChunkStore(tmp_path / "store") as store:
        store.put_many({key(i): entry(i) for i in range(10)})
        yield store


def execute(store, command, *values):
    with closing(sqlite3.connect(store.path / "store.sqlite")) as connection, connection:
        return connection.execute(command, values).fetchone()


def test_entries_come_back_bit_for_bit(store):
    found = store.get_many([key(3), key(99), key(7)])
    assert set(found) == {key(3), key(7)}
    assert torch.equal(found[key(3)]["soft_tokens"], entry(3)["soft_tokens"])
    assert found[key(7)]["vector"].dtype == torch.bfloat16


def test_entries_outlive_the_object(store):
    with ChunkStore(store.path) as again:
        assert len(again) == 10
        assert key(4) in again
        assert key(40) not in again


def test_an_entry_that_is_there_stays(store):
    store.put_many({key(1): entry(5)})
    assert torch.equal(store.get_many([key(1)])[key(1)]["soft_tokens"], entry(1)["soft_tokens"])


def test_a_merged_store_gives_what_is_new_and_changes_nothing_that_is_there(store, tmp_path):
    with ChunkStore(tmp_path / "other") as other:
        other.put_many({key(i): entry(i + 100) for i in range(8, 250)})
        report = store.merge(other)
        assert (report.num_added, report.num_present, report.num_corrupt) == (240, 2, 0)
        assert len(other) == 242
        assert store.merge(other).num_added == 0
    found = store.get_many([key(8), key(249)])
    assert torch.equal(found[key(8)]["soft_tokens"], entry(8)["soft_tokens"])
    assert torch.equal(found[key(249)]["soft_tokens"], entry(349)["soft_tokens"])
    assert store.verify().num_corrupt == 0


def test_merging_leaves_damaged_entries_out(store, tmp_path):
    with ChunkStore(tmp_path / "other") as other:
        other.put_many({key(i): entry(i) for i in range(20, 24)})
        execute(other, "UPDATE entries SET value = zeroblob(99) WHERE key = ?", key(21))
        execute(other, "UPDATE entries SET last_used = 'x' WHERE key = ?", key(22))
        report = store.merge(other)
    assert (report.num_added, report.num_present, report.num_corrupt) == (2, 0, 2)
    assert key(21) not in store


def test_merging_keeps_the_limit_and_refuses_the_store_itself(store, tmp_path):
    with ChunkStore(tmp_path / "small", max_bytes=1000) as small:
        small.merge(store)
        assert 0 < small.info().num_bytes <= 1000
    with pytest.raises(E2LLMError, match="cannot be merged with itself"):
        store.merge(ChunkStore(store.path))


def test_more_keys_than_sqlite_takes_at_once(store):
    assert len(store.get_many([key(i) for i in range(5000)])) == 10


@pytest.mark.parametrize("place", [0, 15, 17, 25, 60, -1])
def test_a_damaged_entry_is_counted_removed_and_can_be_put_again(store, place):
    with closing(sqlite3.connect(store.path / "store.sqlite")) as connection, connection:
        value = bytearray(
            connection.execute("SELECT value FROM entries WHERE key=?", (key(2),)).fetchone()[0]
        )
        value[place] ^= 4
        connection.execute("UPDATE entries SET value=? WHERE key=?", (bytes(value), key(2)))
    assert store.verify().num_corrupt == 1
    assert set(store.get_many([key(2), key(3)])) == {key(3)}
    assert store.num_corrupt == 1
    assert key(2) not in store
    store.put_many({key(2): entry(2)})
    assert key(2) in store.get_many([key(2)])
    assert store.verify().num_corrupt == 0


def test_the_value_of_another_key_is_damage(store):
    execute(store, "UPDATE entries SET value=(SELECT value FROM entries WHERE id=5) WHERE id=1")
    assert store.verify().num_corrupt == 1
    assert set(store.get_many([key(0), key(4)])) == {key(4)}


@pytest.mark.parametrize("change", ["last_used='soon'", "key='text'", "value=''", "value='text'"])
def test_a_row_of_the_wrong_types_is_damage(store, change):
    execute(store, f"UPDATE entries SET {change} WHERE id=1")
    assert store.info().num_entries >= 9
    assert store.verify().num_corrupt == 1
    assert len(store.get_many([key(i) for i in range(10)])) == 9


def test_a_full_disk_is_said_and_loses_nothing(store):
    store._database.connection.execute("PRAGMA max_page_count = 20")
    with pytest.raises(E2LLMError, match="the disk is full"):
        store.put_many({key(100 + i): entry(i, 5000) for i in range(20)})
    assert len(store.get_many([key(i) for i in range(10)])) == 10
    assert store.verify().num_corrupt == 0


def test_a_store_that_cannot_be_used_ends_no_reading_and_says_so_once(engine, tmp_path, monkeypatch):
    def fail():
        raise sqlite3.OperationalError("database or disk is full")

    with ChunkStore(tmp_path / "store") as store:
        store.close()
        monkeypatch.setattr(store._database, "_open", fail)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            read = engine.read(TEXT, store=store, progress=False)
            monkeypatch.setattr("e2llm.store.chunk_store._REST_SECONDS", 0)
            store._resting_until = 0
            assert engine.read(TEXT, store=store, progress=False).chunks == read.chunks
        (note,) = [str(item.message) for item in told if item.category is E2LLMWarning]
        assert note.startswith(f"{tmp_path / 'store'}: the disk is full;")
        assert note.endswith("Texts are read without the store")
        monkeypatch.undo()
        store._resting_until = 0
        engine.read(TEXT, store=store, progress=False)
        assert len(store) == len(read.chunks)


def test_a_store_that_is_the_aim_of_reading_ends_it_where_it_cannot_be_used(engine, tmp_path, monkeypatch):
    def fail():
        raise sqlite3.OperationalError("database is locked")

    with ChunkStore(tmp_path / "store", is_required=True) as store:
        store.close()
        monkeypatch.setattr(store._database, "_open", fail)
        with pytest.raises(StoreError, match="database is locked"):
            engine.read(TEXT, store=store, progress=False)


def test_a_locked_store_is_not_waited_for_again_and_again(tmp_path, monkeypatch):
    with ChunkStore(tmp_path / "store"):
        pass
    monkeypatch.setattr("e2llm.store.database.WAIT_SECONDS", 0.01)
    with closing(sqlite3.connect(tmp_path / "store" / "store.sqlite", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        with pytest.warns(E2LLMWarning, match="database is locked"):
            assert ChunkStore(tmp_path / "store", is_required=False).look_up([key(1)]) == {}
        assert time.monotonic() - started < 1


def test_reading_does_not_wait_for_a_writer(store):
    execute(store, "UPDATE entries SET last_used = 0")
    with closing(sqlite3.connect(store.path / "store.sqlite", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert len(store.get_many([key(1)])) == 1  # waiting would take a minute and fail the suite
        writer.execute("ROLLBACK")


def test_repair_removes_what_is_damaged(store):
    execute(store, "UPDATE entries SET value=x'00' WHERE id<=3")
    report = store.verify(repair=True)
    assert (report.num_checked, report.num_corrupt, report.num_removed) == (10, 3, 3)
    assert store.verify().num_checked == 7


def test_a_full_store_drops_what_was_used_longest_ago(tmp_path):
    size = len(encode_entry(key(0), entry(0, 1000)))
    with ChunkStore(tmp_path, max_bytes=5 * size) as store:
        store.put_many({key(i): entry(i, 1000) for i in range(5)})
        execute(store, "UPDATE entries SET last_used = last_used - 9000 + id")
        store.get_many([key(0)])  # the oldest is used again
        store.put_many({key(9): entry(9, 1000)})
        kept = set(store.get_many([key(i) for i in range(10)]))
    assert {key(0), key(9)} <= kept
    assert not {key(1), key(2)} & kept
    assert len(kept) * size <= 5 * size


def test_a_stated_size_is_not_trusted(store):
    execute(store, "UPDATE entries SET size = -100000000 WHERE id = 1")
    execute(store, "UPDATE entries SET size = 'big' WHERE id = 2")
    assert store.info().num_bytes == 10 * len(encode_entry(key(0), entry(0)))
    assert store.prune(max_bytes=store.info().num_bytes // 2) >= 5
    execute(store, "UPDATE entries SET size = 1 WHERE id = 9")
    assert store.verify().num_corrupt == 1


def test_a_repair_that_cannot_be_made_is_an_error(store):
    execute(store, "UPDATE entries SET value = x'00' WHERE id = 1")
    store._database.connection.execute("PRAGMA query_only = 1")
    with pytest.raises(E2LLMError, match="the store cannot be used"):
        store.verify(repair=True)
    assert len(store.get_many([key(0), key(1)])) == 1  # reading goes on


def test_pruning_frees_the_disk(store):
    store.put_many({key(100 + i): entry(i, 5000) for i in range(40)})
    before = store.info()
    assert store.prune(max_bytes=before.num_bytes // 4) > 20
    after = store.info()
    assert after.num_bytes <= before.num_bytes // 4
    assert after.file_bytes < before.file_bytes // 2


@pytest.mark.parametrize("limits", [{"older_than_days": float("nan")}, {"max_bytes": -1}])
def test_pruning_by_what_is_no_limit_is_an_error(store, limits):
    with pytest.raises(E2LLMError, match="must be 0 or more, got"):
        store.prune(**limits)
    assert len(store) == 10


def test_pruning_by_age(store):
    execute(store, "UPDATE entries SET last_used = last_used - 3*86400 WHERE id <= 4")
    assert store.prune(older_than_days=2) == 4
    assert len(store) == 6


def test_threads_share_one_object(store):
    errors = []

    def work(number):
        try:
            for i in range(20):
                store.put_many({key(1000 * number + i): entry(i)})
                assert store.get_many([key(1000 * number + i)])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(store) == 90


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_opens_its_own_connection(store):
    child = os.fork()
    if child == 0:
        os._exit(0 if len(store.get_many([key(1), key(2)])) == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(store) == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_while_another_thread_uses_the_store_is_not_stuck(store):
    held, done = threading.Event(), threading.Event()

    def hold():
        with store._database._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if len(store) == 10 else 1)
    status = os.waitpid(child, 0)[1]
    done.set()
    thread.join()
    assert status == 0


def test_what_is_no_store_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(E2LLMError, match="is a file; give a folder for the store"):
        ChunkStore(tmp_path / "file")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "store.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(E2LLMError, match=r"is damaged .* delete or move the folder"):
        ChunkStore(tmp_path / "bad")


def test_a_store_of_a_newer_format_is_refused(store):
    store.close()
    execute(store, "PRAGMA user_version = 2")
    with pytest.raises(E2LLMError, match="store format 2 is newer"):
        ChunkStore(store.path)


def test_wrong_keys_and_tensors_are_refused(store):
    with pytest.raises(E2LLMError, match="32 bytes, got 3"):
        store.put_many({b"abc": entry(1)})
    with pytest.raises(E2LLMError, match="got torch"):
        store.put_many({key(50): {"ids": torch.arange(3, dtype=torch.int32)}})
    assert len(store) == 10


@given(st.binary(max_size=200))
def test_no_bytes_make_decoding_fail(data):
    assert decode_entry(key(1), data) is None


@given(
    st.integers(0, 5),
    st.integers(0, 5),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64]),
)
def test_any_shape_round_trips(rows, columns, dtype):
    tensor = torch.arange(rows * columns).reshape(rows, columns).to(dtype)
    back = decode_entry(key(1), encode_entry(key(1), {"a": tensor, "b": tensor.t()}))
    assert torch.equal(back["a"], tensor)
    assert torch.equal(back["b"], tensor.t())


def test_a_stored_context_is_a_fresh_one_and_reads_nothing(engine, tmp_path, monkeypatch):
    fresh = engine.read(TEXT, progress=False)
    with ChunkStore(tmp_path) as store:
        first = engine.read(TEXT, store=store, progress=False)
        monkeypatch.setattr(engine.model, "encode_states", None)  # nothing is encoded any more
        again = engine.read(TEXT, store=store, progress=False)
    assert (first.content.num_encoded, again.content.num_encoded) == (5, 0)
    for context in (first, again):
        assert torch.equal(context.kept, fresh.kept)
        assert torch.equal(context.content.read.vectors, fresh.content.read.vectors)


def test_a_damaged_chunk_is_read_again(engine, tmp_path):
    with ChunkStore(tmp_path) as store:
        first = engine.read(TEXT, store=store, progress=False)
        execute(store, "UPDATE entries SET value=substr(value, 1, 40) WHERE id=2")
        again = engine.read(TEXT, store=store, progress=False)
        assert again.content.num_encoded == 1
        assert torch.equal(again.kept, first.kept)
        assert store.verify().num_corrupt == 0


def test_models_do_not_share_entries(engine, tmp_path):
    with ChunkStore(tmp_path) as store:
        engine.read(TEXT, store=store, progress=False)
        other = Engine(tiny_model(pooling="cls"), tiny_processor(), store=store)
        assert other.read(TEXT, progress=False).content.num_encoded == 5
        assert len(store) == 10
