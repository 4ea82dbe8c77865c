"""Ray: started here for a run, or an existing cluster; quiet, and without reports to anyone."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from e2llm.errors import E2LLMError, MissingExtraError
from e2llm.messages import counted

_CORES_PER_WORKER = 4
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class WorkerPlan:
    """The workers of a run.

    Attributes:
        num_workers: Processes, each with an engine.
        num_cpus: Cores of each.
        num_gpus: GPUs of each, 0 or 1.
    """

    num_workers: int
    num_cpus: int
    num_gpus: int


def load_ray() -> Any:
    """Import Ray with its usage reports switched off; raises `MissingExtraError` if it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray[data]", "ray") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


@contextlib.contextmanager
def ray_session(address: str | None, num_workers: int | None) -> Iterator[Any]:
    """Connect to Ray while the block runs.

    Args:
        address: Of a cluster, `host:port` or `auto`; None starts Ray on this machine, reachable from nowhere
            else. An existing connection of the calling program is used and kept.
        num_workers: Workers that a Ray started here must have room for.

    Yields:
        The module `ray`.

    Raises:
        E2LLMError: If the address is one of Ray's client, which Ray Data does not support.
        ConnectionError: If there is no cluster at the address.
    """
    if address is None:  # keeps Ray on the loopback interface, as on Windows
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    else:
        _check_address(address)
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options |= {"num_cpus": max(num_workers or 1, num_cores), "include_dashboard": False}
    ray.init(address=address or "local", **options)
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Connect to a cluster's address once, since Ray itself tries for minutes."""
    if address.startswith("ray://"):
        raise E2LLMError(
            f"{address} is an address of Ray's client; run the command on a machine of the cluster and give "
            "host:port (6379 by default) or auto"
        )
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Ray cluster at {address}: {error}; give host:port as `ray start --head` prints it, or auto"
        ) from error


def plan_workers(nodes: list[dict[str, float]], num_workers: int | None, device: str) -> WorkerPlan:
    """Share the cores of some machines among workers.

    Args:
        nodes: Resources of each machine by name; `CPU` and `GPU` count.
        num_workers: By default one per GPU if the device is `cuda`, else one per 4 cores.
        device: `cpu` or `cuda`; with `cuda` each worker has a GPU to itself.

    Raises:
        E2LLMError: If the machines have no room for that many.
    """
    machines = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    num_cpus = sum(cores for cores, _ in machines)
    num_gpus = sum(gpus for _, gpus in machines)
    on_gpu = device == "cuda"
    if num_workers is None:
        num_workers = max(1, num_gpus if on_gpu else num_cpus // _CORES_PER_WORKER)
    for cores in range(num_cpus, 0, -1):  # the most cores for each worker
        rooms = [min(cpus // cores, gpus) if on_gpu else cpus // cores for cpus, gpus in machines]
        if sum(rooms) >= num_workers:
            return WorkerPlan(num_workers, cores, int(on_gpu))
    needed = counted(num_workers, "CPU core") + (f" and {counted(num_workers, 'GPU')}" if on_gpu else "")
    raise E2LLMError(
        f"no room for {counted(num_workers, 'worker')}, which would take {needed}; Ray has "
        f"{counted(num_cpus, 'core')} and {counted(num_gpus, 'GPU')} on "
        f"{counted(len(machines), 'machine')}: use fewer workers or another device"
    )
