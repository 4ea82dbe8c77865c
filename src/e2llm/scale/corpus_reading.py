"""Filling a store with a corpus: split here, read by many workers, merged and checked here.

One process splits the documents, one at a time, and hands the different chunk texts that the store lacks to
Ray in batches. Workers read them into shards; Ray starts a worker that dies anew and gives it the same batch
again. At last the shards are merged and every key is looked up.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from e2llm.errors import E2LLMError
from e2llm.inference.content import Splitting
from e2llm.inference.documents import Document
from e2llm.inference.loading import choose_device, choose_dtype
from e2llm.scale.chunk_worker import ChunkWorker, WorkerSettings, load_reader
from e2llm.scale.corpus_chunks import CorpusChunks
from e2llm.scale.ray_session import WorkerPlan, alive_nodes, plan_workers, quiet_data, ray_session
from e2llm.scale.shards import hold_shards, merge_shards
from e2llm.store.chunk_store import ChunkStore

MAX_BATCH_CHUNKS = 256
_BATCHES_PER_WORKER = 4  # of a small corpus, so that no worker is idle while another has much to do
_MIN_BATCH_CHUNKS = 16
_MAX_STARTS_PER_WORKER = 20


@dataclass(frozen=True)
class CorpusReport:
    """What filling a store took.

    Attributes:
        documents: Documents of the corpus.
        chunks: Their chunks.
        distinct_chunks: Different texts among these.
        already_there: Of these, chunks that the store held (what a killed run left included).
        read: Chunks that workers read.
        workers: Workers at a time; 0 if there was nothing to read.
        split_seconds: Of reading the documents, splitting them and looking the chunks up.
        seconds: Of the whole.
    """

    documents: int
    chunks: int
    distinct_chunks: int
    already_there: int
    read: int
    workers: int
    split_seconds: float
    seconds: float


def read_corpus(
    documents: Iterable[Document],
    model: str,
    store: ChunkStore,
    *,
    num_workers: int | None = None,
    address: str | None = None,
    device: str | None = None,
    chunk_size_chars: int | None = None,
    max_batch_chunks: int = MAX_BATCH_CHUNKS,
    worker_class: type[ChunkWorker] = ChunkWorker,
    progress: bool | None = None,
) -> CorpusReport:
    """Read a corpus into a store with many workers; the store then holds what `Engine.read` would keep in it.

    Args:
        documents: Taken one after the other.
        model: Folder, hub id, or `smol`; every machine must have it under that name.
        store: A folder that all machines see.
        num_workers: By default one per GPU, or one per 4 cores.
        address: Of a Ray cluster; by default Ray is started on this machine for the run.
        device: `cpu` or `cuda`; by default a GPU if this machine has one.
        chunk_size_chars: Longest chunk, in characters; by default the processor's.
        max_batch_chunks: Most chunks that a worker is given at once, and those that are read again at most if
            it dies.
        worker_class: What reads the batches.
        progress: Show a bar; by default on a terminal.

    Raises:
        E2LLMError: If there is no text, the store has a limit or is being filled by another run, or the
            workers cannot be started or keep dying. What was read until then is in the store.
    """
    started = time.perf_counter()
    if store.max_bytes is not None:
        raise E2LLMError(f"{store.path}: the store has a limit of {store.max_bytes} bytes; open it without")
    place, dtype = choose_place(device)
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    with hold_shards(store) as shards:
        merge_shards(store)
        reader = load_reader(name, "cpu", dtype)
        splitting = Splitting.of(reader.processor, chunk_size_chars)
        corpus = CorpusChunks(documents, splitting, reader.processor, reader.fingerprint, store)
        del reader  # the weights; the processor is still needed
        texts, found_workers = iter(corpus), 0
        first = next(texts, None)
        if first is not None:  # else Ray need not be started
            settings = WorkerSettings(name, place, dtype, corpus.fingerprint, shards)
            try:
                with ray_session(address, num_workers) as ray:
                    plan = plan_workers(alive_nodes(ray), num_workers, place)
                    found_workers = plan.num_workers
                    blocks = put_blocks(ray, chain([first], texts), plan, max_batch_chunks)
                    run_workers(ray, blocks, plan, settings, worker_class, progress)
            finally:
                merge_shards(store)
        corpus.check()
    return CorpusReport(
        corpus.num_documents,
        corpus.num_chunks,
        len(corpus.keys),
        len(corpus.keys) - corpus.num_lacking,
        corpus.num_lacking,
        found_workers,
        corpus.seconds,
        time.perf_counter() - started,
    )


def put_blocks(ray: Any, texts: Iterable[str], plan: WorkerPlan, max_batch_chunks: int) -> "Blocks":
    """Hand texts to Ray, which keeps them in shared memory and, when that is full, on disk."""
    import pyarrow as pa

    texts = iter(texts)
    num_batches = plan.num_workers * _BATCHES_PER_WORKER
    head = list(islice(texts, num_batches * max_batch_chunks))
    size = min(max(-(-len(head) // num_batches), _MIN_BATCH_CHUNKS), max_batch_chunks)
    rest = chain(head, texts)
    references, num_chunks = [], 0
    while batch := list(islice(rest, size)):
        references.append(ray.put(pa.table({"text": batch})))
        num_chunks += len(batch)
    return Blocks(references, size, num_chunks)


@dataclass(frozen=True)
class Blocks:
    """Batches of texts that Ray holds.

    Attributes:
        references: One for each batch.
        batch_chunks: Texts of each batch but the last.
        num_chunks: Texts of all.
    """

    references: Sequence[Any]
    batch_chunks: int
    num_chunks: int


def run_workers(
    ray: Any,
    blocks: Blocks,
    plan: WorkerPlan,
    settings: WorkerSettings,
    worker_class: type[ChunkWorker],
    progress: bool | None,
) -> None:
    """Let workers read all blocks into their shards.

    Raises:
        E2LLMError: If chunks could not be read, after all others were.
    """
    quiet_data(ray)
    settings = replace(settings, max_shards=plan.num_workers * _MAX_STARTS_PER_WORKER)
    dataset = ray.data.from_arrow_refs(list(blocks.references)).map_batches(
        worker_class,
        fn_constructor_args=(settings,),
        batch_size=blocks.batch_chunks,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=plan.num_workers),
        num_cpus=plan.num_cpus,
        num_gpus=plan.num_gpus or None,
    )
    hide = None if progress is None else not progress
    num_failed, first_error = 0, ""
    try:
        with tqdm(total=blocks.num_chunks, unit="chunk", desc="reading", disable=hide, leave=False) as bar:
            for done in dataset.iter_batches(batch_size=None):
                for num_chunks, error in zip(done["num_chunks"], done["error"], strict=True):
                    bar.update(int(num_chunks))
                    if error:
                        num_failed += int(num_chunks)
                        first_error = first_error or str(error)
    except ray.exceptions.RayError as error:
        raise E2LLMError(f"Ray stopped: {error}; what was read is in the store") from error
    if num_failed:
        raise E2LLMError(
            f"{num_failed:,} of {blocks.num_chunks:,} chunks were not read: {first_error}; the others are in "
            "the store: run the command again when this is mended"
        )


def choose_place(device: str | None) -> tuple[str, torch.dtype | None]:
    """The kind of device of the workers, and the precision of their weights.

    On a machine without a GPU, `cuda` means the GPUs of a cluster: bfloat16.

    Raises:
        E2LLMError: If the device is neither `cpu` nor `cuda`.
    """
    if device not in (None, "cpu", "cuda"):
        raise E2LLMError(f"workers run on cpu or cuda (each on a GPU of its own), got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        return device, torch.bfloat16
    place = choose_device(device)
    return place.type, choose_dtype(place)
