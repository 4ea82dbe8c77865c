"""`/v1/chat/completions` and `/v1/completions`."""

import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, aclosing
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request, Response

from e2llm.inference.decoding.sources import coarse_sources, ranked_sources
from e2llm.inference.decoding.tools import parse_call, run_call
from e2llm.serving.backend import merge_answers
from e2llm.serving.http.bodies import check_query, json_body, read_json_body
from e2llm.serving.http.work import EventStream, event, unless_gone
from e2llm.serving.preparing import Prepared
from e2llm.serving.requests import ChatIn, CompletionIn, MessageIn
from e2llm.serving.schemas import (
    ChatChoice,
    ChatMessageOut,
    ChatOut,
    CompletionChoice,
    CompletionOut,
    Details,
    SourceOut,
    TimingOut,
    UsageOut,
)
from e2llm.serving.state import ServerState, owner_of, state_of

router = APIRouter(tags=["answers"], dependencies=[Depends(check_query)])
Owner = Annotated[str, Depends(owner_of)]
State = Annotated[ServerState, Depends(state_of)]
_IGNORED_HEADER = "X-E2LLM-Ignored-Fields"
_HEADER_CHARS = 500
_STREAM = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}


class _Answer:
    """The answers to one request.

    Args:
        state: The server's.
        body: The request.
        owner: The caller.
    """

    def __init__(self, state: ServerState, body: ChatIn | CompletionIn, owner: str) -> None:
        self.state, self.body, self.owner = state, body, owner
        self.started = time.monotonic()
        self.created = int(time.time())
        self.first_token_at: float | None = None
        self.queue_seconds = 0.0
        self.counts: dict[int, int] = {}
        self.cached: dict[int, int] = {}
        self.sources: dict[int, list[SourceOut]] = {}  # measured
        self.sources_seconds = 0.0
        self.rounds = {"refined": 0, "tool_calls": 0}
        self.tokens_before = 0  # of earlier rounds
        kind = "chatcmpl" if isinstance(body, ChatIn) else "cmpl"
        self.id = f"{kind}-{secrets.token_hex(12)}"

    async def prepare(self) -> Prepared:
        """Read the texts and lay out the prompts."""
        work = self.state.preparer.prepare
        prepared = await self.state.admission.in_thread(
            lambda is_cancelled: work(self.body, self.owner, is_cancelled)
        )
        for _, sampling in prepared.prompts:
            self.state.backend.check(sampling)
        self.state.metrics.reading.observe(prepared.read_seconds)
        return prepared

    async def pieces(self, prepared: Prepared) -> AsyncIterator[tuple[int, str, str | None]]:
        """Yield index, text and reason to finish of each piece, and note counts and times."""
        backend = self.state.backend
        answers = [backend.answer(laid, sampling) for laid, sampling in prepared.prompts]
        async with aclosing(merge_answers(answers)) as parts:  # type: ignore[type-var]
            async for index, part in parts:
                if self.first_token_at is None:
                    self.first_token_at = time.monotonic()
                    self.queue_seconds = part.queue_seconds or 0.0
                self.counts[index] = part.num_tokens
                self.cached.setdefault(index, part.cached_tokens)
                if part.text or part.finish_reason:
                    yield index, part.text, part.finish_reason

    def usage(self, prepared: Prepared) -> UsageOut:
        """Return the cost, once all pieces have come."""
        # n answers share a prompt, which counts once; its cached positions are those cached for each of them
        num_prompts = len(prepared.usages)
        copies = len(prepared.prompts) // num_prompts
        groups = [range(place * copies, (place + 1) * copies) for place in range(num_prompts)]
        cached = sum(min(self.cached.get(index, 0) for index in group) for group in groups)
        usage = prepared.usage(self.tokens_before + sum(self.counts.values()), cached)
        usage = usage.model_copy(update=self.rounds)
        self.state.metrics.count(usage)
        if self.first_token_at is not None:
            self.state.metrics.first_token.observe(self.first_token_at - self.started)
        return usage

    async def whole(self) -> tuple[Prepared, dict[int, str], dict[int, Any]]:
        """Return the prompts, and the text of each answer with its reason to finish."""
        prepared = await self.prepare()
        texts = dict.fromkeys(range(len(prepared.prompts)), "")
        reasons: dict[int, Any] = {}
        async with aclosing(self.pieces(prepared)) as pieces:  # type: ignore[type-var]
            async for index, text, reason in pieces:
                texts[index] += text
                reasons[index] = reason
        return prepared, texts, reasons

    async def begins_again(self, prepared: Prepared, text: str) -> bool:
        """Change the request to that of another round, if an answer calls a tool or is to be refined."""
        body, laid = self.body, prepared.prompts[0][0]
        if not isinstance(body, ChatIn):
            return False
        update: dict[str, Any] = {}
        if body.tool_calls and (call := parse_call(text)) is not None:
            said = MessageIn.read({"role": "assistant", "content": text})
            told = MessageIn.read({"role": "user", "content": run_call(call, laid.content)})
            update = {"messages": [*body.messages, said, told], "tool_calls": body.tool_calls - 1}
            self.rounds["tool_calls"] += 1
        elif body.refine:
            find = self.state.engine.find_sources
            work = self.state.admission.in_thread
            sources, _ = await work(lambda is_cancelled: find(laid, text, body.sources))
            if coarse := coarse_sources(laid, sources):
                named = sorted([*laid.plan.expand, *coarse])
                update = {"expand": named, "overflow": "select", "refine": body.refine - 1}
                self.rounds["refined"] += len(coarse)
        if update:
            self.tokens_before += sum(self.counts.values())
            self.body = body.model_copy(update=update)
        return bool(update)

    async def find_sources(self, prepared: Prepared, texts: dict[int, str]) -> dict[int, str]:
        """Note the sources of each answer, and return the answers with their numbers if these are wanted.

        Raises:
            E2LLMError: If sources are to be measured, and the decoder does not allow it.
        """
        body, engine = self.body, self.state.engine
        if body.sources != "measured" and not body.citations:
            return texts
        started = time.monotonic()

        def measure(is_cancelled: Callable[[], bool]) -> dict[int, str]:
            cited = {}
            for index, text in texts.items():
                if is_cancelled():
                    break
                sources, cited[index] = engine.find_sources(prepared.prompts[index][0], text, "measured")
                self.sources[index] = prepared.sources(index, sources)
            return cited

        cited = await self.state.admission.in_thread(measure)
        self.sources_seconds = time.monotonic() - started
        return cited if body.citations else texts

    def details(self, prepared: Prepared) -> Details:
        """Return e2llm's additions to the whole answer."""
        first = None if self.first_token_at is None else self.first_token_at - self.started
        timing = TimingOut(
            read_seconds=prepared.read_seconds,
            queue_seconds=self.queue_seconds,
            first_token_seconds=first,
            prompt_seconds=None if first is None else first - prepared.read_seconds - self.queue_seconds,
            sources_seconds=self.sources_seconds,
            total_seconds=time.monotonic() - self.started,
        )
        return self.first_details(prepared).model_copy(update={"timing": timing})

    def first_details(self, prepared: Prepared) -> Details:
        """Return what is known of the answers so far: the chunks given, and their sources."""
        prompts = enumerate(laid for laid, _ in prepared.prompts)
        return Details(
            expanded=prepared.expanded,
            sources=[
                self.sources.get(index) or prepared.sources(index, ranked_sources(laid))
                for index, laid in prompts
            ],
            levels=prepared.prompts[0][0].plan.levels_by_chunk,
        )

    # --- streams ------------------------------------------------------------------------------------------

    async def events(self, prepared: Prepared) -> AsyncIterator[str]:
        """Yield the answers as server-sent events."""
        is_chat = isinstance(self.body, ChatIn)
        options = self.body.stream_options
        if is_chat:
            details = self.first_details(prepared).model_dump(mode="json")
            for index in range(len(prepared.prompts)):
                choice = _chat_choice(index, {"role": "assistant", "content": ""})
                yield event(self._chunk([choice], e2llm=details))
        texts = dict.fromkeys(range(len(prepared.prompts)), "")
        async with aclosing(self.pieces(prepared)) as pieces:  # type: ignore[type-var]
            async for index, text, reason in pieces:
                texts[index] += text
                choice = (
                    _chat_choice(index, {"content": text} if text else {}, reason)
                    if is_chat
                    else {"index": index, "text": text, "finish_reason": reason, "logprobs": None}
                )
                yield event(self._chunk([choice]))
        usage = self.usage(prepared)
        if options is not None and options.include_usage:
            await self.find_sources(prepared, texts)
            whole = self.details(prepared).model_dump(mode="json")
            yield event(self._chunk([], usage=usage.model_dump(mode="json"), e2llm=whole))

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        kind = "chat.completion.chunk" if isinstance(self.body, ChatIn) else "text_completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.body.model,
            "choices": choices,
            **more,
        }


def _chat_choice(index: int, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}


async def _respond(
    request: Request, response: Response, state: ServerState, body: ChatIn | CompletionIn, owner: str
) -> Any:
    answer = _Answer(state, body, owner)
    limit = state.settings.timeout_seconds
    ignored = quote(",".join(body.ignored), safe=",")[:_HEADER_CHARS]
    headers = {_IGNORED_HEADER: ignored} if ignored else {}
    response.headers.update(headers)  # of an answer that is sent whole
    with ExitStack() as stack:
        stack.enter_context(state.admission.enter())
        if not body.stream:
            return await unless_gone(request, _collect(answer), limit)
        prepared = await unless_gone(request, answer.prepare(), limit)
        place = stack.pop_all()  # kept until the stream ends
    left = answer.started + limit - time.monotonic()
    stream = EventStream(answer.events(prepared), left, place)
    stream.headers.update(headers)
    return stream


async def _collect(answer: _Answer) -> ChatOut | CompletionOut:
    prepared, texts, reasons = await answer.whole()
    while await answer.begins_again(prepared, texts[0]):
        prepared, texts, reasons = await answer.whole()
    texts = await answer.find_sources(prepared, texts)
    common: dict[str, Any] = {
        "id": answer.id,
        "created": answer.created,
        "model": answer.body.model,
        "usage": answer.usage(prepared),
        "e2llm": answer.details(prepared),
    }
    if isinstance(answer.body, ChatIn):
        chats = [
            ChatChoice(index=i, message=ChatMessageOut(content=text), finish_reason=reasons[i])
            for i, text in texts.items()
        ]
        return ChatOut(choices=chats, **common)
    choices = [CompletionChoice(index=i, text=text, finish_reason=reasons[i]) for i, text in texts.items()]
    return CompletionOut(choices=choices, **common)


@router.post(
    "/v1/chat/completions",
    response_model=ChatOut,
    responses={200: _STREAM},
    openapi_extra=json_body(ChatIn),
)
async def complete_chat(request: Request, response: Response, owner: Owner, state: State) -> Any:
    """Continue a conversation, about contexts or about itself.

    What does not fit the decoder's window is compressed; `usage` says so.
    """
    return await _respond(request, response, state, await read_json_body(request, state, ChatIn), owner)


@router.post(
    "/v1/completions",
    response_model=CompletionOut,
    responses={200: _STREAM},
    openapi_extra=json_body(CompletionIn),
)
async def complete(request: Request, response: Response, owner: Owner, state: State) -> Any:
    """Continue one or several texts; contexts and documents come before each."""
    return await _respond(request, response, state, await read_json_body(request, state, CompletionIn), owner)
