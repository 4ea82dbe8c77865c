import shutil
import sqlite3
from contextlib import closing

import pytest
import torch
from fuzzing import bounded, damaged, refused
from hypothesis import given
from hypothesis import strategies as st

from e2llm import ChunkStore

ENTRY = {"soft_tokens": torch.ones(2, 3), "vector": torch.arange(3).bfloat16()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores") / "store"
    with ChunkStore(folder) as store:
        store.put_many({bytes([number] * 32): ENTRY for number in range(8)})
        store.prune(max_bytes=10**6)  # everything into one file
    return folder


def use(folder):
    """Everything that is done with a store; where it goes through, what it gives is whole."""
    keys = [bytes([number] * 32) for number in range(8)]
    with ChunkStore(folder) as store:
        for entry in store.get_many(keys).values():
            assert set(entry) == set(ENTRY)
            assert all(torch.equal(entry[name], ENTRY[name]) for name in ENTRY)
        store.put_many({bytes([99] * 32): ENTRY})
        store.info()
        store.verify(repair=True)
        assert store.verify().num_corrupt == 0
        store.prune(older_than_days=1.0)
        len(store)


@bounded
@given(st.data())
def test_a_damaged_database_is_refused_or_gives_what_is_whole(folder, tmp_path, data):
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    (tmp_path / "store").mkdir()
    content = data.draw(damaged((folder / "store.sqlite").read_bytes()))
    (tmp_path / "store" / "store.sqlite").write_bytes(content)
    refused(lambda: use(tmp_path / "store"), tmp_path / "store")


@bounded
@given(
    st.sampled_from(["key", "value", "size", "last_used"]),
    st.one_of(
        st.binary(max_size=60), st.text(st.characters(codec="utf-8"), max_size=9), st.floats(allow_nan=False)
    ),
    st.integers(-(2**63), 2**63 - 1),
)
def test_rows_of_anything_are_damage(folder, tmp_path, column, value, number):
    shutil.copytree(folder, tmp_path / "store", dirs_exist_ok=True)
    with closing(sqlite3.connect(tmp_path / "store" / "store.sqlite")) as connection, connection:
        connection.execute(f"UPDATE entries SET {column} = ? WHERE id = 1", (value,))
        connection.execute(f"UPDATE entries SET {column} = ? WHERE id = 2", (number,))
    use(tmp_path / "store")


def test_a_text_that_is_no_utf8_spoils_no_other_entry(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "store")
    with closing(sqlite3.connect(tmp_path / "store" / "store.sqlite")) as connection, connection:
        connection.execute("UPDATE entries SET value = CAST(x'ff00fe' AS TEXT) WHERE id = 1")
    with ChunkStore(tmp_path / "store") as store:
        assert len(store.get_many([bytes([number] * 32) for number in range(8)])) == 7


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS id FROM n"


@pytest.mark.parametrize(
    "commands",
    [
        ["DROP TABLE entries"],
        ["ALTER TABLE entries DROP COLUMN value"],
        ["ALTER TABLE entries RENAME TO others"],
        ["DROP TABLE entries", f"CREATE VIEW entries AS {ENDLESS}"],
        ["DROP TABLE entries", "CREATE TABLE entries (id, key, value, size, last_used)"],
        ["PRAGMA user_version = -3"],
        ["PRAGMA user_version = 2"],
    ],
)
def test_a_database_of_another_making_is_refused_with_what_to_do(folder, tmp_path, commands):
    shutil.copytree(folder, tmp_path / "store")
    with closing(sqlite3.connect(tmp_path / "store" / "store.sqlite")) as connection, connection:
        for command in commands:
            connection.execute(command)
    with pytest.raises(ValueError, match="another folder"):
        use(tmp_path / "store")
