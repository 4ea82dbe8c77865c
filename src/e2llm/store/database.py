"""A store's database: opened when needed, shared by threads, reopened by forked processes.

It is an SQLite database in write-ahead mode: readers and a writer do not wait for each other, and a process
that is killed leaves its last write whole or not at all. A power cut may lose the last writes
(`synchronous=NORMAL`).
"""

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from e2llm.errors import StoreError

FORMAT = 1
FILE_NAME = "store.sqlite"
WAIT_SECONDS = 60.0

_COLUMNS = (
    "id INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, value BLOB NOT NULL, size INTEGER NOT NULL, "
    "last_used INTEGER NOT NULL"
)
_AS_MADE = f"create table entries ({_COLUMNS})".lower()
_MAX_ENTRY_BYTES = 2**26


class Database:
    """The table of a store's entries.

    Args:
        folder: The store's folder; made at the first use, with the database in it.

    Attributes:
        connection: The open connection of this process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        self._inherited: list[sqlite3.Connection] = []
        if hasattr(os, "register_at_fork"):
            database = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _after_fork(database()))

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        with self._lock:
            if self.connection is not None:
                self.connection.close()
            self.connection = None

    @contextlib.contextmanager
    def session(self) -> Iterator[sqlite3.Connection]:
        """Yield this process's connection to one thread at a time."""
        with self._lock:
            try:
                if self.connection is None:
                    self.connection = self._open()
                yield self.connection
            except sqlite3.Error as error:
                raise StoreError(self._explain(error)) from error
            except OSError as error:
                raise StoreError(f"{self.folder}: the store cannot be used: {error}") from error

    def _open(self) -> sqlite3.Connection:
        """Open the database; wait while another process creates it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                return self._open_once()
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)

    def _open_once(self) -> sqlite3.Connection:
        self.folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.folder / FILE_NAME, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_ENTRY_BYTES)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT:
                raise StoreError(
                    f"{self.folder}: store format {version} is newer than this e2llm can read ({FORMAT}); "
                    "upgrade e2llm or name another folder"
                )
            if version == 0:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                with transaction(connection):
                    connection.execute(f"CREATE TABLE IF NOT EXISTS entries ({_COLUMNS})")
                    connection.execute("CREATE INDEX IF NOT EXISTS by_use ON entries (last_used, size)")
                    connection.execute(f"PRAGMA user_version = {FORMAT}")
            self._check_schema(connection)
            connection.text_factory = bytes  # text instead of a value is damage, in UTF-8 or not
            connection.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        """Raise unless the database has the table of a store."""
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        row = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'entries'").fetchone()
        made = "" if row is None else " ".join(str(row[0]).split()).lower()
        if version != FORMAT or made != _AS_MADE:
            raise StoreError(
                f"{self.folder / FILE_NAME} is damaged, or not a store of e2llm; name another "
                "folder, or delete this one (chunks are then encoded again when needed)"
            )

    def _explain(self, error: sqlite3.Error) -> str:
        text = str(error)
        if isinstance(error, sqlite3.DatabaseError) and ("not a database" in text or "malformed" in text):
            return (
                f"{self.folder / FILE_NAME} is damaged ({text}); delete or move the folder: its chunks "
                "are read again when needed"
            )
        if "full" in text:
            return f"{self.folder}: the disk is full; free some room elsewhere, or delete the store's folder"
        return f"{self.folder}: the store cannot be used: {text}"


def _after_fork(database: Database | None) -> None:
    """Give a forked process its own lock and, when it needs one, its own connection.

    The parent's lock may be held by a thread that the child does not have. The parent's connection is kept
    unused: closing it in the child would release the parent's locks.
    """
    if database is not None:
        database._lock = threading.RLock()
        if database.connection is not None:
            database._inherited.append(database.connection)
            database.connection = None


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit the statements of a block, or none of them; wait for other writers at its start."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # sqlite may have rolled back by itself
            connection.execute("ROLLBACK")
        raise
