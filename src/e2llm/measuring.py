"""What a measurement ran on, and the memory that a process takes and gives back."""

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import platform
import sys
import threading
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch

from e2llm.version import __version__, git_commit

_SAMPLE_SECONDS = 0.002


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, memory, versions and commit."""
    return {
        "processor": _processor_name(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "e2llm": __version__,
        "commit": git_commit(),
    }


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def format_bytes(count: int | None) -> str:
    """Bytes in MB."""
    return "unknown" if count is None else f"{count / 1e6:,.1f} MB"


# --- memory of this process -------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """The most resident memory that this process has had; 0 where the system does not say."""
    with contextlib.suppress(OSError, KeyError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> None:
    """Begin a new peak, on systems that allow it, and on the GPU if there is one."""
    release_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class PeakMemory:
    """Measures the most memory within a `with` block above that at its start.

    Args:
        device: On a CPU a thread samples the resident memory of the process; on a GPU the allocator counts.

    Attributes:
        extra_bytes: The result, after the block.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.extra_bytes: int | None = None
        self._start = self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        release_memory()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.memory_allocated(self.device)
        else:
            self._start = self._peak = resident_bytes()
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self._peak = max(self._peak, resident_bytes())
            self._done.set()
            self._thread.join()
        self.extra_bytes = max(0, self._peak - self._start)

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self._peak = max(self._peak, resident_bytes())


# --- giving memory back -----------------------------------------------------------------------------------


@cache
def _malloc_trim() -> Any:
    """The C library's `malloc_trim`; None where it has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def trim_heap() -> None:
    """Give the holes of the C library's heap back to the system, where it does so on request."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def release_memory() -> None:
    """Give freed memory back to the system, as far as the C library does so on request."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim_heap()


class HeapTrimmer:
    """Trims the heap when this process has grown by a slack since the last time.

    Large tensors that come and go between small ones that stay leave holes that the next ones do not fit
    into: over many passes of an encoder the heap grows, though what is in use does not. Trimming costs page
    faults, so it is done as seldom as the slack allows.
    """

    def __init__(self) -> None:
        self._floor: int | None = None

    def __call__(self, slack_bytes: int) -> bool:
        """Trim if the process has grown by `slack_bytes` or more; returns whether it had."""
        resident = resident_bytes()
        if self._floor is None or resident < self._floor:
            self._floor = resident
        if resident - self._floor < slack_bytes or _malloc_trim() is None:
            return False
        trim_heap()
        self._floor = resident_bytes()
        return True
