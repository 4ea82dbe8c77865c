"""`/v1/contexts`: read, keep, change and inspect contexts."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import JSONResponse

from e2llm.documents import named_apart
from e2llm.errors import E2LLMError
from e2llm.modeling.rates import parse_rate
from e2llm.serving.http.api_error import ApiError
from e2llm.serving.http.bodies import (
    RATE_ADVICE,
    body_of,
    check_query,
    json_body,
    read_json_body,
    take_documents,
)
from e2llm.serving.http.work import EventStream, event, unless_gone
from e2llm.serving.kept_contexts import Facts, KeptContext
from e2llm.serving.preparing import check_dial, check_documents, check_length
from e2llm.serving.schemas import (
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
from e2llm.serving.state import ServerState, owner_of, state_of

router = APIRouter(prefix="/v1/contexts", tags=["contexts"], dependencies=[Depends(check_query)])
Owner = Annotated[str, Depends(owner_of)]
State = Annotated[ServerState, Depends(state_of)]
Id = Annotated[str, Path(pattern=r"^ctx_[0-9a-f]{24}$", description="From /v1/contexts.")]
Index = Annotated[int, Path(ge=0, le=2**31, description="Index of the chunk, from 0.")]
Start = Annotated[int, Query(ge=0, le=2**31, description="First chunk.")]
After = Annotated[str | None, Query(description="`next` of the page before.", max_length=100)]
_Result = TypeVar("_Result")
_Make = Callable[[], KeptContext]
_PROGRESS_SECONDS = 0.2
_CURSOR = re.compile(r"(\d{1,15})-(ctx_[0-9a-f]{24})")


async def _in_turn(request: Request, state: ServerState, work: Callable[[], _Result]) -> _Result:
    """Do blocking work in a thread, with a place among the requests."""
    with state.admission.enter():
        working = state.admission.in_thread(lambda _: work())
        return await unless_gone(request, working, state.settings.timeout_seconds)


# --- reading ------------------------------------------------------------------------------------------------


async def _read(
    request: Request, state: ServerState, make: _Make, *, status: int = 200, streams: bool = False
) -> Any:
    """Read a context in a thread, and answer with it, or with events of the progress."""
    limit = state.settings.timeout_seconds
    with ExitStack() as stack:
        stack.enter_context(state.admission.enter())
        if not streams:
            started = time.monotonic()
            working = state.admission.in_thread(_watched(state, make, lambda *_: None))
            kept = await unless_gone(request, working, limit)
            return JSONResponse(_made(state, kept, time.monotonic() - started), status)
        place = stack.pop_all()
    return EventStream(_progress(state, make), limit, place)


def _watched(
    state: ServerState, make: _Make, note: Callable[[int, int], None]
) -> Callable[[Callable[[], bool]], KeptContext]:
    def work(is_cancelled: Callable[[], bool]) -> KeptContext:
        with state.reader.watched(note, is_cancelled):
            return make()

    return work


async def _progress(state: ServerState, make: _Make) -> AsyncIterator[str]:
    """Yield events of the chunks read so far, and at the end the context."""
    started = time.monotonic()
    counts = (0, 0)

    def note(done: int, total: int) -> None:
        nonlocal counts
        counts = (done, total)

    working = asyncio.ensure_future(state.admission.in_thread(_watched(state, make, note)))
    try:
        sent = None
        while not working.done():
            await asyncio.wait({working}, timeout=_PROGRESS_SECONDS)
            if counts != sent:
                sent = counts
                yield event({"object": "context.progress", "chunks_read": sent[0], "chunks": sent[1]})
        yield event(_made(state, working.result(), time.monotonic() - started))
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def _made(state: ServerState, kept: KeptContext, seconds: float) -> dict[str, Any]:
    encoded = kept.context.content.num_encoded
    state.metrics.reading.observe(seconds)
    state.metrics.chunks_encoded.inc(encoded)
    return _context(kept, encoded_chunks=encoded, read_seconds=seconds).model_dump(mode="json")


def _context(kept: KeptContext, **more: Any) -> ContextOut:
    content = kept.context.content
    counts = Counter(content.owners)
    documents = [
        DocumentOut(index=index, name=item.name, characters=len(item.text), chunks=counts[index])
        for index, item in enumerate(content.documents)
    ]
    facts = kept.facts.model_dump(exclude={"owner", "chunk_size_chars"})
    return ContextOut(
        **facts,
        characters=kept.facts.characters,
        documents=documents,
        chunks=len(content.chunks),
        context_tokens=content.num_tokens,
        unknown_fraction=content.unknown_fraction,
        note=kept.note,
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


@router.post(
    "",
    status_code=201,
    response_model=ContextOut,
    openapi_extra=body_of(ContextIn),
)
async def create_context(request: Request, owner: Owner, state: State) -> Any:
    """Read texts and keep them as a context.

    With `stream`, events `context.progress` report `chunks_read` of `chunks`, then comes the context.
    """
    body, documents = await take_documents(request, state, ContextIn)
    assert isinstance(body, ContextIn)
    check_documents(documents, state.settings)
    documents = named_apart(documents)
    name = body.name or documents[0].name

    def make() -> KeptContext:
        return state.contexts.create(owner, name, documents, body.chunk_size_chars)

    return await _read(request, state, make, status=201, streams=body.stream)


@router.get("", response_model=ContextList)
async def list_contexts(
    request: Request,
    owner: Owner,
    state: State,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: After = None,
) -> ContextList:
    """List the caller's contexts, newest first."""
    found = await _in_turn(request, state, lambda: state.contexts.list(owner))
    start = 0 if after is None else _place_after(found, after)
    data = [
        ContextSummary(**facts.model_dump(), characters=facts.characters, documents=list(facts.names))
        for facts in found[start : start + limit]
    ]
    has_more = len(found) > start + limit
    last = found[start + limit - 1] if has_more else None
    # A cursor is a place in the list that stays valid when the context there is deleted.
    cursor = None if last is None else f"{last.created_at}-{last.id}"
    return ContextList(data=data, has_more=has_more, next=cursor)


def _place_after(found: list[Facts], after: str) -> int:
    """Return the index of the first context after a cursor."""
    if (cursor := _CURSOR.fullmatch(after)) is None:
        raise ApiError(400, f"after is {after!r}; give the value next of the previous page", param="after")
    place = (int(cursor[1]), cursor[2])
    return sum((facts.created_at, facts.id) >= place for facts in found)


async def _get(request: Request, state: ServerState, context_id: str, owner: str) -> KeptContext:
    """Return a context; fetched from the store, or read again, where it is not in memory."""
    return await _in_turn(request, state, lambda: state.contexts.get(context_id, owner))


@router.get("/{context_id}", response_model=ContextOut)
async def get_context(request: Request, context_id: Id, owner: Owner, state: State) -> ContextOut:
    """Return a context with the spans of its chunks."""
    kept = await _get(request, state, context_id, owner)
    return _context(kept, spans=_spans(kept))


@router.delete("/{context_id}", response_model=ContextDeleted)
async def delete_context(request: Request, context_id: Id, owner: Owner, state: State) -> ContextDeleted:
    """Delete a context."""
    await _in_turn(request, state, lambda: state.contexts.delete(context_id, owner))
    return ContextDeleted(id=context_id)


@router.post(
    "/{context_id}/documents",
    response_model=ContextOut,
    openapi_extra=body_of(DocumentsIn),
)
async def append_documents(request: Request, context_id: Id, owner: Owner, state: State) -> Any:
    """Append texts; only these are read."""
    body, documents = await take_documents(request, state, DocumentsIn)

    def make() -> KeptContext:
        kept = state.contexts.get(context_id, owner)
        present = len(kept.facts.names)
        check_documents(documents, state.settings, present=present)
        check_length(kept.facts.characters + sum(len(item.text) for item in documents), state.settings)
        named = [
            replace(item, name=f"text {present + place}") if item.name == f"text {place}" else item
            for place, item in enumerate(documents, 1)
        ]
        return state.contexts.edit(context_id, owner, lambda context: context.extend(named))

    return await _read(request, state, make, streams=body.stream)


def _check_chunk(kept: KeptContext, index: int) -> None:
    try:
        kept.context.content.check_chunk(index)
    except E2LLMError as error:
        raise ApiError(404, str(error), code="chunk_not_found") from error


@router.put("/{context_id}/chunks/{index}", response_model=ContextOut, openapi_extra=json_body(ChunkIn))
async def replace_chunk(request: Request, context_id: Id, index: Index, owner: Owner, state: State) -> Any:
    """Replace the text of a chunk; the document is split again around it, and only that is read.

    An empty text deletes the chunk.
    """
    body = await read_json_body(request, state, ChunkIn)

    def make() -> KeptContext:
        kept = state.contexts.get(context_id, owner)
        _check_chunk(kept, index)
        check_length(kept.facts.characters + len(body.text), state.settings)
        return state.contexts.edit(context_id, owner, lambda context: context.replace(index, body.text))

    return await _read(request, state, make)


@router.delete("/{context_id}/chunks/{index}", response_model=ContextOut)
async def delete_chunk(request: Request, context_id: Id, index: Index, owner: Owner, state: State) -> Any:
    """Delete a chunk's text; without its last chunk, a context is empty and can be appended to."""

    def make() -> KeptContext:
        _check_chunk(state.contexts.get(context_id, owner), index)
        return state.contexts.edit(context_id, owner, lambda context: context.delete(index))

    return await _read(request, state, make)


@router.get("/{context_id}/chunks", response_model=ChunkList)
async def list_chunks(
    request: Request,
    context_id: Id,
    owner: Owner,
    state: State,
    start: Start = 0,
    count: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ChunkList:
    """List chunks with their texts."""
    kept = await _get(request, state, context_id, owner)
    content = kept.context.content
    data = [
        ChunkOut(
            **vars(span), text=content.chunks[span.chunk].text, document_name=content.sources[span.chunk]
        )
        for span in _spans(kept, start, start + count)
    ]
    return ChunkList(data=data, has_more=start + count < len(content.chunks))


@router.post("/{context_id}/relevance", response_model=Relevance, openapi_extra=json_body(RelevanceIn))
async def compare_with_question(request: Request, context_id: Id, owner: Owner, state: State) -> Relevance:
    """Score the relevance of each chunk to a question, as `expand` does."""
    body = await read_json_body(request, state, RelevanceIn)

    def rank() -> list[float]:
        context = state.contexts.get(context_id, owner).context
        return state.engine.rank(context, body.question, select=body.select)

    return Relevance(scores=await _in_turn(request, state, rank))


@router.get("/{context_id}/fidelity", response_model=Fidelity)
async def report_fidelity(
    request: Request,
    context_id: Id,
    owner: Owner,
    state: State,
    start: Start = 0,
    count: Annotated[int, Query(ge=1, le=64)] = 16,
    soft_tokens: Annotated[int | None, Query(ge=1, le=1000)] = None,
    rate: Annotated[str | None, Query(max_length=16)] = None,
) -> Fidelity:
    """Measure how well chunks survived compression; each takes the decoder two passes, so ask for few."""
    engine = state.engine
    try:
        wanted = None if rate is None else parse_rate(rate)
    except E2LLMError as error:
        raise ApiError(400, f"{error}; {RATE_ADVICE}", param="rate") from error
    check_dial(engine, soft_tokens, wanted)

    def measure() -> Fidelity:
        context = state.contexts.get(context_id, owner).context
        chunks = list(range(len(context.chunks)))[start : start + count]
        if not chunks:
            most = 0 if engine.dial.has_rate else engine.model.config.max_soft_tokens
            return Fidelity(soft_tokens=soft_tokens or most, rate=wanted, data=[], has_more=False)
        report = engine.fidelity(context, soft_tokens=soft_tokens, rate=wanted, chunks=chunks, progress=False)
        return Fidelity(
            soft_tokens=report.soft_tokens,
            rate=report.rate,
            data=[ChunkFidelityOut.model_validate(item) for item in report.chunks],
            has_more=start + count < len(context.chunks),
        )

    return await _in_turn(request, state, measure)
