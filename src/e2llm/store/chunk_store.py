"""Encoded chunks on disk under a hash of who read them and what they say: read once, by whomever.

A store is a folder with a database (`e2llm.store.database`). It holds only what can be read again: losing one
costs time.
"""

import contextlib
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType

import torch

from e2llm.errors import E2LLMError
from e2llm.store.database import FILE_NAME, WAIT_SECONDS, Database, transaction
from e2llm.store.entry import decode_entry, encode_entry

_BATCH = 500  # sqlite takes at least 999 variables
_MERGE_BATCH = 100
# When an entry was last used is noted to the hour, so that reading a book again writes next to nothing.
_USE_STEP_SECONDS = 3600
_PRUNE_FRACTION = 0.9  # a full store is cut to this, so that not every write has to make room


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes:
        path: Its folder.
        num_entries: Encoded chunks.
        num_bytes: Size of the entries.
        file_bytes: Size of its files on disk.
        max_bytes: Limit on the entries' size; None for none.
        last_used: Seconds since 1970 at which the least and the most recently used entry was used, to the
            hour; None for an empty store.
    """

    path: str
    num_entries: int
    num_bytes: int
    file_bytes: int
    max_bytes: int | None
    last_used: tuple[float, float] | None


@dataclass(frozen=True)
class MergeReport:
    """What a store took from another.

    Attributes:
        num_added: Entries taken over.
        num_present: Entries that were there already.
        num_corrupt: Damaged entries of the other store, which were left out.
    """

    num_added: int
    num_present: int
    num_corrupt: int


@dataclass(frozen=True)
class VerifyReport:
    """What a check of all entries found.

    Attributes:
        num_checked: Entries read.
        num_corrupt: Entries that are damaged.
        num_removed: Damaged entries that were removed, to be read again when they are next needed.
    """

    num_checked: int
    num_corrupt: int
    num_removed: int


class ChunkStore:
    """A persistent store of encoded chunks, shared by contexts, threads and processes.

    Args:
        path: Its folder, made if need be.
        max_bytes: Limit on the size of all entries; beyond it the least recently used ones go. None: no
            limit.

    Attributes:
        num_corrupt: Damaged entries met (and removed) by this object.

    Raises:
        E2LLMError: If the folder holds something else, a damaged store, or one of a newer format.
    """

    def __init__(self, path: str | PathLike[str], *, max_bytes: int | None = None) -> None:
        if max_bytes is not None and (type(max_bytes) is not int or max_bytes < 0):
            raise E2LLMError(f"max_bytes must be a whole number, 0 or more, got {max_bytes!r}")
        if not fspath(path):
            raise E2LLMError("the path of the store is empty; name a folder")
        self.path = Path(fspath(path))
        self.max_bytes = max_bytes
        self.num_corrupt = 0
        self._database = Database(self.path)
        if self.path.is_file():
            raise E2LLMError(f"{self.path} is a file; a store is a folder")
        with self._database.session():
            pass

    # --- reading and writing ------------------------------------------------------------------------------

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, dict[str, torch.Tensor]]:
        """The entries that are there and intact, by key; damaged ones are removed and counted."""
        found: dict[bytes, dict[str, torch.Tensor]] = {}
        damaged: list[int] = []
        stale: list[int] = []
        now = int(time.time())
        with self._database.session() as connection:
            for start in range(0, len(keys), _BATCH):
                batch = list(keys[start : start + _BATCH])
                marks = ",".join("?" * len(batch))
                rows = connection.execute(
                    f"SELECT id, key, value, last_used FROM entries WHERE key IN ({marks})", batch
                )
                for number, key, value, last_used in rows:
                    entry = decode_entry(key, value)
                    if entry is None or type(last_used) is not int:
                        damaged.append(number)
                        continue
                    found[key] = entry
                    if now - last_used > _USE_STEP_SECONDS:
                        stale.append(number)
            if damaged:
                self.num_corrupt += len(damaged)
                self._remove(connection, damaged)
            if stale:
                self._note_use(connection, stale, now)
        return found

    def _note_use(self, connection: sqlite3.Connection, numbers: list[int], now: int) -> None:
        """Note when entries were used, unless the store is busy or cannot be written to: reading goes on."""
        connection.execute("PRAGMA busy_timeout = 0").fetchall()
        try:
            with contextlib.suppress(sqlite3.OperationalError), transaction(connection):
                connection.executemany(
                    "UPDATE entries SET last_used = ? WHERE id = ?", [(now, number) for number in numbers]
                )
        finally:
            connection.execute(f"PRAGMA busy_timeout = {int(WAIT_SECONDS * 1000)}").fetchall()

    def put_many(self, entries: Mapping[bytes, Mapping[str, torch.Tensor]]) -> None:
        """Keep entries, all or none of them; those that are there already stay as they are.

        Args:
            entries: Named CPU tensors by 32-byte key.

        Raises:
            E2LLMError: If a key or tensor cannot be kept, or the disk is full or not to be written to.
        """
        now = int(time.time())
        rows = []
        for key, tensors in entries.items():
            if len(key) != 32:
                raise E2LLMError(f"a key must have 32 bytes, got {len(key)}")
            value = encode_entry(key, tensors)
            rows.append((key, value, len(value), now))
        if rows:
            self._insert(rows)

    def merge(self, other: "ChunkStore") -> MergeReport:
        """Take over the entries of another store, each after a check; those that are there stay as they are.

        Args:
            other: Stays as it is.

        Raises:
            E2LLMError: If both are the same store, one of them cannot be used, or the disk is full.
        """
        if self.path.resolve() == other.path.resolve():
            raise E2LLMError(f"{self.path}: a store cannot be merged with itself; name another one")
        num_added = num_present = num_corrupt = last = 0
        while True:
            with other._database.session() as connection:
                rows = connection.execute(
                    "SELECT key, value, length(value), last_used, id FROM entries WHERE id > ? "
                    "ORDER BY id LIMIT ?",
                    (last, _MERGE_BATCH),
                ).fetchall()
            if not rows:
                return MergeReport(num_added, num_present, num_corrupt)
            last = rows[-1][-1]
            intact = [
                row[:4] for row in rows if type(row[3]) is int and decode_entry(row[0], row[1]) is not None
            ]
            added = self._insert(intact)
            num_added += added
            num_present += len(intact) - added
            num_corrupt += len(rows) - len(intact)

    def _insert(self, rows: list[tuple[bytes, bytes, int, int]]) -> int:
        """Keep rows of key, value, size and time of last use; returns how many were not there."""
        with self._database.session() as connection:
            before = connection.total_changes
            with transaction(connection):
                connection.executemany(
                    "INSERT OR IGNORE INTO entries (key, value, size, last_used) VALUES (?, ?, ?, ?)", rows
                )
            num_added = connection.total_changes - before
            if self.max_bytes is not None and _total_bytes(connection) > self.max_bytes:
                self._evict(connection, int(self.max_bytes * _PRUNE_FRACTION))
        return num_added

    def __len__(self) -> int:
        with self._database.session() as connection:
            return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])

    def __contains__(self, key: bytes) -> bool:
        with self._database.session() as connection:
            return connection.execute("SELECT 1 FROM entries WHERE key = ?", (key,)).fetchone() is not None

    # --- keeping it in order ------------------------------------------------------------------------------

    def info(self) -> StoreInfo:
        """What the store holds."""
        with self._database.session() as connection:
            count, total, oldest, newest = connection.execute(
                "SELECT count(*), coalesce(sum(length(value)), 0), min(last_used), max(last_used) "
                "FROM entries WHERE typeof(last_used) = 'integer'"
            ).fetchone()
        files = [file.stat().st_size for file in self.path.glob(f"{FILE_NAME}*")]
        used = None if oldest is None else (float(oldest), float(newest))
        return StoreInfo(str(self.path), count, total, sum(files), self.max_bytes, used)

    def verify(self, *, repair: bool = False) -> VerifyReport:
        """Check every entry.

        Args:
            repair: Remove damaged entries; they are read again when they are next needed.
        """
        checked, damaged, last = 0, [], 0
        with self._database.session() as connection:
            while True:
                rows = connection.execute(
                    "SELECT id, key, value, last_used, size FROM entries WHERE id > ? ORDER BY id LIMIT ?",
                    (last, _BATCH),
                ).fetchall()
                if not rows:
                    break
                last = rows[-1][0]
                checked += len(rows)
                damaged += [
                    number
                    for number, key, value, last_used, size in rows
                    if decode_entry(key, value) is None or type(last_used) is not int or size != len(value)
                ]
            if repair and damaged:
                _delete(connection, damaged)
        return VerifyReport(checked, len(damaged), len(damaged) if repair else 0)

    def prune(self, *, max_bytes: int | None = None, older_than_days: float | None = None) -> int:
        """Remove entries and give their room back to the disk.

        Args:
            max_bytes: Remove the least recently used until the rest has at most so many bytes.
            older_than_days: Remove what was not used for so long.

        Returns:
            The number of entries removed.

        Raises:
            E2LLMError: If neither is given, or one is below 0 or no number.
        """
        if max_bytes is None and older_than_days is None:
            raise E2LLMError("say what to remove: max_bytes or older_than_days")
        for name, value in (("max_bytes", max_bytes), ("older_than_days", older_than_days)):
            if value is not None and not value >= 0:  # no number is not either
                raise E2LLMError(f"{name} must be 0 or more, got {value!r}")
        with self._database.session() as connection:
            before = len(self)
            if older_than_days is not None:
                limit = time.time() - older_than_days * 86400
                with transaction(connection):
                    connection.execute("DELETE FROM entries WHERE last_used <= ?", (limit,))
            if max_bytes is not None:
                self._evict(connection, max_bytes)
            connection.executescript("PRAGMA incremental_vacuum")  # execute() would free a single page
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return before - len(self)

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        self._database.close()

    def __enter__(self) -> "ChunkStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _remove(self, connection: sqlite3.Connection, numbers: list[int]) -> None:
        """Remove damaged entries where that is possible: from a read-only store they are only not given."""
        with contextlib.suppress(sqlite3.OperationalError):
            _delete(connection, numbers)

    def _evict(self, connection: sqlite3.Connection, max_bytes: int) -> None:
        """Remove the least recently used entries until the rest has at most `max_bytes`."""
        with transaction(connection):
            excess = _total_bytes(connection) - max_bytes
            numbers = []
            for number, size in connection.execute(
                "SELECT id, length(value) FROM entries ORDER BY last_used, id"
            ):
                if excess <= 0:
                    break
                numbers.append((number,))
                excess -= size
            connection.executemany("DELETE FROM entries WHERE id = ?", numbers)


def _delete(connection: sqlite3.Connection, numbers: list[int]) -> None:
    with transaction(connection):
        connection.executemany("DELETE FROM entries WHERE id = ?", [(number,) for number in numbers])


def _total_bytes(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(sum(length(value)), 0) FROM entries").fetchone()[0])
