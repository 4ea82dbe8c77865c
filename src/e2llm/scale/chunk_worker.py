"""A worker: an engine in a process of its own that reads batches of chunk texts into its shard."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from e2llm.errors import E2LLMError
from e2llm.inference.content import look_up_or_read
from e2llm.inference.engine import Engine
from e2llm.inference.reader import ChunkReader
from e2llm.scale.shards import open_shard


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker of a run is told.

    Attributes:
        model: Folder (absolute), hub id, or name of an embedded model.
        device: `cpu` or `cuda`.
        dtype: Precision of the weights; None for that of the files.
        fingerprint: Of the model that the keys of this run were made with.
        shards: Folder of the run's shards.
        max_shards: Most processes that may be begun, those in the place of dead ones included.
    """

    model: str
    device: str
    dtype: torch.dtype | None
    fingerprint: str
    shards: Path
    max_shards: int = 1


def load_reader(model: str, device: str, dtype: torch.dtype | None) -> ChunkReader:
    """The reader of a model; keys are the same with any device, not with any precision."""
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    return Engine.from_pretrained(model, device=device, **options).reader


class ChunkWorker:
    """What Ray runs in each worker process.

    An error is given back as text with the batch, so that it is told as it was raised, and the other batches
    are read all the same.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.error: str | None = None
        try:
            self.open(settings)
        except Exception as error:
            self.error = _told(error)

    def open(self, settings: WorkerSettings) -> None:
        """Make the shard and load the model.

        Raises:
            E2LLMError: If the model here is another than the one that the keys were made with, or too many
                workers died.
        """
        self.shard = open_shard(settings.shards, settings.max_shards)
        self.reader = load_reader(settings.model, settings.device, settings.dtype)
        found, expected = self.reader.fingerprint, settings.fingerprint
        if found != expected:
            raise E2LLMError(
                f"the model {settings.model!r} of a worker has the fingerprint {found[:12]}, that of the "
                f"command {expected[:12]}; put the same model on all machines"
            )

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        """Read a batch, a table with a column `text`.

        Returns:
            The number of its chunks, and what went wrong, empty if nothing.
        """
        texts, error = batch["text"].to_pylist(), self.error
        if error is None:
            try:
                self.read(texts)
            except Exception as reason:
                error = _told(reason)
        return {"num_chunks": [len(texts)], "error": [error or ""]}

    def read(self, texts: list[str]) -> None:
        """Read different chunk texts into the shard, and leave it as one closed file."""
        look_up_or_read(texts, self.reader, self.shard, progress=False)
        self.shard.close()


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, E2LLMError) else f"{type(error).__name__}: {error}"
