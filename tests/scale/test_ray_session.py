"""How cores are shared among workers, and how Ray is reached."""

import os
import sys

import pytest

from e2llm.errors import E2LLMError, MissingExtraError
from e2llm.scale.ray_session import WorkerPlan, load_ray, plan_workers, ray_session


@pytest.mark.parametrize(
    ("nodes", "num_workers", "device", "plan"),
    [
        ([(2, 0)], None, "cpu", (1, 2, 0)),
        ([(16, 0)], None, "cpu", (4, 4, 0)),
        ([(16, 0), (16, 0)], 3, "cpu", (3, 8, 0)),
        ([(2, 0), (16, 0)], 2, "cpu", (2, 8, 0)),
        ([(16, 4), (16, 4), (8, 0)], None, "cuda", (8, 4, 1)),
        ([(16, 4), (16, 4), (8, 0)], 2, "cuda", (2, 16, 1)),
    ],
)
def test_every_worker_finds_room_and_takes_as_many_cores_as_that_leaves(nodes, num_workers, device, plan):
    resources = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]
    assert plan_workers(resources, num_workers, device) == WorkerPlan(*plan)


@pytest.mark.parametrize(("num_workers", "device"), [(5, "cpu"), (1, "cuda")])
def test_too_many_workers_are_refused(num_workers, device):
    with pytest.raises(E2LLMError, match=f"no room for {num_workers} workers?, .*use fewer workers"):
        plan_workers([{"CPU": 4.0}], num_workers, device)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'e2llm\[ray\]'"):
        load_ray()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_the_address_of_a_client_is_refused():
    with (
        pytest.raises(E2LLMError, match="on a machine of the cluster"),
        ray_session("ray://host:10001", None),
    ):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port"])
def test_an_address_at_which_nobody_listens_is_told_at_once(address):
    with pytest.raises(ConnectionError, match=f"no Ray cluster at {address}"), ray_session(address, None):
        pass
