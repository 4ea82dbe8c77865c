"""The life of a request: let in or told to wait, worked on in a thread, given up when its client is gone."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from e2llm.serving.api_errors import ApiError

Result = TypeVar("Result")
_GRACE_SECONDS = 5.0  # beyond the time limit, for a client to take the error


class Admission:
    """Lets requests in, and no more than a number at once.

    Args:
        most: Requests at work or waiting.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.count = 0
        self._seconds = 1.0  # a moving mean of what a request takes
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="e2llm-request")

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Be let in, for as long as the block lasts.

        Raises:
            ApiError: 429 if too many are in already.
        """
        if self.count >= self.most:
            raise ApiError(
                429,
                f"{self.count} requests are at work or waiting, the most taken; try again later",
                code="queue_full",
                retry_after=max(1, min(60, round(self._seconds))),
            )
        self.count += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self.count -= 1
            self._seconds += 0.2 * (time.monotonic() - started - self._seconds)

    async def in_thread(self, work: Callable[[Callable[[], bool]], Result]) -> Result:
        """Do blocking work in a thread; it is given a function that says whether it was given up."""
        cancelled = threading.Event()
        future = asyncio.get_running_loop().run_in_executor(self._threads, work, cancelled.is_set)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            cancelled.set()
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)


async def until_disconnected(receive: Receive) -> None:
    """Wait until the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Awaitable[Result], timeout_seconds: float) -> Result:
    """Do work for a client, unless it closes the connection, and for so long.

    Raises:
        ApiError: 499 if the client is gone; nobody reads it.
        TimeoutError: After `timeout_seconds`.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(until_disconnected(request.receive))
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
        await _stop(working, watching)


async def _stop(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def event(data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


DONE = "data: [DONE]\n\n"


class EventStream(Response):
    """Server-sent events as they come; closed when the client is gone, or takes nothing any more.

    Args:
        events: What to send; closed in any case.
        timeout_seconds: Longest time for all of it.
        place: The request's place among those let in; given up at the end.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], timeout_seconds: float, place: ExitStack) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._timeout_seconds = timeout_seconds
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""

        async def tell() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with aclosing(self._events) as events:  # type: ignore[type-var]
                async for item in events:
                    await send({"type": "http.response.body", "body": item.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        telling = asyncio.ensure_future(tell())
        watching = asyncio.ensure_future(until_disconnected(receive))
        try:
            await asyncio.wait(
                {telling, watching},
                timeout=self._timeout_seconds + _GRACE_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if telling.done():
                telling.result()
        finally:
            await _stop(telling, watching)
            self._place.close()


async def within(events: AsyncIterator[str], deadline: float) -> AsyncIterator[str]:
    """The same events and the mark of their end; what goes wrong, or takes too long, is told as an event.

    Args:
        events: Closed in any case.
        deadline: By `time.monotonic`.
    """
    async with aclosing(events) as source:  # type: ignore[type-var]
        try:
            while True:
                coming = asyncio.ensure_future(anext(source))
                try:
                    done, _ = await asyncio.wait({coming}, timeout=max(0.0, deadline - time.monotonic()))
                    if not done:
                        raise TimeoutError
                    item = coming.result()
                finally:
                    await _stop(coming)
                yield item
        except StopAsyncIteration:
            pass
        except Exception as error:
            yield event(ApiError.of(error).body)
    yield DONE
