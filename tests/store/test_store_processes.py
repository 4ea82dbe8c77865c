"""Real processes on one store: killed while writing, and at work at the same time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from e2llm import ChunkStore

WRITER = """
import sys
import torch
from e2llm import ChunkStore

def entry(number):
    return {"soft_tokens": torch.full((4, 64), float(number)), "vector": torch.arange(8.0) + number}

store = ChunkStore(sys.argv[1])
first, last, step = (int(item) for item in sys.argv[2:5])
for start in range(first, last, step):
    store.put_many({i.to_bytes(32, "little"): entry(i) for i in range(start, start + step)})
    found = store.get_many([i.to_bytes(32, "little") for i in range(start, start + step)])
    assert len(found) == step
    print(start + step, flush=True)
"""


def start_writer(folder, first, last, step):
    arguments = [sys.executable, "-c", WRITER, str(folder), str(first), str(last), str(step)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_intact(store, numbers):
    found = store.get_many([number.to_bytes(32, "little") for number in numbers])
    assert len(found) == len(numbers)
    for number in numbers:
        tensors = found[number.to_bytes(32, "little")]
        assert torch.equal(tensors["soft_tokens"], torch.full((4, 64), float(number)))
        assert torch.equal(tensors["vector"], torch.arange(8.0) + number)


def test_a_writer_killed_at_any_moment_leaves_no_bad_entry(tmp_path):
    done = 0
    for lines in (1, 3, 8):  # killed after so many of its batches, in the midst of the next
        writer = start_writer(tmp_path, done, 10**6, 50)
        for _ in range(lines):
            done = int(writer.stdout.readline())
        writer.kill()
        done = max([done, *(int(line) for line in writer.stdout.read().split())])
        writer.wait()
        writer.stderr.close()
        writer.stdout.close()
        with ChunkStore(tmp_path) as store:
            assert store.verify().num_corrupt == 0
            assert_intact(store, range(done))
            assert len(store) % 50 == 0  # a batch is there as a whole or not at all


def test_two_processes_at_the_same_chunks_do_not_disturb_each_other(tmp_path):
    writers = [start_writer(tmp_path, 0, 600, 20) for _ in range(2)]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    with ChunkStore(tmp_path) as store:
        assert len(store) == 600
        assert_intact(store, range(600))


READER = """
import sys
import torch
from e2llm import ChunkStore, Engine
from tiny_models import TEXT, tiny_model, tiny_processor
engine = Engine(tiny_model(), tiny_processor(), store=ChunkStore(sys.argv[1]))
book = "".join(f"Page {i}. {TEXT}" for i in range(40))
context = engine.read(book, progress=False)
print(len(context), float(context.kept.double().sum()))
"""


@pytest.mark.slow
def test_two_processes_read_the_same_book_at_once(tmp_path):
    command = [sys.executable, "-c", READER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    readers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)
    ]
    outputs = {reader.communicate(timeout=240)[0] for reader in readers}
    assert [reader.returncode for reader in readers] == [0, 0]
    assert len(outputs) == 1
    with ChunkStore(tmp_path) as store:
        assert store.verify().num_corrupt == 0
        assert len(store) <= int(outputs.pop().split()[0])
