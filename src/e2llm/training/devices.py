"""GPUs to plan for: published peak and memory, and a price that is an assumption."""

from dataclasses import dataclass

from e2llm.errors import E2LLMError


@dataclass(frozen=True)
class Device:
    """One GPU.

    Attributes:
        title: Its name.
        peak_flops: Dense bfloat16 floating-point operations per second, as published.
        memory_gib: Memory that a process can get, in GiB, a little below what is sold.
        dollars_per_hour: Assumed rent; ask your provider.
    """

    title: str
    peak_flops: float
    memory_gib: float
    dollars_per_hour: float


DEVICES: dict[str, Device] = {
    "h200": Device("H200 SXM", 989e12, 139.0, 3.50),
    "h100": Device("H100 SXM", 989e12, 79.0, 2.50),
    "a100-80gb": Device("A100 SXM 80 GB", 312e12, 79.0, 1.60),
    "rtx-4090": Device("RTX 4090", 165e12, 23.5, 0.45),
}


def find_device(name: str) -> Device:
    """A device by its name; raises `E2LLMError` for an unknown one."""
    if name not in DEVICES:
        raise E2LLMError(f"unknown device {name!r}; choose one of: {', '.join(DEVICES)}")
    return DEVICES[name]
