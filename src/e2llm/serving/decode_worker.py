"""The thread that decodes: answers of all requests in one batch, each told of its tokens as they come."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from e2llm.inference.decoding.batch import DecodingBatch, DecodingRow
from e2llm.modeling.model import E2LLMForConditionalGeneration

Listener = Callable[[int | BaseException, str | None], None]


@dataclass(eq=False)
class Ticket:
    """An answer that was asked for.

    Args:
        row: The answer.
        listener: Called in the decoding thread with each token and, with the last one, why it is the last; or
            with what went wrong.

    Attributes:
        is_cancelled: Whether nobody waits for it any more.
        started_at: When it came into the batch, by `time.perf_counter`.
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
        prefix_bytes: Memory for what prompts left (see `DecodingBatch`).
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

    def submit(self, tickets: list[Ticket]) -> None:
        """Ask for answers."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the decoding thread is closed")
            self._waiting += tickets
            self._changed.notify()

    def cancel(self, tickets: list[Ticket]) -> None:
        """Nobody waits for these answers any more."""
        with self._changed:
            for ticket in tickets:
                ticket.is_cancelled = True
            self._changed.notify()

    @property
    def num_decoding(self) -> int:
        """Answers in the batch."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Answers that wait for a place in it."""
        return len(self._waiting)

    def close(self) -> None:
        """Stop after the step under way; answers that are not whole end with an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        batch = DecodingBatch(self._model, self._prefix_bytes)
        while self._take(batch):
            try:
                moved = batch.step()
            except Exception as error:  # told to those who wait
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
