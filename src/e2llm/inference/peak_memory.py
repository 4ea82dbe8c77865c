"""Peak memory of a piece of work, and giving memory back between pieces."""

import contextlib
import gc
import threading
from pathlib import Path
from types import TracebackType

import torch

from e2llm.process_memory import resident_bytes, trim_heap

_SAMPLE_SECONDS = 0.002


class PeakMemory:
    """Measures the most memory within a `with` block above that at its start.

    Args:
        device: On a CPU the resident memory of the process is sampled in a thread; on a GPU the allocator
            counts.

    Attributes:
        extra_bytes: The result, after the block; None where it cannot be known.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.extra_bytes: int | None = None
        self._start: int | None = None
        self._peak = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "PeakMemory":
        release_memory()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.memory_allocated(self.device)
            return self
        self._start = resident_bytes()
        if self._start is not None:
            self._peak = self._start
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._note()
            self._done.set()
            self._thread.join()
        if self.device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self.device)
        if self._start is not None:
            self.extra_bytes = max(0, self._peak - self._start)

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self._note()

    def _note(self) -> None:
        self._peak = max(self._peak, resident_bytes() or 0)


def release_memory() -> None:
    """Give freed memory back to the system, as far as the C library does so on request."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_heap()


def reset_peak() -> None:
    """Begin a new peak, on systems that allow it, and on the GPU if there is one."""
    release_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
