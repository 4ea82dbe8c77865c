"""Workers: engines in their own processes that read chunk texts into shards, which are merged at the end.

`STORE/shards/RUN/WORKER/` is the store of one worker process of one run; the run that is filling the store
holds `STORE/shards/lock`. The next run merges the shards of a run that was killed.
"""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from e2llm.errors import E2LLMError
from e2llm.inference.content import look_up_or_read
from e2llm.inference.engine import Engine
from e2llm.inference.reader import ChunkReader
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
            f"{store.path}: another run is filling this store; wait until it ends, or name another folder"
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
            f"workers were started {num_shards} times and died each time; check the memory that a worker "
            "needs, or use fewer workers"
        )
    return ChunkStore(folder / uuid.uuid4().hex, is_required=True)


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


@dataclass(frozen=True)
class WorkerSettings:
    """Settings that all workers of a run share.

    Attributes:
        model: Folder (absolute), hub id, or name of an embedded model.
        device: `cpu` or `cuda`.
        dtype: Precision of the weights; None for that of the files.
        fingerprint: Of the model that made the keys of this run.
        shards: Folder of the run's shards.
        max_shards: Most processes, replacements of dead ones included.
    """

    model: str
    device: str
    dtype: torch.dtype | None
    fingerprint: str
    shards: Path
    max_shards: int = 1


def load_reader(model: str, device: str, dtype: torch.dtype | None) -> ChunkReader:
    """Return the reader of a model; keys depend on the precision, not on the device."""
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    return Engine.from_pretrained(model, device=device, **options).reader


class ChunkWorker:
    """The class that Ray runs in each worker process.

    It returns an error as text with the batch, so that the other batches are still read.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.error = ""
        try:
            self.shard = open_shard(settings.shards, settings.max_shards)
            self.reader = load_reader(settings.model, settings.device, settings.dtype)
            found, expected = self.reader.fingerprint, settings.fingerprint
            if found != expected:
                raise E2LLMError(
                    f"the model {settings.model!r} has the fingerprint {found[:12]} on a worker, but the "
                    f"one of the command has {expected[:12]}; put the same model on all machines"
                )
        except Exception as error:
            self.error = _text_of(error)

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        """Read a batch, a table with a column `text`.

        Returns:
            The number of its chunks, and the error or an empty text.
        """
        texts, error = batch["text"].to_pylist(), self.error
        if not error:
            try:
                self.read(texts)
            except Exception as reason:
                error = _text_of(reason)
        return {"num_chunks": [len(texts)], "error": [error]}

    def read(self, texts: list[str]) -> None:
        """Read different chunk texts into the shard, and close its file."""
        look_up_or_read(texts, self.reader, self.shard, progress=False)
        self.shard.close()


def _text_of(error: Exception) -> str:
    return str(error) if isinstance(error, E2LLMError) else f"{type(error).__name__}: {error}"
