"""`/v1/models`, `/health`, `/metrics` and the pages for people."""

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.responses import Response

from e2llm.inference.decoding.evidence import can_hide_chunks
from e2llm.inference.dial import UNTRAINED
from e2llm.serving.http.bodies import check_query
from e2llm.serving.preparing import check_model
from e2llm.serving.state import ServerState, owner_of, state_of

router = APIRouter()
Owner = Annotated[str, Depends(owner_of)]
State = Annotated[ServerState, Depends(state_of)]
_CHECKED = [Depends(check_query)]  # for programs; a page or a probe may add anything
_STATIC = Path(__file__).parents[1] / "static"
_KINDS = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
PAGES = {
    str(file.relative_to(_STATIC)): file.read_bytes()
    for file in sorted(_STATIC.rglob("*"))
    if file.suffix.removeprefix(".") in _KINDS
}


class ModelDetails(BaseModel):
    """Facts about the model."""

    dial: Literal["soft_tokens", "rate"] = Field(description="The field that sets the compression.")
    max_soft_tokens: int = Field(description="Largest `soft_tokens`, where that is the dial.")
    rates: list[int | str] = Field(description="Values of `rate`, finest first, where that is the dial.")
    note: str | None = Field(None, description="A warning about the model.")
    measures_sources: bool = Field(description="Whether requests may have `sources: measured`.")
    window: int | None
    chunk_size_chars: int
    kv_cache_bytes_per_token: int


class ModelOut(BaseModel):
    """The model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "e2llm"
    e2llm: ModelDetails


class ModelList(BaseModel):
    """The list of models, which has one."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


class Health(BaseModel):
    """Whether the server works."""

    status: Literal["ok"]
    model: str
    requests: int = Field(description="Running or waiting.")
    max_requests: int
    answers_decoding: int
    texts_reading: int


def _model(state: ServerState) -> ModelOut:
    config, dial = state.engine.model.config, state.engine.dial
    return ModelOut(
        id=state.settings.model_name,
        created=state.started_at,
        e2llm=ModelDetails(
            dial="rate" if dial.has_rate else "soft_tokens",
            max_soft_tokens=config.max_soft_tokens,
            rates=[*dial.rates] if dial.has_rate else [],
            note=None if state.engine.model.is_trained else UNTRAINED,
            measures_sources=can_hide_chunks(state.engine.model),
            window=state.engine.window,
            chunk_size_chars=state.engine.processor.chunk_size_chars,
            kv_cache_bytes_per_token=state.engine.model.cache_bytes_per_token,
        ),
    )


@router.get("/v1/models", response_model=ModelList, tags=["models"], dependencies=_CHECKED)
async def list_models(owner: Owner, state: State) -> ModelList:
    """List the model that is served."""
    return ModelList(data=[_model(state)])


@router.get("/v1/models/{name:path}", response_model=ModelOut, tags=["models"], dependencies=_CHECKED)
async def get_model(name: str, owner: Owner, state: State) -> ModelOut:
    """Return the model, by its name."""
    check_model(name, state.settings.model_name)
    return _model(state)


@router.get("/health", response_model=Health, tags=["server"])
async def health(state: State) -> Health:
    """Report whether the server works; needs no key."""
    return Health(
        status="ok",
        model=state.settings.model_name,
        requests=state.admission.num_requests,
        max_requests=state.admission.max_requests,
        answers_decoding=state.backend.num_decoding,
        texts_reading=state.reader.num_waiting,
    )


@router.get("/metrics", tags=["server"], responses={200: {"content": {"text/plain": {}}}})
async def metrics(owner: Owner, state: State) -> Response:
    """Return counters for Prometheus."""
    return Response(generate_latest(state.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _page(name: str) -> Response:
    return Response(
        PAGES[name], media_type=_KINDS[name.rsplit(".", 1)[-1]], headers={"Cache-Control": "no-cache"}
    )


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The page."""
    return _page("index.html")


@router.get("/docs", include_in_schema=False)
async def api_page() -> Response:
    """The API for people."""
    return _page("api.html")


@router.get("/static/{name:path}", include_in_schema=False)
async def static(name: str) -> Any:
    """A file of the pages, read at the start; no path of a request is opened."""
    return _page(name) if name in PAGES else Response(status_code=404)
