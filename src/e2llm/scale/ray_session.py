"""Ray: started here for a run, or a cluster that is there; quiet, and without a word to anybody outside."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from e2llm.errors import E2LLMError, MissingExtraError

_CORES_PER_WORKER = 4
_KNOCK_SECONDS = 10.0


@dataclass(frozen=True)
class WorkerPlan:
    """How many workers there are, and what each of them takes.

    Attributes:
        num_workers: Processes, each with an engine.
        num_cpus: Cores of each.
        num_gpus: GPUs of each, 0 or 1.
    """

    num_workers: int
    num_cpus: int
    num_gpus: int


def load_ray() -> Any:
    """Import Ray with its reports home switched off.

    Raises:
        MissingExtraError: If it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray[data]", "ray") from error
    return ray


@contextlib.contextmanager
def ray_session(address: str | None, num_workers: int | None) -> Iterator[Any]:
    """Connect to Ray while the block runs.

    Args:
        address: Of a cluster, `host:port` or `auto`; None starts Ray on this machine, reachable from nowhere
            else. A connection that the calling program has already is used and kept.
        num_workers: Workers that a Ray started here must have room for.

    Yields:
        The module `ray`.

    Raises:
        E2LLMError: If the address is one of Ray's client, which Ray Data is not made for.
        ConnectionError: If there is no cluster at the address.
    """
    if address is not None and address.startswith("ray://"):
        raise E2LLMError(
            f"{address} is an address of Ray's client; run the command on a machine of the cluster and give "
            "host:port (6379 by default) or auto"
        )
    if address is not None and ":" in address:
        check_reachable(address)
    if address is None:  # Ray's switch for systems on which it stays on the loopback interface
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        options |= {"num_cpus": max(num_workers or 1, _num_cores()), "include_dashboard": False}
    ray.init(address=address or "local", **options)
    try:
        yield ray
    finally:
        ray.shutdown()


def check_reachable(address: str) -> None:
    """Knock at a cluster's door, since Ray itself takes minutes to find nobody there.

    Raises:
        ConnectionError: If nobody listens at `host:port`.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Ray cluster at {address}: {error}; give the host:port that `ray start --head` tells, or auto"
        ) from error


def quiet_data(ray: Any) -> None:
    """Keep the bars and notes of Ray Data off the terminal."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def plan_workers(nodes: list[dict[str, float]], num_workers: int | None, device: str) -> WorkerPlan:
    """Share the cores of some machines among workers.

    Args:
        nodes: Resources of each machine by name, of which `CPU` and `GPU` are looked at.
        num_workers: By default one per GPU if the device is `cuda`, else one per 4 cores (chosen here).
        device: `cpu` or `cuda`; with `cuda` each worker has a GPU to itself.

    Raises:
        E2LLMError: If there is no room for so many.
    """
    machines = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    num_cpus = sum(cores for cores, _ in machines)
    num_gpus = sum(gpus for _, gpus in machines)
    on_gpu = device == "cuda"
    if num_workers is None:
        num_workers = max(1, num_gpus if on_gpu else num_cpus // _CORES_PER_WORKER)

    def has_room(cores: int) -> bool:
        rooms = (min(cpus // cores, gpus) if on_gpu else cpus // cores for cpus, gpus in machines)
        return sum(rooms) >= num_workers

    most = max((cores for cores in range(1, max(num_cpus, 1) + 1) if has_room(cores)), default=None)
    if most is None:
        needed = f"{num_workers} CPU core(s)" + (f" and {num_workers} GPU(s)" if on_gpu else "")
        raise E2LLMError(
            f"{num_workers} worker(s) need {needed}; Ray has {num_cpus} core(s) and {num_gpus} GPU(s) on "
            f"{len(machines)} machine(s): take fewer workers or another device"
        )
    return WorkerPlan(num_workers, most, int(on_gpu))


def alive_nodes(ray: Any) -> list[dict[str, float]]:
    """Resources of the machines that Ray has now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
