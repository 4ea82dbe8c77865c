"""Backends decode answers: the interface, and decoding in this process."""

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from e2llm.inference.decoding.batch import DecodingBatch, DecodingRow
from e2llm.inference.decoding.sampling import Sampling
from e2llm.inference.decoding.streaming import AnswerText
from e2llm.inference.engine import Engine
from e2llm.inference.layout import LaidOut

_TEXT_BEFORE = 4  # ids of a text that an answer continues: enough to see where its words begin


@dataclass(frozen=True)
class AnswerPart:
    """A piece of an answer.

    Attributes:
        text: May be empty.
        num_tokens: Tokens of the answer so far, its end token included.
        finish_reason: With the last piece; None before.
        queue_seconds: Seconds that the answer waited for a place in the batch; with the first piece.
        cached_tokens: Positions of its prompt that were not read again; with the first piece.
    """

    text: str
    num_tokens: int
    finish_reason: Literal["stop", "length"] | None = None
    queue_seconds: float | None = None
    cached_tokens: int = 0


class Backend(Protocol):
    """Decodes answers."""

    def check(self, sampling: Sampling) -> None:
        """Raise `ApiError` (400) for options that this backend does not support."""

    def answer(self, laid: LaidOut, sampling: Sampling) -> AsyncIterator[AnswerPart]:
        """Answer a prompt; closing the iterator cancels the answer."""

    @property
    def num_decoding(self) -> int:
        """Answers under way."""

    def close(self) -> None:
        """Stop; answers under way end with an error."""


Token = int | BaseException  # of an answer; or the error that ends it
Listener = Callable[[Token, str | None], None]


@dataclass(eq=False)
class _Ticket:
    """A requested answer.

    Attributes:
        row: The answer.
        listener: Called in the decoding thread with each token and, with the last one, the reason to finish;
            or with an error.
        is_cancelled: Whether the answer was given up.
        started_at: Time at which it joined the batch, by `time.perf_counter`.
    """

    row: DecodingRow
    listener: Listener
    is_cancelled: bool = False
    started_at: float | None = None


class LocalBackend:
    """Decodes with an engine's model: one thread decodes the answers of all requests in one batch.

    Args:
        engine: Its model is in evaluation mode.
        max_batch: Answers decoded together; others wait.
        prefix_bytes: Memory for the caches of earlier prompts (see `DecodingBatch`).
    """

    def __init__(self, engine: Engine, max_batch: int, prefix_bytes: int = 0) -> None:
        self._model = engine.model
        # A copy, since the engine's is switched between settings while texts are read.
        self._processor = copy.deepcopy(engine.processor)
        self._prefix_bytes = prefix_bytes
        self._max_batch = max_batch
        self._waiting: deque[_Ticket] = deque()
        self._running: dict[int, _Ticket] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="e2llm-decoding", daemon=True)
        self._thread.start()

    def check(self, sampling: Sampling) -> None:
        """Accept everything in `Sampling`."""

    async def answer(self, laid: LaidOut, sampling: Sampling) -> AsyncIterator[AnswerPart]:
        """Answer a prompt; see `Backend`."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[tuple[Token, str | None]] = asyncio.Queue()

        def listen(token: Token, reason: str | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, (token, reason))

        ticket = _Ticket(DecodingRow(laid.sample.input_ids, laid.soft_tokens, sampling), listen)
        after = laid.sample.input_ids[-_TEXT_BEFORE:] if sampling.continues else ()
        text = AnswerText(partial(self._processor.decode_answer, after=after), sampling.stop)
        started = time.perf_counter()
        with self._changed:
            if self._closed:
                raise RuntimeError("the decoding thread has stopped")
            self._waiting.append(ticket)
            self._changed.notify()
        count, reason = 0, None
        try:
            while reason is None:
                token, reason = await events.get()
                if isinstance(token, BaseException):
                    raise token
                count += 1
                piece = text.put(token)
                if text.stopped:
                    reason = "stop"
                elif reason is not None:
                    piece += text.end()
                first = ticket.started_at if count == 1 else None
                yield AnswerPart(
                    piece,
                    count,
                    "stop" if reason == "stop" else "length" if reason else None,
                    None if first is None else first - started,
                    ticket.row.num_known if count == 1 else 0,
                )
        finally:
            with self._changed:
                ticket.is_cancelled = True
                self._changed.notify()

    @property
    def num_decoding(self) -> int:
        """Answers in the batch, or waiting for a place in it."""
        return len(self._running) + len(self._waiting)

    def close(self) -> None:
        """Stop after the current step; unfinished answers end with an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    # --- the decoding thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        batch = DecodingBatch(self._model, self._prefix_bytes)
        while self._take(batch):
            try:
                moved = batch.step()
            except Exception as error:  # goes to the listeners
                self._fail(error)
                batch = DecodingBatch(self._model, self._prefix_bytes)
                continue
            for row in moved:
                ticket = self._running[id(row)]
                if row.finish_reason is not None:
                    del self._running[id(row)]
                ticket.listener(row.new_ids[-1], row.finish_reason)
        self._fail(RuntimeError("the server is stopping"))

    def _take(self, batch: DecodingBatch) -> bool:
        """Add and remove answers, and wait while the batch is empty; return False once closed."""
        with self._changed:
            while not self._closed:
                gone = [ticket for ticket in self._running.values() if ticket.is_cancelled]
                batch.remove([ticket.row for ticket in gone])
                for ticket in gone:
                    del self._running[id(ticket.row)]
                while self._waiting and len(self._running) < self._max_batch:
                    ticket = self._waiting.popleft()
                    if not ticket.is_cancelled:
                        ticket.started_at = time.perf_counter()
                        self._running[id(ticket.row)] = ticket
                        batch.add([ticket.row])
                if self._running:
                    return True
                self._changed.wait()
            return False

    def _fail(self, error: BaseException) -> None:
        failed = list(self._running.values())
        self._running.clear()
        with self._changed:
            if self._closed:
                failed += self._waiting
                self._waiting.clear()
        for ticket in failed:
            ticket.listener(error, None)


async def merge_answers(
    answers: Sequence[AsyncIterator[AnswerPart]],
) -> AsyncIterator[tuple[int, AnswerPart]]:
    """Yield the parts of several answers, with the index of each answer; closing it closes all of them."""
    parts: asyncio.Queue[tuple[int, AnswerPart | Exception]] = asyncio.Queue()

    async def follow(index: int, answer: AsyncIterator[AnswerPart]) -> None:
        try:
            async with aclosing(answer) as source:  # type: ignore[type-var]
                async for part in source:
                    parts.put_nowait((index, part))
        except Exception as error:  # raised by the reader of the parts
            parts.put_nowait((index, error))

    tasks = [asyncio.create_task(follow(index, answer)) for index, answer in enumerate(answers)]
    waiting = len(tasks)
    try:
        while waiting:
            index, part = await parts.get()
            if isinstance(part, Exception):
                raise part
            waiting -= part.finish_reason is not None
            yield index, part
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
