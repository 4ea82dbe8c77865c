"""A server in a thread of this process, on a free port of this machine, with a tiny model."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import uvicorn

from e2llm import Engine
from e2llm.serving.app import create_app, listen, make_server
from e2llm.serving.settings import ServerSettings
from e2llm.serving.state import ServerState
from tiny_models import tiny_model, tiny_processor

MODEL = "tiny"


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    state: ServerState
    server: uvicorn.Server

    def openai(self, key: str = "unused", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, **options})

    def http(self, **options: Any) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=60, **options)


def tiny_engine(**options: Any) -> Engine:
    return Engine(tiny_model(**options), tiny_processor())


@contextmanager
def serving(engine: Engine | None = None, backend: Any = None, **settings: Any) -> Iterator[Served]:
    """Serve until the block ends; then every thread must be gone."""
    options = {"model_name": MODEL, "shutdown_seconds": 5, **settings}
    app = create_app(engine or tiny_engine(), ServerSettings(**options), backend)
    listening = listen(port=0)
    started = threading.Event()
    server = make_server(app, app.state.e2llm.settings, started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    assert started.wait(30)
    port = listening.getsockname()[1]
    try:
        yield Served(f"http://127.0.0.1:{port}", app.state.e2llm, server)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()
