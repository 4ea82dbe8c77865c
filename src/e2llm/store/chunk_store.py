"""Keep encoded chunks on disk, keyed by a hash of model and text, so that each is encoded once.

A store is a folder with a database (`e2llm.store.database`). It has only what can be read again: losing one
costs time.
"""

import contextlib
import hashlib
import json
import math
import sqlite3
import struct
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TypeVar

import torch

from e2llm.errors import E2LLMError, E2LLMWarning, StoreError
from e2llm.store.database import FILE_NAME, WAIT_SECONDS, Database, transaction

_BATCH = 500  # SQLite accepts at least 999 variables
_SCAN_BATCH = 100  # whole entries in memory at once
# The time of last use is kept to the hour, so that reading a book again writes next to nothing.
_USE_STEP_SECONDS = 3600
_REST_SECONDS = 300
_PRUNE_FRACTION = 0.9  # a full store is cut to this, so that not every write has to prune
_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
KEY_BYTES = 32
_CHECKSUM_BYTES = 16
_PREFIX = struct.Struct("<I")
_Row = tuple[int, bytes, bytes, int, int]  # id, key, value, last_used, size


_Result = TypeVar("_Result")


@dataclass(frozen=True)
class StoreInfo:
    """The content of a store.

    Attributes:
        path: Its folder.
        num_entries: Encoded chunks.
        num_bytes: Size of the entries.
        file_bytes: Size of its files on disk.
        max_bytes: Limit on the entries' size; None for no limit.
        last_used: Seconds since 1970 of the least and the most recent use of an entry, to the hour; None for
            an empty store.
    """

    path: str
    num_entries: int
    num_bytes: int
    file_bytes: int
    max_bytes: int | None
    last_used: tuple[float, float] | None


@dataclass(frozen=True)
class MergeReport:
    """Numbers of entries of another store: added, present already, and left out as damaged."""

    num_added: int
    num_present: int
    num_corrupt: int


@dataclass(frozen=True)
class VerifyReport:
    """Numbers of entries: checked, damaged, and removed to be read again."""

    num_checked: int
    num_corrupt: int
    num_removed: int


class ChunkStore:
    """A persistent store of encoded chunks, shared by contexts, threads and processes.

    Args:
        path: Its folder, made if it does not exist.
        max_bytes: Limit on the size of all entries; beyond it the least recently used ones are removed. None:
            no limit.
        is_required: Whether a store that is full, locked or damaged ends the reading of texts with an error.
            By default they are read without it, after a warning; with False, also if it cannot be opened.

    Attributes:
        num_corrupt: Damaged entries that this object found (and removed).

    Raises:
        E2LLMError: If the folder has other content, a damaged store, or one of a newer format.
    """

    def __init__(
        self, path: str | PathLike[str], *, max_bytes: int | None = None, is_required: bool | None = None
    ) -> None:
        if max_bytes is not None and (type(max_bytes) is not int or max_bytes < 0):
            raise E2LLMError(f"max_bytes must be a whole number, 0 or more, got {max_bytes!r}")
        if not fspath(path):
            raise E2LLMError("the path of the store is empty; name a folder")
        self.path = Path(fspath(path))
        self.max_bytes = max_bytes
        self.num_corrupt = 0
        self._is_required = is_required
        self._resting_until = 0.0  # by `time.monotonic`
        self._told = ""
        self._database = Database(self.path)
        if self.path.is_file():
            raise E2LLMError(f"{self.path} is a file; give a folder for the store")
        if is_required is not False:
            with self._database.session():
                pass

    # --- while texts are read -----------------------------------------------------------------------------

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, dict[str, torch.Tensor]]:
        """Return what `get_many` does; nothing, with a warning, if the store cannot be used."""
        return self._or_without(lambda: self.get_many(keys), {})

    def keep(self, entries: Mapping[bytes, Mapping[str, torch.Tensor]]) -> None:
        """Add entries as `put_many` does; keep none, with a warning, if the store cannot be used."""
        self._or_without(lambda: self.put_many(entries), None)

    def _or_without(self, work: Callable[[], _Result], otherwise: _Result) -> _Result:
        if self._is_required:
            return work()
        if time.monotonic() < self._resting_until:
            return otherwise
        try:
            return work()
        except StoreError as error:
            # The next use may take as long to fail, for example where another process has locked the store.
            self._resting_until = time.monotonic() + _REST_SECONDS
            if str(error) != self._told:
                self._told = str(error)
                warnings.warn(f"{error}. Texts are read without the store", E2LLMWarning, stacklevel=3)
            return otherwise

    # --- reading and writing ------------------------------------------------------------------------------

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, dict[str, torch.Tensor]]:
        """Return the intact entries by key; damaged ones are removed and counted."""
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
            self.num_corrupt += len(damaged)
            with contextlib.suppress(sqlite3.OperationalError):  # a read-only store keeps its damaged entries
                _delete(connection, damaged)
            if stale:
                self._note_use(connection, stale, now)
        return found

    def _note_use(self, connection: sqlite3.Connection, numbers: list[int], now: int) -> None:
        """Record when entries were used, unless the store is busy or read-only."""
        connection.execute("PRAGMA busy_timeout = 0").fetchall()
        try:
            with contextlib.suppress(sqlite3.OperationalError), transaction(connection):
                connection.executemany(
                    "UPDATE entries SET last_used = ? WHERE id = ?", [(now, number) for number in numbers]
                )
        finally:
            connection.execute(f"PRAGMA busy_timeout = {int(WAIT_SECONDS * 1000)}").fetchall()

    def put_many(self, entries: Mapping[bytes, Mapping[str, torch.Tensor]]) -> None:
        """Add entries atomically; entries that already exist stay unchanged.

        Args:
            entries: Named CPU tensors by 32-byte key.

        Raises:
            E2LLMError: If a key or tensor cannot be kept, the disk is full, or the store is read-only.
        """
        now = int(time.time())
        rows = []
        for key, tensors in entries.items():
            if len(key) != KEY_BYTES:
                raise E2LLMError(f"a key must have {KEY_BYTES} bytes, got {len(key)}")
            value = encode_entry(key, tensors)
            rows.append((key, value, now, len(value)))
        if rows:
            self._insert(rows)

    def merge(self, other: "ChunkStore") -> MergeReport:
        """Add the intact entries of another store, which does not change; entries that exist already stay.

        Raises:
            E2LLMError: If both are the same store, one of them cannot be used, or the disk is full.
        """
        if self.path.resolve() == other.path.resolve():
            raise E2LLMError(f"{self.path}: a store cannot be merged with itself; name another one")
        num_added = num_present = num_corrupt = 0
        for rows in other._scan():
            intact = [row[1:] for row in rows if _is_intact(row)]
            added = self._insert(intact)
            num_added += added
            num_present += len(intact) - added
            num_corrupt += len(rows) - len(intact)
        return MergeReport(num_added, num_present, num_corrupt)

    def _insert(self, rows: list[tuple[bytes, bytes, int, int]]) -> int:
        """Insert rows of key, value, time of last use and size; return the number of new ones."""
        with self._database.session() as connection:
            before = connection.total_changes
            with transaction(connection):
                connection.executemany(
                    "INSERT OR IGNORE INTO entries (key, value, last_used, size) VALUES (?, ?, ?, ?)", rows
                )
            num_added = connection.total_changes - before
            if self.max_bytes is not None and _total_bytes(connection) > self.max_bytes:
                _evict(connection, int(self.max_bytes * _PRUNE_FRACTION))
        return num_added

    def _scan(self) -> Iterator[list[_Row]]:
        """Yield all rows in batches, between which other users can access the store."""
        last = 0
        while True:
            with self._database.session() as connection:
                rows = connection.execute(
                    "SELECT id, key, value, last_used, size FROM entries WHERE id > ? ORDER BY id LIMIT ?",
                    (last, _SCAN_BATCH),
                ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield rows

    def __len__(self) -> int:
        with self._database.session() as connection:
            return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])

    def __contains__(self, key: bytes) -> bool:
        with self._database.session() as connection:
            return connection.execute("SELECT 1 FROM entries WHERE key = ?", (key,)).fetchone() is not None

    # --- keeping it in order ------------------------------------------------------------------------------

    def info(self) -> StoreInfo:
        """Return the content of the store in numbers."""
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
        num_checked, damaged = 0, []
        for rows in self._scan():
            num_checked += len(rows)
            damaged += [row[0] for row in rows if not _is_intact(row) or row[4] != len(row[2])]
        if repair:
            with self._database.session() as connection:
                _delete(connection, damaged)
        return VerifyReport(num_checked, len(damaged), len(damaged) if repair else 0)

    def prune(self, *, max_bytes: int | None = None, older_than_days: float | None = None) -> int:
        """Remove entries, free their room on disk, and return how many were removed.

        Args:
            max_bytes: Remove the least recently used entries until the rest has at most this size.
            older_than_days: Remove entries that were not used for this long.

        Raises:
            E2LLMError: If neither is given, or one is below 0 or NaN.
        """
        if max_bytes is None and older_than_days is None:
            raise E2LLMError("give max_bytes or older_than_days, to say what to remove")
        for name, value in (("max_bytes", max_bytes), ("older_than_days", older_than_days)):
            if value is not None and not value >= 0:  # catches NaN, too
                raise E2LLMError(f"{name} must be 0 or more, got {value!r}")
        with self._database.session() as connection:
            before = len(self)
            if older_than_days is not None:
                limit = time.time() - older_than_days * 86400
                with transaction(connection):
                    connection.execute("DELETE FROM entries WHERE last_used <= ?", (limit,))
            if max_bytes is not None:
                _evict(connection, max_bytes)
            connection.executescript("PRAGMA incremental_vacuum")  # execute() would free a single page
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return before - len(self)

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        self._database.close()

    def __enter__(self) -> "ChunkStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# An entry is: checksum of key and rest (16 bytes, BLAKE2b) | header length (4 bytes, little endian) | header
# (JSON: a list of [name, dtype, shape]) | the tensors' bytes, one after the other.


def encode_entry(key: bytes, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return named tensors as bytes whose checksum covers their 32-byte key, too.

    Raises:
        E2LLMError: If a dtype is not float32, float16, bfloat16 or int64.
    """
    header, parts = [], []
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise E2LLMError(f"a store keeps {', '.join(_DTYPES)} tensors, got {tensor.dtype} for {name!r}")
        header.append([name, _NAMES[tensor.dtype], list(tensor.shape)])
        parts.append(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    head = json.dumps(header).encode()
    body = b"".join([_PREFIX.pack(len(head)), head, *parts])
    return _checksum(key, body) + body


def decode_entry(key: object, data: object) -> dict[str, torch.Tensor] | None:
    """Return the tensors of an entry, or None if it is damaged or belongs to another key."""
    if not isinstance(key, bytes) or len(key) != KEY_BYTES or not isinstance(data, bytes):
        return None
    body = memoryview(data)[_CHECKSUM_BYTES:]
    if len(body) < _PREFIX.size or _checksum(key, body) != data[:_CHECKSUM_BYTES]:
        return None
    at = _PREFIX.size + _PREFIX.unpack_from(body)[0]
    tensors = {}
    for name, dtype_name, shape in json.loads(bytes(body[_PREFIX.size : at])):
        dtype = _DTYPES[dtype_name]
        size = math.prod(shape) * dtype.itemsize
        part = bytearray(body[at : at + size])
        flat = torch.frombuffer(part, dtype=dtype) if size else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(shape)
        at += size
    return tensors


def _checksum(key: bytes, body: bytes | memoryview) -> bytes:
    return hashlib.blake2b(body, digest_size=_CHECKSUM_BYTES, key=key).digest()


def _is_intact(row: _Row) -> bool:
    return decode_entry(row[1], row[2]) is not None and type(row[3]) is int


def _evict(connection: sqlite3.Connection, max_bytes: int) -> None:
    """Remove the least recently used entries until the rest has at most `max_bytes`."""
    with transaction(connection):
        excess = _total_bytes(connection) - max_bytes
        numbers = []
        query = "SELECT id, length(value) FROM entries ORDER BY last_used, id"
        for number, size in connection.execute(query):
            if excess <= 0:
                break
            numbers.append((number,))
            excess -= size
        connection.executemany("DELETE FROM entries WHERE id = ?", numbers)


def _delete(connection: sqlite3.Connection, numbers: list[int]) -> None:
    if numbers:
        with transaction(connection):
            connection.executemany("DELETE FROM entries WHERE id = ?", [(number,) for number in numbers])


def _total_bytes(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(sum(length(value)), 0) FROM entries").fetchone()[0])
