"""Shards: stores that workers write while a store is filled, each by one process, merged when all are done.

`STORE/shards/RUN/WORKER/` is the store of one worker process of one run; `STORE/shards/lock.sqlite` is held
by the run that is filling the store. What a run that was killed leaves there is merged when the next begins.
"""

import contextlib
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

from e2llm.errors import E2LLMError
from e2llm.store.chunk_store import ChunkStore
from e2llm.store.database import FILE_NAME

_FOLDER = "shards"
_LOCK = "lock.sqlite"


@contextlib.contextmanager
def hold_shards(store: ChunkStore) -> Iterator[Path]:
    """Hold the shards of a store while the block runs; a process that dies lets them go.

    Yields:
        A folder for the shards of this run, not made yet.

    Raises:
        E2LLMError: If another run is filling the store.
    """
    folder = store.path / _FOLDER
    folder.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder / _LOCK, timeout=0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise E2LLMError(
                f"{store.path}: another run is filling this store ({error}); wait for its end, or name "
                "another folder"
            ) from error
        yield folder.resolve() / uuid.uuid4().hex


def open_shard(folder: Path, max_shards: int) -> ChunkStore:
    """Make the shard of a worker process in the folder of its run.

    A process that takes the place of a dead one has a shard of its own, so that the number of shards is that
    of processes begun.

    Args:
        folder: What `hold_shards` gave.
        max_shards: Most shards of a run.

    Raises:
        E2LLMError: If workers died so often that there are as many already.
    """
    num_shards = len(list(folder.iterdir())) if folder.is_dir() else 0
    if num_shards >= max_shards:
        raise E2LLMError(
            f"workers were started {num_shards} times and kept dying; look at the memory that a worker "
            "needs, or take fewer workers"
        )
    return ChunkStore(folder / uuid.uuid4().hex)


def merge_shards(store: ChunkStore) -> int:
    """Merge all shards into their store and remove them.

    A shard whose file is damaged is removed all the same: its chunks are read again.

    Returns:
        The number of entries that were added.

    Raises:
        E2LLMError: If the store itself cannot be written to; the shards are kept then.
    """
    num_added = 0
    for file in sorted((store.path / _FOLDER).glob(f"*/*/{FILE_NAME}")):
        try:
            with ChunkStore(file.parent) as shard:
                num_added += store.merge(shard).num_added
        except E2LLMError:
            if _is_readable(file.parent):
                raise
        shutil.rmtree(file.parent)
    for run in (store.path / _FOLDER).iterdir():
        if run.is_dir():
            shutil.rmtree(run)
    return num_added


def _is_readable(folder: Path) -> bool:
    """Whether a store can be read from its first to its last entry."""
    try:
        with ChunkStore(folder) as shard:
            shard.verify()
    except E2LLMError:
        return False
    return True
