"""Threads that each run matrix kernels on one core, and the setting of torch that they need meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_num_users = 0


@contextmanager
def one_kernel_thread_each() -> Iterator[int]:
    """Let the matrix kernels of this process run on one core per thread while the block runs.

    torch keeps the number of kernel threads partly for the process and partly for each thread, so that worker
    threads alone cannot set it. Blocks may overlap in several threads: the last to end restores the setting.

    Yields:
        The number of threads that torch was set to, as many as there may be workers.
    """
    global _num_users
    count = torch.get_num_threads()
    with _lock:
        _num_users += 1
        _set_for_process(1)
    try:
        yield count
    finally:
        with _lock:
            _num_users -= 1
            if _num_users == 0:
                _set_for_process(count)


def _set_for_process(count: int) -> None:
    """Set torch's number of threads from a thread of its own, so that the calling one keeps what it has."""
    thread = threading.Thread(target=torch.set_num_threads, args=(count,))
    thread.start()
    thread.join()
