"""Memory of this process: the peak within a block, and returning freed memory to the system."""

import subprocess
import sys

import pytest
import torch

from e2llm.measuring import PeakMemory

# Blocks below the C library's own threshold, with a small one that stays behind each: holes.
FRAGMENT = """
from e2llm.measuring import HeapTrimmer, resident_bytes
trim = HeapTrimmer()
assert not trim({slack})
start = resident_bytes()
kept = []
for _ in range(1200):
    block = bytearray(100_000)
    kept.append((block, bytes(600)))
grown = resident_bytes()
kept = [small for _, small in kept]
print(grown - start, trim({slack}), resident_bytes() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux gives holes back")
@pytest.mark.parametrize(("slack", "trims"), [(10_000_000, True), (10_000_000_000, False)])
def test_holes_go_back_to_the_system_once_the_process_has_grown_by_the_slack(slack, trims):
    code = FRAGMENT.format(slack=slack)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, trimmed, left = done.stdout.split()
    assert trimmed == str(trims)
    assert int(grown) > 100_000_000
    assert (int(left) < 30_000_000) is trims


def test_memory_that_is_freed_within_the_block_counts():
    with PeakMemory(torch.device("cpu")) as memory:
        block = torch.ones(16_000_000)  # 64 MB
        for _ in range(8):
            block.sum()
        del block
    with PeakMemory(torch.device("cpu")) as nothing:
        pass
    assert memory.extra_bytes > 50_000_000
    assert nothing.extra_bytes < 10_000_000
