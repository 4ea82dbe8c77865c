"""Create the application with its routes, errors and checks, and run it under uvicorn."""

import asyncio
import logging
import math
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from e2llm.errors import E2LLMError
from e2llm.inference.engine import Engine
from e2llm.messages import printable
from e2llm.serving.backend import Backend
from e2llm.serving.http.api_error import ApiError, ErrorOut
from e2llm.serving.http.bodies import field_problem
from e2llm.serving.http.gate import MAX_HEADER_BYTES, Gate
from e2llm.serving.requests import ChatIn, CompletionIn
from e2llm.serving.routes import answers, contexts, info
from e2llm.serving.schemas import ChunkIn, ContextIn, DocumentsIn, RelevanceIn
from e2llm.serving.settings import ServerSettings
from e2llm.serving.state import ServerState
from e2llm.version import __version__

_LAST_ANSWER_SECONDS = 5  # to send the error to requests that a stopping server breaks off
_STATUSES = (400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 431, 500, 502, 503, 504, 507)


def create_app(
    engine: Engine, settings: ServerSettings | None = None, backend: Backend | None = None
) -> FastAPI:
    """Return the ASGI application; `e2llm serve` runs it under uvicorn.

    Args:
        engine: The server uses its model and processor, with a separate reader and store.
        settings: Limits and places.
        backend: Decodes answers; by default this process.

    Returns:
        The application. Its state (`app.state.e2llm`) is closed when the server stops.
    """
    settings = settings or ServerSettings()
    state = ServerState(engine, settings, backend)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        state.close()

    app = FastAPI(
        title="e2llm",
        version=__version__,
        description="Long contexts for a decoder LLM, in the protocol of OpenAI's API.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={status: {"model": ErrorOut} for status in _STATUSES},
    )
    app.state.e2llm = state
    for routes in (answers, contexts, info):
        app.include_router(routes.router)
    _describe_bodies(app)
    for kind in (ApiError, E2LLMError, TimeoutError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _on_error)
    app.add_middleware(Gate, settings=settings, metrics=state.metrics)
    if settings.cors_origins:  # outermost, so that pages can read refusals too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
            allow_private_network=True,  # a page of the internet and a server on this machine
        )
    return app


def _describe_bodies(app: FastAPI) -> None:
    """Add the schemas of bodies to the description: FastAPI does not see them, since routes parse bodies."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (ChatIn, CompletionIn, ContextIn, DocumentsIn, ChunkIn, RelevanceIn):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        return document

    app.openapi = openapi  # type: ignore[method-assign]


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, str(error.detail), code="http_error").response()
    if isinstance(error, RequestValidationError):  # of a path or query; bodies are checked by the routes
        first = error.errors()[0]
        place = ".".join(str(item) for item in first["loc"][1:])
        return ApiError(400, f"{place}: {field_problem(first)}", param=place).response()
    return ApiError.of(error).response()


def listen(host: str = "127.0.0.1", port: int = 8000) -> socket.socket:
    """Open a listening socket; port 0 chooses a free port.

    Raises:
        E2LLMError: If the address is unavailable.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise E2LLMError(f"cannot listen on {host} port {port}: {error}; choose another --port") from error


class _LineFormatter(logging.Formatter):
    """Shows control characters of what a client sent, for example in the traceback of a fault."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines for a record."""
        return printable(super().format(record))


def run_server(
    engine: Engine,
    settings: ServerSettings,
    listening: socket.socket,
    backend: Backend | None = None,
    on_start: Callable[[str], Any] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; running requests then get `shutdown_seconds` to finish, or else a 503.

    Args:
        engine: The model.
        settings: Limits and places.
        listening: From `listen`; closed at the end.
        backend: Decodes answers; by default this process.
        on_start: Called with the address before the first request; by default the address goes to stderr.
    """
    handler = logging.StreamHandler()  # to stderr
    handler.setFormatter(_LineFormatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("e2llm.serving").setLevel(logging.INFO)
    with listening:
        host, port = listening.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

        def show_address() -> None:
            if on_start is not None:
                on_start(url)
            else:
                print(printable(f"e2llm serves {settings.model_name} at {url}"), file=sys.stderr, flush=True)

        app = create_app(engine, settings, backend)
        server = make_server(app, settings, show_address)

        def stop(number: int, frame: Any) -> None:
            server.should_exit = True

        # uvicorn repeats a signal once it has stopped; that must not end the process, which ends normally.
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run(sockets=[listening])
        finally:
            for number, earlier in before.items():
                signal.signal(number, earlier)


def make_server(app: FastAPI, settings: ServerSettings, on_start: Callable[[], Any]) -> uvicorn.Server:
    """Return a server of the application that calls `on_start` once it can be reached, and stopped."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # the application logs sizes and times
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds) + _LAST_ANSWER_SECONDS,
        http=_patient_protocol(settings.header_seconds),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,  # of headers that come in pieces
    )
    server = uvicorn.Server(config)
    startup, shutdown = server.startup, server.shutdown

    async def start(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets=sockets)
        if server.started:
            on_start()

    async def stop(sockets: list[socket.socket] | None = None) -> None:
        # Before uvicorn's own time is up, after which nobody could take an answer any more.
        asyncio.get_running_loop().call_later(settings.shutdown_seconds, cancel_requests)
        await shutdown(sockets=sockets)

    def cancel_requests() -> None:
        for task in server.server_state.tasks:
            task.cancel()  # the gate then answers

    server.startup = start  # type: ignore[method-assign]
    server.shutdown = stop  # type: ignore[method-assign]
    return server


def _patient_protocol(header_seconds: float) -> type[H11Protocol]:
    """Return a protocol that closes a connection whose next request does not arrive in time.

    uvicorn has no setting for this: it waits for headers without end.

    Args:
        header_seconds: From the connection's beginning, or a request's first byte, to the end of its headers.
    """

    class PatientProtocol(H11Protocol):
        _waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._has_request():
                self._wait_no_more()
            elif self._waiting is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_more()
            super().connection_lost(exc)

        def _has_request(self) -> bool:
            """Whether the headers of a request have arrived and its answer is not complete."""
            return self.cycle is not None and not self.cycle.response_complete

        def _wait(self) -> None:
            self._waiting = self.loop.call_later(header_seconds, self._give_up)

        def _wait_no_more(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _give_up(self) -> None:
            self._waiting = None
            if not self._has_request() and not self.transport.is_closing():
                self.transport.close()

    return PatientProtocol
