"""Stores that workers write: merged, removed, and held by one run at a time."""

import pytest
import torch

from e2llm import ChunkStore
from e2llm.errors import E2LLMError
from e2llm.scale.workers import hold_shards, merge_shards, open_shard


def entries(*numbers):
    return {number.to_bytes(32, "little"): {"vector": torch.full((4,), float(number))} for number in numbers}


@pytest.fixture
def store(tmp_path):
    with ChunkStore(tmp_path / "store") as store:
        yield store


def make_shard(store, *numbers):
    with hold_shards(store) as run, open_shard(run, 9) as shard:
        shard.put_many(entries(*numbers))
    return shard.path


def test_shards_are_merged_and_removed(store):
    paths = [make_shard(store, 1, 2), make_shard(store, 2, 3)]
    assert paths[0].parent != paths[1].parent
    assert merge_shards(store) == 3
    assert store.get_many(list(entries(1, 2, 3))).keys() == entries(1, 2, 3).keys()
    assert not any(path.parent.exists() for path in paths)


def test_a_damaged_shard_does_not_stand_in_the_way(store):
    bad = make_shard(store, 1)
    (bad / "store.sqlite").write_bytes(b"this is no database at all" * 50)
    make_shard(store, 2)
    assert merge_shards(store) == 1
    assert not bad.exists()


def test_shards_stay_when_the_store_cannot_be_written_to(store, monkeypatch):
    path = make_shard(store, 1)

    def refuse(*_):
        raise E2LLMError("the disk is full")

    monkeypatch.setattr(store, "merge", refuse)
    with pytest.raises(E2LLMError, match="the disk is full"):
        merge_shards(store)
    assert (path / "store.sqlite").is_file()


def test_one_run_at_a_time_fills_a_store(store):
    with (
        hold_shards(store),
        pytest.raises(E2LLMError, match="another run is filling this store"),
        hold_shards(ChunkStore(store.path)),
    ):
        pass
    with hold_shards(store):
        pass


def test_workers_that_keep_dying_are_not_started_for_ever(tmp_path):
    for _ in range(3):
        open_shard(tmp_path / "run", 3).close()
    with pytest.raises(E2LLMError, match="were started 3 times"):
        open_shard(tmp_path / "run", 3)
