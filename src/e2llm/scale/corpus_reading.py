"""Filling a store with a corpus: split here, read by many workers, merged and checked here.

One process splits the documents, one at a time, and hands the different chunk texts that the store lacks to
Ray in batches. Workers read them into shards. Ray replaces a worker that dies and gives the same batch to the
new one. In the end the shards are merged and every key is looked up.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from e2llm.documents import Document
from e2llm.errors import E2LLMError
from e2llm.inference.content import Splitting, chunk_key, chunk_texts
from e2llm.inference.loading import choose_device, choose_dtype
from e2llm.inference.reader import ChunkReader
from e2llm.scale.ray_session import WorkerPlan, plan_workers, ray_session
from e2llm.scale.workers import ChunkWorker, WorkerSettings, hold_shards, load_reader, merge_shards
from e2llm.store.chunk_store import ChunkStore

BATCH_CHUNKS = 128
_LOOK_UP_CHUNKS = 256
_MAX_STARTS_PER_WORKER = 20


@dataclass
class CorpusReport:
    """The result of filling a store.

    Attributes:
        documents: Documents of the corpus.
        chunks: Their chunks.
        distinct_chunks: Different texts among these.
        already_there: Different texts that were in the store, those of a killed run included.
        read: Chunks that workers read.
        workers: Workers at a time; 0 if there was nothing to read.
        split_seconds: For reading the documents, splitting them and looking the chunks up.
        seconds: For the whole.
    """

    documents: int = 0
    chunks: int = 0
    distinct_chunks: int = 0
    already_there: int = 0
    read: int = 0
    workers: int = 0
    split_seconds: float = 0.0
    seconds: float = 0.0


def read_corpus(
    documents: Iterable[Document],
    model: str,
    store: ChunkStore,
    *,
    num_workers: int | None = None,
    address: str | None = None,
    device: str | None = None,
    chunk_size_chars: int | None = None,
    batch_chunks: int = BATCH_CHUNKS,
    worker_class: type[ChunkWorker] = ChunkWorker,
    progress: bool | None = None,
) -> CorpusReport:
    """Read a corpus into a store with many workers; the store gets the entries that `Engine.read` would add.

    Args:
        documents: Taken one after the other.
        model: Folder, hub id, or `smol`; every machine must have it under that name.
        store: A folder that all machines see.
        num_workers: By default one per GPU, or one per 4 cores.
        address: Of a Ray cluster; by default Ray is started on this machine for the run.
        device: `cpu` or `cuda`; by default a GPU if this machine has one.
        chunk_size_chars: Longest chunk, in characters; by default the processor's.
        batch_chunks: Chunks that a worker gets at once; if it dies, they are read again.
        worker_class: Reads the batches.
        progress: Show a bar; by default on a terminal.

    Raises:
        E2LLMError: If there is no text, the store has a limit or is being filled by another run, or the
            workers cannot be started or keep dying. Chunks read until then are in the store.
    """
    started = time.perf_counter()
    if store.max_bytes is not None:
        raise E2LLMError(
            f"{store.path}: the store has a limit of {store.max_bytes} bytes; open it without max_bytes"
        )
    place, dtype = choose_place(device)
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    with hold_shards(store) as shards:
        merge_shards(store)
        reader = load_reader(name, "cpu", dtype)
        corpus = CorpusChunks(documents, Splitting.of(reader.processor, chunk_size_chars), reader, store)
        del reader  # the weights; the corpus keeps the processor
        texts = iter(corpus)
        first = next(texts, None)
        if first is not None:  # else there is nothing to read, and Ray need not start
            settings = WorkerSettings(name, place, dtype, corpus.fingerprint, shards)
            try:
                with ray_session(address, num_workers) as ray:
                    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
                    plan = plan_workers(nodes, num_workers, place)
                    corpus.report.workers = plan.num_workers
                    batches = put_batches(ray, chain([first], texts), batch_chunks)
                    run_workers(ray, batches, corpus.report.read, plan, settings, worker_class, progress)
            finally:
                merge_shards(store)
        corpus.check()
    corpus.report.seconds = time.perf_counter() - started
    return corpus.report


class CorpusChunks:
    """The different chunk texts of a corpus that a store lacks, made as they are taken.

    Memory has one document and a key (32 bytes) of every different chunk.

    Attributes:
        fingerprint: Of the model that reads them.
        report: Counts and time so far.
    """

    def __init__(
        self, documents: Iterable[Document], splitting: Splitting, reader: ChunkReader, store: ChunkStore
    ) -> None:
        self.fingerprint, self.report = reader.fingerprint, CorpusReport()
        self._documents, self._splitting, self._processor = documents, splitting, reader.processor
        self._store = store
        self._keys: set[bytes] = set()

    def __iter__(self) -> Iterator[str]:
        batches = self._batches()
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.report.split_seconds += time.perf_counter() - started
            if batch is None:
                break
            yield from batch

    def _batches(self) -> Iterator[list[str]]:
        waiting: dict[bytes, str] = {}
        for document in self._documents:
            self.report.documents += 1
            for text in chunk_texts(document, self._splitting, self._processor):
                self.report.chunks += 1
                key = chunk_key(self.fingerprint, text)
                if key in self._keys:
                    continue
                self._keys.add(key)
                waiting[key] = text
                if len(waiting) == _LOOK_UP_CHUNKS:
                    yield self._lacking(waiting)
                    waiting = {}
        yield self._lacking(waiting)
        if not self._keys:
            raise E2LLMError("the corpus is empty; give a text to read")

    def _lacking(self, texts: dict[bytes, str]) -> list[str]:
        found = self._store.get_many(list(texts))
        lacking = [text for key, text in texts.items() if key not in found]
        self.report.distinct_chunks += len(texts)
        self.report.already_there += len(texts) - len(lacking)
        self.report.read += len(lacking)
        return lacking

    def check(self) -> None:
        """Look every key up; raises `E2LLMError` if one is missing."""
        num_gone = sum(key not in self._store for key in self._keys)
        if num_gone:
            raise E2LLMError(
                f"{self._store.path}: {num_gone:,} of {len(self._keys):,} chunks are missing, because "
                "entries were removed or damaged meanwhile; run the command again to read them"
            )


def put_batches(ray: Any, texts: Iterable[str], size: int) -> list[Any]:
    """Hand texts to Ray, which keeps them in shared memory and, when that is full, on disk."""
    import pyarrow as pa

    texts, references = iter(texts), []
    while batch := list(islice(texts, size)):
        references.append(ray.put(pa.table({"text": batch})))
    return references


def run_workers(
    ray: Any,
    batches: Sequence[Any],
    num_chunks: int,
    plan: WorkerPlan,
    settings: WorkerSettings,
    worker_class: type[ChunkWorker],
    progress: bool | None,
) -> None:
    """Let workers read all batches into their shards.

    Raises:
        E2LLMError: If chunks could not be read, after all others were.
    """
    settings = replace(settings, max_shards=plan.num_workers * _MAX_STARTS_PER_WORKER)
    dataset = ray.data.from_arrow_refs(list(batches)).map_batches(
        worker_class,
        fn_constructor_args=(settings,),
        batch_size=None,  # each batch as it was put
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=plan.num_workers),
        num_cpus=plan.num_cpus,
        num_gpus=plan.num_gpus or None,
    )
    hide = None if progress is None else not progress
    num_failed, first_error = 0, ""
    try:
        with tqdm(total=num_chunks, unit="chunk", desc="reading", disable=hide, leave=False) as bar:
            for done in dataset.iter_batches(batch_size=None):
                for count, error in zip(done["num_chunks"], done["error"], strict=True):
                    bar.update(int(count))
                    if error:
                        num_failed += int(count)
                        first_error = first_error or str(error)
    except ray.exceptions.RayError as error:
        raise E2LLMError(f"Ray stopped: {error}; chunks read so far are in the store") from error
    if num_failed:
        raise E2LLMError(
            f"{num_failed:,} of {num_chunks:,} chunks were not read: {first_error}. The others are in the "
            "store; fix the error and run the command again"
        )


def choose_place(device: str | None) -> tuple[str, torch.dtype | None]:
    """Return the kind of device of the workers, and the precision of their weights.

    On a machine without a GPU, `cuda` means the GPUs of a cluster: bfloat16.

    Raises:
        E2LLMError: If the device is neither `cpu` nor `cuda`.
    """
    if device not in (None, "cpu", "cuda"):
        raise E2LLMError(f"workers run on cpu or cuda (a GPU each), got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        return device, torch.bfloat16
    place = choose_device(device)
    return place.type, choose_dtype(place)
