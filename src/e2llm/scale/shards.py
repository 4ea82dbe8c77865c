"""Shards: stores that workers write while a store is filled, one per process, merged at the end.

`STORE/shards/RUN/WORKER/` is the store of one worker process of one run; the run that is filling the store
holds `STORE/shards/lock`. The next run merges the shards of a run that was killed.
"""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from e2llm.errors import E2LLMError
from e2llm.store.chunk_store import ChunkStore
from e2llm.store.database import FILE_NAME

_FOLDER = "shards"


@contextlib.contextmanager
def hold_shards(store: ChunkStore) -> Iterator[Path]:
    """Hold the shards of a store while the block runs; a process that dies releases them.

    Yields:
        A folder for the shards of this run, which does not exist yet.

    Raises:
        E2LLMError: If another run is filling the store.
    """
    folder = store.path / _FOLDER
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield folder.resolve() / uuid.uuid4().hex
    except Timeout as error:
        raise E2LLMError(
            f"{store.path}: another run is filling this store; wait for its end, or name another folder"
        ) from error


def open_shard(folder: Path, max_shards: int) -> ChunkStore:
    """Make a shard for a worker process; a process that replaces a dead one gets another shard.

    Args:
        folder: Of the run, from `hold_shards`.
        max_shards: Most shards of a run, and so most processes.

    Raises:
        E2LLMError: If workers died so often that this number is reached.
    """
    num_shards = len(list(folder.iterdir())) if folder.is_dir() else 0
    if num_shards >= max_shards:
        raise E2LLMError(
            f"workers were started {num_shards} times and kept dying; check the memory that a worker needs, "
            "or take fewer workers"
        )
    return ChunkStore(folder / uuid.uuid4().hex)


def merge_shards(store: ChunkStore) -> int:
    """Merge all shards into their store and remove them.

    A damaged shard is removed too: its chunks are read again.

    Returns:
        The number of entries added.

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
    """Whether all entries of a store can be read."""
    try:
        with ChunkStore(folder) as shard:
            shard.verify()
    except E2LLMError:
        return False
    return True
