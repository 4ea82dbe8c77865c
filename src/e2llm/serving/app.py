"""The application: routes, errors in one shape, and the checks that every request passes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse

from e2llm.errors import E2LLMError
from e2llm.inference.engine import Engine
from e2llm.serving.decoding.backend import Backend
from e2llm.serving.http.bodies import field_problem
from e2llm.serving.http.errors import ApiError
from e2llm.serving.http.gate import Gate
from e2llm.serving.routes import answers, contexts, info
from e2llm.serving.schemas.answers import ChatIn, CompletionIn, ErrorOut
from e2llm.serving.schemas.contexts import ChunkIn, ContextIn, DocumentsIn, RelevanceIn
from e2llm.serving.settings import ServerSettings
from e2llm.serving.state import ServerState
from e2llm.version import __version__

_STATUSES = (400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 500, 502, 503, 504, 507)


def create_app(
    engine: Engine, settings: ServerSettings | None = None, backend: Backend | None = None
) -> FastAPI:
    """Make the application; any ASGI server runs it, `e2llm serve` under uvicorn.

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
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Gate, settings=settings, metrics=state.metrics)
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
