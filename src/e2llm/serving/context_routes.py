"""`/v1/contexts`: read once, keep, change, look into."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import JSONResponse

from e2llm.inference.documents import Document
from e2llm.modeling.rates import parse_rate
from e2llm.serving.answering import check_documents
from e2llm.serving.api_errors import ApiError
from e2llm.serving.bodies import json_body, read_json
from e2llm.serving.context_schemas import (
    ChunkFidelityOut,
    ChunkIn,
    ChunkList,
    ChunkOut,
    ContextDeleted,
    ContextIn,
    ContextList,
    ContextOut,
    ContextSummary,
    DocumentOut,
    DocumentsIn,
    Fidelity,
    Relevance,
    RelevanceIn,
    Span,
)
from e2llm.serving.kept_contexts import Facts, KeptContext
from e2llm.serving.queries import check_query
from e2llm.serving.request_work import EventStream, event, unless_gone, within
from e2llm.serving.server_state import ServerState, owner_of, state_of
from e2llm.serving.uploads import body_of, take_documents

router = APIRouter(prefix="/v1/contexts", tags=["contexts"], dependencies=[Depends(check_query)])
Owner = Annotated[str, Depends(owner_of)]
State = Annotated[ServerState, Depends(state_of)]
Id = Annotated[str, Path(pattern=r"^ctx_[0-9a-f]{24}$", description="As /v1/contexts gives it.")]
Index = Annotated[int, Path(ge=0, le=2**31, description="The chunk's, from 0.")]
Start = Annotated[int, Query(ge=0, le=2**31, description="First chunk.")]
After = Annotated[str | None, Query(description="`next` of the page before, or an id.", max_length=100)]
_Made = TypeVar("_Made")
_PROGRESS_SECONDS = 0.2
_CURSOR = re.compile(r"(\d{1,15})-(ctx_[0-9a-f]{24})")


# --- reading ------------------------------------------------------------------------------------------------

_Make = Callable[[], KeptContext]


async def _read(
    request: Request, state: ServerState, make: _Make, *, status: int, streams: bool = False
) -> Any:
    """Do what reads, in a thread, and tell of it."""
    limit = state.settings.timeout_seconds
    with ExitStack() as stack:
        stack.enter_context(state.admission.enter())
        if not streams:
            started = time.monotonic()

            def work(is_cancelled: Callable[[], bool]) -> KeptContext:
                with state.reader.watched(lambda *_: None, is_cancelled):
                    return make()

            kept = await unless_gone(request, state.admission.in_thread(work), limit)
            return JSONResponse(_told(state, kept, time.monotonic() - started), status)
        place = stack.pop_all()
    return EventStream(within(_progress(state, make), time.monotonic() + limit), limit, place)


async def _progress(state: ServerState, make: _Make) -> AsyncIterator[str]:
    """Tell how far the reading is, and at the end of the context."""
    started = time.monotonic()
    counts = [0, 0]

    def note(done: int, total: int) -> None:
        counts[:] = [done, total]

    def work(is_cancelled: Callable[[], bool]) -> KeptContext:
        with state.reader.watched(note, is_cancelled):
            return make()

    working = asyncio.ensure_future(state.admission.in_thread(work))
    try:
        told = None
        while not working.done():
            await asyncio.wait({working}, timeout=_PROGRESS_SECONDS)
            if counts != told:
                told = list(counts)
                yield event({"object": "context.progress", "chunks_read": told[0], "chunks": told[1]})
        yield event(_told(state, working.result(), time.monotonic() - started))
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _told(state: ServerState, kept: KeptContext, seconds: float) -> dict[str, Any]:
    encoded = kept.context.content.num_encoded
    state.metrics.reading.observe(seconds)
    state.metrics.chunks_encoded.inc(encoded)
    return _context(kept, encoded_chunks=encoded, read_seconds=seconds).model_dump(mode="json")


def _context(kept: KeptContext, **more: Any) -> ContextOut:
    facts, content = kept.facts, kept.context.content
    counts = [0] * len(content.documents)
    for owner in content.owners:
        counts[owner] += 1
    documents = [
        DocumentOut(index=index, name=item.name, characters=len(item.text), chunks=counts[index])
        for index, item in enumerate(content.documents)
    ]
    return ContextOut(
        id=facts.id,
        name=facts.name,
        created_at=facts.created_at,
        updated_at=facts.updated_at,
        version=facts.version,
        documents=documents,
        characters=facts.characters,
        chunks=len(content.chunks),
        context_tokens=content.num_tokens,
        **more,
    )


def _spans(kept: KeptContext, start: int = 0, stop: int | None = None) -> list[Span]:
    content = kept.context.content
    return [
        Span(
            chunk=index,
            document=content.owners[index],
            start=content.chunks[index].start,
            end=content.chunks[index].end,
            tokens=content.token_counts[index],
        )
        for index in range(len(content.chunks))[start:stop]
    ]


# --- routes -------------------------------------------------------------------------------------------------


@router.post("", status_code=201, response_model=ContextOut, openapi_extra=body_of(ContextIn))
async def create_context(request: Request, owner: Owner, state: State) -> Any:
    """Read texts and keep what was read.

    With `stream`, events tell of it: `context.progress` with `chunks_read` of `chunks`, then the context.
    """
    body, documents = await take_documents(request, state, ContextIn)
    assert isinstance(body, ContextIn)
    check_documents(documents, state.settings)
    name = body.name or documents[0].name

    def make() -> KeptContext:
        return state.contexts.create(owner, name, documents, body.chunk_size_chars)

    return await _read(request, state, make, status=201, streams=body.stream)


@router.get("", response_model=ContextList)
async def list_contexts(
    owner: Owner,
    state: State,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: After = None,
) -> ContextList:
    """The caller's contexts, newest first."""
    with state.admission.enter():
        found = await state.admission.in_thread(lambda _: state.contexts.list(owner))
    start = 0 if after is None else _place_after(found, after)
    data = [
        ContextSummary(
            id=facts.id,
            name=facts.name,
            created_at=facts.created_at,
            updated_at=facts.updated_at,
            version=facts.version,
            documents=[name for name, _ in facts.documents],
            characters=facts.characters,
        )
        for facts in found[start : start + limit]
    ]
    has_more = len(found) > start + limit
    cursor = _cursor(found[start + limit - 1]) if has_more else None
    return ContextList(data=data, has_more=has_more, next=cursor)


def _cursor(facts: Facts) -> str:
    """A place in the list that stays one when the context there is deleted."""
    return f"{facts.created_at}-{facts.id}"


def _place_after(found: list[Facts], after: str) -> int:
    """Index of the first context behind a cursor, or behind a context that is still there."""
    if (cursor := _CURSOR.fullmatch(after)) is not None:
        place = (int(cursor[1]), cursor[2])
        return sum((facts.created_at, facts.id) >= place for facts in found)
    ids = [facts.id for facts in found]
    if after not in ids:
        raise ApiError(
            400,
            f"after is {after!r}, which is no context that is there; give next of the page before",
            code="invalid_value",
            param="after",
        )
    return ids.index(after) + 1


async def _in_turn(request: Request, state: ServerState, work: Callable[[], _Made]) -> _Made:
    """Do work that makes the caller wait, in a thread, with a place among the requests."""
    with state.admission.enter():
        working = state.admission.in_thread(lambda _: work())
        return await unless_gone(request, working, state.settings.timeout_seconds)


async def _get(request: Request, state: ServerState, context_id: str, owner: str) -> KeptContext:
    """A context; fetched again from the store, or read, where it is not in memory."""
    return await _in_turn(request, state, lambda: state.contexts.get(context_id, owner))


@router.get("/{context_id}", response_model=ContextOut)
async def get_context(request: Request, context_id: Id, owner: Owner, state: State) -> ContextOut:
    """A context with the spans of its chunks."""
    kept = await _get(request, state, context_id, owner)
    return _context(kept, spans=_spans(kept))


@router.delete("/{context_id}", response_model=ContextDeleted)
async def delete_context(context_id: Id, owner: Owner, state: State) -> ContextDeleted:
    """Delete a context."""
    with state.admission.enter():
        await state.admission.in_thread(lambda _: state.contexts.delete(context_id, owner))
    return ContextDeleted(id=context_id)


@router.post("/{context_id}/documents", response_model=ContextOut, openapi_extra=body_of(DocumentsIn))
async def append_documents(request: Request, context_id: Id, owner: Owner, state: State) -> Any:
    """Append texts; only these are read."""
    body, documents = await take_documents(request, state, DocumentsIn)

    def make() -> KeptContext:
        content = state.contexts.get(context_id, owner).context.content
        present = len(content.documents)
        check_documents(documents, state.settings, present=present)
        named = [
            Document(f"text {present + place}", item.text, item.kind)
            if item.name == f"text {place}"
            else item
            for place, item in enumerate(documents, 1)
        ]
        _check_length(state, sum(len(item.text) for item in (*content.documents, *documents)))
        return state.contexts.edit(context_id, owner, lambda context: context.extend(named))

    return await _read(request, state, make, status=200, streams=body.stream)


def _check_length(state: ServerState, length: int) -> None:
    most = state.settings.max_context_chars
    if length > most:
        raise ApiError(
            413,
            f"the context would have {length:,} characters, the most is {most:,}",
            code="context_too_long",
            param="text",
        )


def _check_chunk(kept: KeptContext, index: int) -> None:
    count = len(kept.context.chunks)
    if index >= count:
        raise ApiError(
            404, f"there is no chunk {index}; the context has 0 to {count - 1}", code="chunk_not_found"
        )


@router.put("/{context_id}/chunks/{index}", response_model=ContextOut, openapi_extra=json_body(ChunkIn))
async def replace_chunk(request: Request, context_id: Id, index: Index, owner: Owner, state: State) -> Any:
    """Put a text in the place of a chunk; the document is split again around it, and only that is read.

    An empty text deletes the chunk.
    """
    body = await read_json(request, state, ChunkIn)

    def make() -> KeptContext:
        kept = state.contexts.get(context_id, owner)
        _check_chunk(kept, index)
        _check_length(state, kept.facts.characters + len(body.text))
        return state.contexts.edit(context_id, owner, lambda context: context.replace(index, body.text))

    return await _read(request, state, make, status=200)


@router.delete("/{context_id}/chunks/{index}", response_model=ContextOut)
async def delete_chunk(request: Request, context_id: Id, index: Index, owner: Owner, state: State) -> Any:
    """Delete a chunk's text."""

    def make() -> KeptContext:
        _check_chunk(state.contexts.get(context_id, owner), index)
        return state.contexts.edit(context_id, owner, lambda context: context.delete(index))

    return await _read(request, state, make, status=200)


@router.get("/{context_id}/chunks", response_model=ChunkList)
async def list_chunks(
    request: Request,
    context_id: Id,
    owner: Owner,
    state: State,
    start: Start = 0,
    count: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ChunkList:
    """Chunks with their texts."""
    kept = await _get(request, state, context_id, owner)
    content = kept.context.content
    data = [
        ChunkOut(
            **span.model_dump(),
            text=content.chunks[span.chunk].text,
            document_name=content.sources[span.chunk],
        )
        for span in _spans(kept, start, start + count)
    ]
    return ChunkList(data=data, has_more=start + count < len(content.chunks))


@router.post("/{context_id}/relevance", response_model=Relevance, openapi_extra=json_body(RelevanceIn))
async def compare_with_question(request: Request, context_id: Id, owner: Owner, state: State) -> Relevance:
    """Relevance of each chunk to a question, as `expand` uses it."""
    body = await read_json(request, state, RelevanceIn)
    kept = await _get(request, state, context_id, owner)
    rank = state.engine.rank
    scores = await _in_turn(request, state, lambda: rank(kept.context, body.question, select=body.select))
    return Relevance(scores=scores)


@router.get("/{context_id}/fidelity", response_model=Fidelity)
async def measure_fidelity(
    request: Request,
    context_id: Id,
    owner: Owner,
    state: State,
    start: Start = 0,
    count: Annotated[int, Query(ge=1, le=64)] = 16,
    soft_tokens: Annotated[int | None, Query(ge=1, le=1000)] = None,
    rate: Annotated[str | None, Query(max_length=16)] = None,
) -> Fidelity:
    """How well chunks survived compression; each takes the decoder two passes, so ask for a few at a time."""
    kept = await _get(request, state, context_id, owner)
    num_chunks = len(kept.context.chunks)
    chunks = list(range(num_chunks))[start : start + count]
    wanted = None if rate is None else parse_rate(rate)
    state.engine.dial.check(soft_tokens, wanted)
    if not chunks:
        most = 0 if state.engine.dial.has_rate else state.engine.model.config.max_soft_tokens
        return Fidelity(soft_tokens=soft_tokens or most, rate=wanted, data=[], has_more=False)
    measure = state.engine.fidelity
    report = await _in_turn(
        request,
        state,
        lambda: measure(kept.context, soft_tokens=soft_tokens, rate=wanted, chunks=chunks, progress=False),
    )
    data = [
        ChunkFidelityOut(
            chunk=item.chunk,
            score=item.score,
            gain=item.gain,
            token_accuracy=item.token_accuracy,
            numbers_kept=item.numbers_kept,
            names_kept=item.names_kept,
        )
        for item in report.chunks
    ]
    return Fidelity(
        soft_tokens=report.soft_tokens, rate=report.rate, data=data, has_more=start + count < num_chunks
    )
