"""Memory of this process, as the system counts it, and returning freed memory to the system."""

import ctypes
import os
import sys
from functools import cache
from typing import Any


def resident_bytes() -> int | None:
    """Return the resident memory of this process, or None without /proc and psutil."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes() -> int:
    """Return the peak resident memory of this process; 0 where the system does not report it."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@cache
def _malloc_trim() -> Any:
    """Return the C library's `malloc_trim`, if it has one."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def trim_heap() -> None:
    """Return the holes of the C library's heap to the system, where it can."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


class HeapTrimmer:
    """Trims the heap when this process has grown since the last time.

    Large tensors between small ones that stay leave holes that the next ones do not fit into: over many
    passes of an encoder the heap grows although its content does not. Trimming costs page faults, so that it
    happens as seldom as the slack allows.
    """

    def __init__(self) -> None:
        self._floor: int | None = None

    def __call__(self, slack_bytes: int) -> bool:
        """Trim if the process has grown by `slack_bytes` or more; return whether it had."""
        resident = resident_bytes()
        if resident is None or _malloc_trim() is None:
            return False
        if self._floor is None or resident < self._floor:
            self._floor = resident
        if resident - self._floor < slack_bytes:
            return False
        trim_heap()
        self._floor = resident_bytes()
        return True
