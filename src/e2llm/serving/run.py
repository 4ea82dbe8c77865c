"""Running the application under uvicorn, on a socket of its own."""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from e2llm.errors import E2LLMError
from e2llm.inference.engine import Engine
from e2llm.serving.app import create_app
from e2llm.serving.backends import Backend
from e2llm.serving.settings import ServerSettings


def listen(host: str = "127.0.0.1", port: int = 8000) -> socket.socket:
    """Take an address.

    Args:
        host: Address to listen on.
        port: 0 for a free one.

    Raises:
        E2LLMError: If it cannot be had.
    """
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise E2LLMError(f"cannot listen on {host} port {port}: {error}; choose another --port") from error
    return listening


def run_server(
    engine: Engine,
    settings: ServerSettings,
    listening: socket.socket,
    backend: Backend | None = None,
    on_start: Callable[[str], Any] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; running requests then get `shutdown_seconds` to finish.

    Args:
        engine: The model.
        settings: Limits and places.
        listening: As `listen` gives it; the address is told on stderr. Closed at the end.
        backend: Who decodes; by default this process.
        on_start: Told the address before the first request, in the place of a line on stderr.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("e2llm.serving").setLevel(logging.INFO)
    with listening:
        app = create_app(engine, settings, backend)
        host, port = listening.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # the application notes sizes itself
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
            http=patient_protocol(settings.header_seconds),
            h11_max_incomplete_event_size=64 * 1024,
        )
        tell = on_start or (lambda url: _tell(settings.model_name, url))
        _Server(config, lambda: tell(url)).run(sockets=[listening])


def _tell(name: str, url: str) -> None:
    print(f"e2llm serves {name} at {url}", file=sys.stderr, flush=True)


class _Server(uvicorn.Server):
    """A server that says when it can be reached, and stopped: a signal sent before that could be lost."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], Any]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_start()


def patient_protocol(header_seconds: float) -> type[H11Protocol]:
    """Return a protocol that closes a connection whose next request does not arrive in time.

    uvicorn has no setting for this: it waits for headers without end.

    Args:
        header_seconds: From the connection's beginning, or a request's first byte, to the end of its headers.
    """

    class PatientProtocol(H11Protocol):
        """HTTP/1.1 with a limit on the time that headers take."""

        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._is_at_work():
                self._wait_no_more()
            elif self._waiting is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_more()
            super().connection_lost(exc)

        def _is_at_work(self) -> bool:
            """Whether a request's headers have come and its answer has not gone."""
            return self.cycle is not None and not self.cycle.response_complete

        def _wait(self) -> None:
            self._waiting = self.loop.call_later(header_seconds, self._give_up)

        def _wait_no_more(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _give_up(self) -> None:
            self._waiting = None
            if not self._is_at_work() and not self.transport.is_closing():
                self.transport.close()

    return PatientProtocol
