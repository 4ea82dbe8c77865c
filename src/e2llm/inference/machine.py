"""What a measurement ran on."""

import os
import platform
from pathlib import Path
from typing import Any

import torch
import transformers

from e2llm.version import __version__, git_commit


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, memory, versions and commit."""
    facts: dict[str, Any] = {
        "processor": _processor_name(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "memory_bytes": _memory_bytes(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "e2llm": __version__,
    }
    facts["commit"] = git_commit()
    return facts


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
