"""Decoding in this process: one thread decodes the answers of all requests in one batch."""

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from e2llm.inference.decoding.batch import DecodingBatch, DecodingRow
from e2llm.inference.decoding.sampling import Sampling
from e2llm.inference.decoding.streaming import AnswerText
from e2llm.inference.engine import Engine
from e2llm.inference.layout import LaidOut
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.serving.decoding.backend import AnswerPart

_Event = tuple[int | BaseException, str | None]  # a token or an error, the reason to finish
Listener = Callable[[int | BaseException, str | None], None]


@dataclass(eq=False)
class Ticket:
    """A requested answer.

    Args:
        row: The answer.
        listener: Called in the decoding thread with each token and, with the last one, the reason to finish;
            or with an error.

    Attributes:
        is_cancelled: Whether the answer was given up.
        started_at: When it joined the batch, by `time.perf_counter`.
    """

    row: DecodingRow
    listener: Listener
    is_cancelled: bool = False
    started_at: float | None = None


class DecodeWorker:
    """Decodes for many at once.

    Args:
        model: In evaluation mode.
        max_batch: Answers decoded together; others wait.
        prefix_bytes: Memory for the caches of earlier prompts (see `DecodingBatch`).
    """

    def __init__(self, model: E2LLMForConditionalGeneration, max_batch: int, prefix_bytes: int = 0) -> None:
        self._model = model
        self._prefix_bytes = prefix_bytes
        self._max_batch = max_batch
        self._waiting: deque[Ticket] = deque()
        self._running: dict[int, Ticket] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="e2llm-decoding", daemon=True)
        self._thread.start()

    def submit(self, ticket: Ticket) -> None:
        """Request an answer."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the decoding thread is closed")
            self._waiting.append(ticket)
            self._changed.notify()

    def cancel(self, ticket: Ticket) -> None:
        """Give an answer up."""
        with self._changed:
            ticket.is_cancelled = True
            self._changed.notify()

    @property
    def num_decoding(self) -> int:
        """Answers in the batch."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Answers that wait for a place in the batch."""
        return len(self._waiting)

    def close(self) -> None:
        """Stop after the current step; unfinished answers end with an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

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
        """Bring the batch up to date, and wait while there is nothing in it; False once closed."""
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


class LocalBackend:
    """Decodes with an engine's model.

    Args:
        engine: Its model.
        max_batch: Answers decoded together; others wait.
        prefix_bytes: Memory for the caches of earlier prompts (see `DecodingBatch`).
    """

    def __init__(self, engine: Engine, max_batch: int, prefix_bytes: int = 0) -> None:
        self._worker = DecodeWorker(engine.model, max_batch, prefix_bytes)
        # A copy, since the engine's is switched between settings while texts are read.
        self._processor = copy.deepcopy(engine.processor)

    def check(self, sampling: Sampling) -> None:
        """Everything in `Sampling` is supported."""

    async def answer(self, laid: LaidOut, sampling: Sampling) -> AsyncIterator[AnswerPart]:
        """Answer a prompt; see `Backend`."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[_Event] = asyncio.Queue()

        def listen(token: int | BaseException, reason: str | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, (token, reason))

        ticket = Ticket(DecodingRow(laid.sample.input_ids, laid.soft_tokens, sampling), listen)
        text = AnswerText(self._processor.decode_answer, sampling.stop)
        started = time.perf_counter()
        self._worker.submit(ticket)
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
            self._worker.cancel(ticket)

    @property
    def num_decoding(self) -> int:
        """Answers under way."""
        return self._worker.num_decoding + self._worker.num_waiting

    def close(self) -> None:
        """Stop after the current step."""
        self._worker.close()
