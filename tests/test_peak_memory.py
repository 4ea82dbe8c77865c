import torch

from e2llm.measuring import PeakMemory


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
