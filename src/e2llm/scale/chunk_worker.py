"""A worker: an engine in its own process that reads batches of chunk texts into its shard."""

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
                    f"the model {settings.model!r} of a worker has the fingerprint {found[:12]}, that of the "
                    f"command {expected[:12]}; put the same model on all machines"
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
