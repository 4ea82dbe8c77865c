"""Replicas by Ray Serve: what is refused, what each of them keeps to, and that they survive one another."""

import contextlib
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import psutil
import pytest
import yaml
from pydantic import ValidationError
from starlette.testclient import TestClient

from e2llm.errors import MissingExtraError
from e2llm.serving.http.keys import key_line
from e2llm.serving.ray_deployment import DeploymentArguments, ReplicaApp, build
from tiny_models import TEXT, tiny_model, tiny_processor

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own
KEY = "e2llm-a-key-of-some-length"
HEADERS = {"Authorization": f"Bearer {KEY}"}
EXAMPLE = Path(__file__).parents[2] / "examples/serve_ray.yaml"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture
def arguments(tiny_folder, tmp_path):
    """A deployment of the tiny model, with a key."""

    def make(**changes):
        keys = tmp_path / "keys"
        keys.write_text(key_line(KEY))
        values = {
            "model": str(tiny_folder),
            "folder": str(tmp_path / "kept"),
            "api_key_file": keys,
            **changes,
        }
        return DeploymentArguments.model_validate({"device": "cpu", **values})

    return make


# --- what is asked for ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folder": "kept"}, "must be an absolute path, got 'kept'"),
        ({"allowed_hosts": "example.org"}, "give api_key_file"),
        ({"allowed_hosts": ""}, "give api_key_file"),
        ({"backend_model": "m"}, "give url too"),
        ({"num_replica": 3}, "there is no num_replica; choose from: folder, "),
        ({"num_replicas": "none"}, "num_replicas"),
    ],
)
def test_what_a_deployment_cannot_be_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        DeploymentArguments.model_validate({"folder": "/shared", **changes})


def test_arguments_come_as_the_command_line_has_them(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(key_line(KEY))
    given = {"folder": "/shared", "num_replicas": "3", "allowed_hosts": "a.org, b.org", "max_queue": "2"}
    made = DeploymentArguments.model_validate({**given, "api_key_file": str(keys)})
    settings = made.settings()
    assert (made.num_replicas, settings.allowed_hosts) == (3, ("a.org", "b.org"))
    assert (settings.max_queue, settings.folder) == (2, Path("/shared"))
    assert (settings.model_name, len(settings.api_keys)) == ("smol", 1)


def test_the_folder_of_a_model_is_found_from_wherever_replicas_run(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    models = []

    def noted(arguments, settings):
        models.append(arguments.model)
        return ReplicaApp(arguments, settings)

    monkeypatch.setattr("e2llm.serving.ray_deployment.ReplicaApp", noted)
    for model in ("mine", "smol"):
        build(DeploymentArguments(model=model, folder=Path("/shared")))
    assert models == [str(tmp_path / "mine"), "smol"]


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'e2llm\[ray\]'"):
        build(DeploymentArguments(folder=Path("/shared")))


def test_the_example_file_is_read_and_built():
    from ray.serve.schema import ServeDeploySchema

    deploy = ServeDeploySchema.model_validate(yaml.safe_load(EXAMPLE.read_text()))
    (application,) = deploy.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    assert deploy.http_options.host == "127.0.0.1"
    deployment = build(DeploymentArguments.model_validate(application.args))._bound_deployment
    assert (deployment.name, deployment.num_replicas, deployment.max_ongoing_requests) == ("e2llm", 2, 128)


# --- one replica ------------------------------------------------------------------------------------------


def test_a_replica_loads_at_its_start_keeps_to_the_limits_and_closes_at_its_end(arguments, monkeypatch):
    app = ReplicaApp(made := arguments(allowed_hosts=["testserver"], max_body_bytes=2**20), made.settings())
    assert app._app is None
    with TestClient(app) as client:
        state, closed = app._app.state.e2llm, []
        close = state.close
        monkeypatch.setattr(state, "close", lambda: closed.append(close()))
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers=HEADERS).json()["data"][0]["id"] == "tiny"
        assert client.get("/v1/models", headers={**HEADERS, "Host": "evil.org"}).status_code == 403
        assert client.get("/v1/models", headers={**HEADERS, "Origin": "https://evil.org"}).status_code == 403
        assert client.post("/v1/contexts", headers=HEADERS, content=b" " * 2**21).status_code == 413
        assert closed == []
    assert closed == [None]


# --- two replicas -----------------------------------------------------------------------------------------


@pytest.fixture
def ray_serve(monkeypatch):
    """Ray Serve on a free port of this machine, and nothing of it left."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield serve, f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(Exception):
            serve.shutdown()
        ray.shutdown()


def replica_processes():
    """The replicas' processes; Ray's are descendants of this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any("ServeReplica" in part for part in process.cmdline()):
                found.append(process)
    return found


def count_created(client):
    """Contexts that one of the replicas has made."""
    line = 'e2llm_requests_total{route="/v1/contexts",status="201"} '
    found = [item for item in client.get("/metrics").text.splitlines() if item.startswith(line)]
    return int(float(found[0].removeprefix(line))) if found else 0


def make_contexts(client):
    """Make contexts until both replicas have made some; returns their ids."""
    ids = []
    while len(ids) < 100:
        response = client.post("/v1/contexts", json={"text": f"Number {len(ids)}. {TEXT}"})
        assert response.status_code == 201, response.text
        ids.append(response.json()["id"])
        if 0 < count_created(client) < len(ids):
            return ids
    raise AssertionError("one replica has made all contexts")


class Clients:
    """Several clients that ask without a pause.

    Args:
        url: Of the servers.
        ids: Contexts to ask about.
    """

    def __init__(self, url, ids):
        self._url, self._ids = url, ids
        self._changed = threading.Condition()
        self._stop = False
        self.done = []  # begin, end and what came of each request

    def ask(self, number):
        with httpx2.Client(base_url=self._url, headers=HEADERS, timeout=60, trust_env=False) as client:
            while not self._stop:
                begun = time.monotonic()
                try:
                    outcome = ask(client, self._ids[number % len(self._ids)]).status_code
                except httpx2.TransportError as error:
                    outcome = repr(error)
                number += 1
                with self._changed:
                    self.done.append((begun, time.monotonic(), outcome))
                    self._changed.notify_all()

    def wait(self, count, after=0.0):
        """Until some requests that began after a moment are done."""
        with self._changed:
            assert self._changed.wait_for(lambda: sum(item[0] > after for item in self.done) >= count, 120)

    @contextlib.contextmanager
    def asking(self, count):
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(self.ask, number) for number in range(count)]
            try:
                yield
            finally:
                self._stop = True
        for future in futures:
            future.result()


def ask(client, context_id, **more):
    body = {"model": "tiny", "max_tokens": 6, "context_ids": [context_id], **more}
    body["messages"] = [{"role": "user", "content": "Where is the key?"}]
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.slow
def test_a_killed_replica_takes_no_request_with_it_that_it_was_not_answering(ray_serve, arguments):
    serve, url = ray_serve
    made = arguments(num_cpus=0.5)
    serve.run(build(made), name="e2llm", route_prefix="/")
    with httpx2.Client(base_url=url, headers=HEADERS, timeout=60, trust_env=False) as client:
        assert client.get("/v1/models", headers={"Authorization": ""}).status_code == 401
        assert client.get("/v1/models", headers={"Host": "evil.org"}).status_code == 403
        assert client.get("/v1/models", headers={"Origin": "https://evil.org"}).status_code == 403
        ids = make_contexts(client)
        first, second = replica_processes()
        clients = Clients(url, ids)
        with clients.asking(6):
            clients.wait(30)
            os.kill(first.pid, signal.SIGKILL)
            first.wait(30)
            gone = time.monotonic()
            clients.wait(60, after=gone)
        assert second.is_running()
        failed = [item for item in clients.done if item[2] != 200]
        assert [item for item in failed if item[0] > gone] == []
        assert len(failed) <= 6
        for context_id in ids:  # whoever made them
            assert ask(client, context_id).status_code == 200
        assert ask(client, ids[0], stream=True).text.endswith("data: [DONE]\n\n")
        known = client.get("/v1/contexts").json()
        assert {item["id"] for item in known["data"]} >= set(ids)
    serve.delete("e2llm")
    assert list(made.folder.rglob("*-wal")) == []
    with contextlib.closing(sqlite3.connect(made.folder / "store/store.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
