"""A corpus read by workers on a Ray of this machine, one of them killed half-way."""

import json
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from e2llm import ChunkStore
from e2llm.cli.main import entry_point
from e2llm.documents import Document, iter_documents
from e2llm.errors import E2LLMError
from e2llm.scale.corpus_reading import choose_place, put_batches, read_corpus, run_workers
from e2llm.scale.ray_session import WorkerPlan
from e2llm.scale.workers import ChunkWorker, WorkerSettings, load_reader
from e2llm.store.chunk_store import decode_entry

pa = pytest.importorskip("pyarrow", reason="needs the extra ray")


@pytest.fixture(scope="module")
def ray_here():
    """One Ray of two cores for the tests of this file; it takes seconds to start."""
    pytest.importorskip("ray", reason="needs the extra ray")
    from e2llm.scale.ray_session import ray_session

    with ray_session(None, 2) as ray:
        yield ray


def dies_once(flag):
    """A worker class whose first process to reach its second batch is killed in the midst of it."""

    class DyingWorker(ChunkWorker):
        num_batches = 0

        def read(self, texts):
            self.num_batches += 1
            if self.num_batches == 2 and not flag.exists():
                flag.touch()
                super().read(texts[: len(texts) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            super().read(texts)

    return DyingWorker


def assert_same_states(found, expected):
    """Workers read chunks in other passes than one process, so that states are equal up to rounding."""
    assert found.keys() == expected.keys()
    for key, value in found.items():
        torch.testing.assert_close(
            decode_entry(key, value), decode_entry(key, expected[key]), atol=1e-5, rtol=1e-5
        )


@pytest.mark.slow
def test_a_store_filled_by_workers_of_which_one_is_killed_equals_that_of_one_process(
    ray_here, model_folder, corpus, read_alone, entries, tmp_path
):
    alone, num_chunks = read_alone
    with ChunkStore(tmp_path / "store") as store:
        report = read_corpus(
            iter_documents([corpus]),
            model_folder,
            store,
            num_workers=2,
            device="cpu",
            batch_chunks=8,
            worker_class=dies_once(tmp_path / "killed"),
            progress=False,
        )
    assert (tmp_path / "killed").exists()
    assert_same_states(entries(tmp_path / "store"), entries(alone))
    assert (report.documents, report.chunks, report.workers) == (3, num_chunks, 2)
    assert report.distinct_chunks == report.read == len(entries(alone))
    assert [item.name for item in (tmp_path / "store" / "shards").iterdir()] == ["lock"]


@pytest.mark.slow
def test_the_command_goes_on_where_a_killed_run_ended_and_saves_the_context(
    ray_here, model_folder, corpus, read_alone, entries, tmp_path, capsys
):
    alone, num_chunks = read_alone
    with ChunkStore(alone) as full, ChunkStore(tmp_path / "shards" / "run" / "worker") as left:
        keys = list(entries(alone))[:20]
        left.put_many(full.get_many(keys))
    options = ["--store", tmp_path, "--model", model_folder, "--workers", 1, "--json"]
    arguments = ["read", corpus, "-o", tmp_path / "books.e2llm", *options]
    assert entry_point([str(item) for item in arguments]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["already_there"], facts["read"]) == (20, len(entries(alone)) - 20)
    assert (facts["chunks"], facts["workers"]) == (num_chunks, 1)
    assert facts["bytes"] == (tmp_path / "books.e2llm").stat().st_size
    assert_same_states(entries(tmp_path), entries(alone))


def test_an_error_of_a_worker_is_told_and_the_other_batches_are_read(ray_here, tmp_path):
    @dataclass(frozen=True)
    class Settings:  # the real ones would bring torch into the worker, which takes seconds
        shards: Path
        max_shards: int = 1

    class FailingWorker:
        def __init__(self, settings):
            self.folder = settings.shards

        def __call__(self, batch):
            texts = batch["text"].to_pylist()
            self.folder.joinpath(texts[0]).touch()
            return {"num_chunks": [len(texts)], "error": ["no room" if texts[0] == "b" else ""]}

    settings = Settings(tmp_path)
    plan = WorkerPlan(1, 1, 0)
    batches = put_batches(ray_here, ["a", "b", "c"], 1)
    with pytest.raises(
        E2LLMError, match=r"1 of 3 chunks were not read: no room. The others are in the store"
    ):
        run_workers(ray_here, batches, 3, plan, settings, FailingWorker, False)
    assert {file.name for file in tmp_path.iterdir()} == {"a", "b", "c"}


def test_a_worker_gives_its_errors_back_as_text(model_folder, tmp_path):
    batch = {"text": pa.array(["one", "two"])}
    settings = WorkerSettings(model_folder, "cpu", None, "another", tmp_path, 9)
    assert "put the same model on all machines" in ChunkWorker(settings)(batch)["error"][0]
    settings = replace(settings, fingerprint=load_reader(model_folder, "cpu", None).fingerprint)
    worker = ChunkWorker(settings)
    assert worker(batch) == {"num_chunks": [2], "error": [""]}
    worker.shard.put_many = None
    assert worker({"text": pa.array(["three"])})["error"][0].startswith("TypeError: ")


def test_what_is_there_needs_no_workers(model_folder, corpus, read_alone, entries):
    alone, num_chunks = read_alone
    with ChunkStore(alone) as store:
        report = read_corpus(iter_documents([corpus]), model_folder, store)
    assert (report.chunks, report.read, report.workers) == (num_chunks, 0, 0)
    assert report.already_there == report.distinct_chunks == len(entries(alone))


def test_a_corpus_without_text_and_a_store_with_a_limit_are_refused(model_folder, tmp_path):
    with pytest.raises(E2LLMError, match="the corpus is empty"):
        read_corpus([Document("nothing", "")], model_folder, ChunkStore(tmp_path))
    with pytest.raises(E2LLMError, match="has a limit of 100 bytes"):
        read_corpus([], model_folder, ChunkStore(tmp_path, max_bytes=100))


def test_workers_run_on_cpus_or_on_the_gpus_of_a_cluster():
    assert choose_place("cpu") == ("cpu", None)
    assert choose_place("cuda")[0] == "cuda"
    assert choose_place("cuda")[1] is not None
    with pytest.raises(E2LLMError, match="cpu or cuda"):
        choose_place("cuda:1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "1"], "or both"),
        (["--workers", "1", "-o", "x.e2llm"], "--store DIR"),
        (["--workers", "1", "--store", "s", "--device", "cuda:1"], "use cpu, or cuda"),
        (["--store", "s", "--ray-address", "auto"], "add --workers"),
        (["--store", "s", "--workers", "-1"], "--workers"),
    ],
)
def test_wrong_usage_is_told(arguments, message, capsys, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("Some text.")
    assert entry_point(["read", str(file), *arguments]) == 2
    assert message in capsys.readouterr().err
