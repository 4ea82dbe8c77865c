"""Admit or refuse requests, work in threads, and stop work when the client disconnects."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, contextmanager, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from e2llm.serving.http.api_error import ApiError

Result = TypeVar("Result")
DONE = "data: [DONE]\n\n"
_GRACE_SECONDS = 5.0  # beyond the time limit, for a client to take the error


class Admission:
    """Admit a limited number of requests at once.

    Args:
        max_requests: Most requests running or waiting.
    """

    def __init__(self, max_requests: int) -> None:
        self.max_requests = max_requests
        self.num_requests = 0
        self._seconds = 1.0  # a moving mean of the time a request takes
        self._threads = ThreadPoolExecutor(max_requests, thread_name_prefix="e2llm-request")

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place while the block runs.

        Raises:
            ApiError: 429 if all places are taken.
        """
        if self.num_requests >= self.max_requests:
            raise ApiError(
                429,
                f"the server already has {self.num_requests} requests running or waiting, the most allowed; "
                "retry later",
                code="queue_full",
                retry_after=max(1, min(60, round(self._seconds))),
            )
        self.num_requests += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self.num_requests -= 1
            self._seconds += 0.2 * (time.monotonic() - started - self._seconds)

    async def in_thread(self, work: Callable[[Callable[[], bool]], Result]) -> Result:
        """Run blocking work in a thread; its argument is a function that returns whether it was cancelled."""
        cancelled = threading.Event()
        future = asyncio.get_running_loop().run_in_executor(self._threads, work, cancelled.is_set)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            cancelled.set()
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    def close(self) -> None:
        """Shut the threads down."""
        self._threads.shutdown(wait=False, cancel_futures=True)


async def unless_gone(request: Request, work: Awaitable[Result], timeout_seconds: float) -> Result:
    """Do work for a client until it closes the connection or the time is up.

    Raises:
        ApiError: 499 if the client is gone; nobody reads it.
        TimeoutError: After `timeout_seconds`.
    """

    async def until_disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(until_disconnected())
    try:
        done, _ = await asyncio.wait(
            {working, watching}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if working in done:
            return working.result()
        if watching in done:
            raise ApiError(499, "the client closed the connection", code="client_closed_request")
        raise TimeoutError
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


# --- streams ------------------------------------------------------------------------------------------------


def event(data: dict[str, Any]) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def last_events(error: BaseException) -> str:
    """Return the end of a stream that failed."""
    return event(ApiError.of(error).body) + DONE


class EventStream(StreamingResponse):
    """Server-sent events as they come; closed when the client is gone, or no longer takes any.

    Args:
        events: The events; closed in any case.
        timeout_seconds: Longest time for all of them.
        place: The request's place among those let in; given up at the end.
    """

    def __init__(self, events: AsyncIterator[str], timeout_seconds: float, place: ExitStack) -> None:
        deadline = time.monotonic() + timeout_seconds
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_until(events, deadline), headers=headers, media_type="text/event-stream")
        self._deadline = deadline + _GRACE_SECONDS
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        limit = self._deadline - time.monotonic()
        with self._place, suppress(TimeoutError):
            async with asyncio.timeout(limit), aclosing(self.body_iterator):  # type: ignore[type-var]
                await super().__call__(scope, receive, send)


async def _until(events: AsyncIterator[str], deadline: float) -> AsyncIterator[str]:
    """Yield events and the mark of their end; an error, or the end of the time, becomes an event too."""
    async with aclosing(events) as source:  # type: ignore[type-var]
        try:
            while True:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    item = await anext(source)
                yield item
        except StopAsyncIteration:
            yield DONE
        except Exception as error:
            yield last_events(error)
