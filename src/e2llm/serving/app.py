"""The application: routes, errors in one shape, and what every request passes."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from e2llm.errors import E2LLMError
from e2llm.inference.engine import Engine
from e2llm.serving import answer_routes, context_routes, info_routes
from e2llm.serving.api_errors import ApiError
from e2llm.serving.backends import Backend
from e2llm.serving.bodies import field_problem
from e2llm.serving.context_schemas import ChunkIn, ContextIn, DocumentsIn, RelevanceIn
from e2llm.serving.limits import Gate, error_response
from e2llm.serving.schemas import ChatIn, CompletionIn, ErrorOut
from e2llm.serving.server_state import ServerState
from e2llm.serving.settings import ServerSettings
from e2llm.version import __version__

logger = logging.getLogger("e2llm.serving")
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorOut}
    for status in (400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 500, 502, 503, 504, 507)
}


def create_app(
    engine: Engine, settings: ServerSettings | None = None, backend: Backend | None = None
) -> FastAPI:
    """Make the application; any ASGI server runs it, `e2llm serve` under uvicorn.

    Args:
        engine: Its model and processor are used, with a reader and a store of the server's own.
        settings: Limits and places.
        backend: Who decodes; by default this process.

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
        responses=_ERRORS,
    )
    app.state.e2llm = state
    for routes in (answer_routes, context_routes, info_routes):
        app.include_router(routes.router)
    _describe_bodies(app)
    for kind in (ApiError, E2LLMError, TimeoutError):
        app.add_exception_handler(kind, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_middleware(Observer, state=state)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(
        Gate,
        max_body_bytes=settings.max_body_bytes,
        body_seconds=settings.body_seconds,
        allowed_hosts=settings.allowed_hosts,
        cors_origins=settings.cors_origins,
    )
    return app


class Observer:
    """Counts requests and notes them in the log: route, status, bytes and seconds, never contents.

    Args:
        app: What comes after.
        state: The server's.
    """

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        sizes = [0, 0]
        status, has_started = 500, False

        async def receive_on() -> Message:
            message = await receive()
            sizes[0] += len(message.get("body", b""))
            return message

        async def send_on(message: Message) -> None:
            nonlocal status, has_started
            has_started = True
            status = message.get("status", status)
            sizes[1] += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive_on, send_on)
        except ClientDisconnect:  # in the middle of what it sent
            status = 499
        except Exception as error:  # a fault of ours: told as one, and the connection stays
            logger.error("a request failed: %s", type(error).__name__, exc_info=error)
            if has_started:
                raise
            await error_response(ApiError.of(error))(scope, receive, send_on)
        finally:
            seconds = time.monotonic() - started
            route = getattr(scope.get("route"), "path", "other")
            metrics = self._state.metrics
            metrics.requests.labels(route, str(status)).inc()
            metrics.seconds.labels(route).observe(seconds)
            if status == 499:
                metrics.disconnects.inc()
            logger.info(
                "%s %s %d, %d bytes in, %d out, %.3f s", scope["method"], route, status, *sizes, seconds
            )


def _describe_bodies(app: FastAPI) -> None:
    """Add the schemas of bodies, which the routes take apart themselves."""
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
    return error_response(ApiError.of(error))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return error_response(ApiError(error.status_code, str(error.detail), code="http_error"))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    """The first thing that is wrong with a path or query."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(item) for item in first["loc"][1:])
    message = f"{place}: {field_problem(first)}"
    return error_response(ApiError(400, message, code="invalid_value", param=place))
