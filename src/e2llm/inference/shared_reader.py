"""Encode texts for many threads: each round takes chunks from every waiting text."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from e2llm.errors import E2LLMError
from e2llm.inference.reader import ChunkReader, ReadChunks

_ROUND_CHUNKS = 32  # chunks of a round: about a second on two cores


class ReadingCancelledError(E2LLMError):
    """The caller cancelled the reading, or the reader was closed."""


@dataclass(eq=False)
class _Job:
    """The chunks of one text that is being read.

    Attributes:
        texts: All chunk texts.
        waiting: Places of the chunks that are not read yet, longest last.
        result: The states of all chunks, filled in round by round.
        is_cancelled: Whether the caller no longer wants it; asked by both threads.
        done: Queue of the places that were read, an error, or None at the end.
        ended: Whether it failed, or its caller left.
    """

    texts: list[str]
    waiting: list[int]
    result: ReadChunks
    is_cancelled: Callable[[], bool]
    done: "queue.SimpleQueue[list[int] | BaseException | None]" = field(default_factory=queue.SimpleQueue)
    ended: bool = False

    @property
    def is_wanted(self) -> bool:
        return not (self.ended or self.is_cancelled())


class SharedReader(ChunkReader):
    """A `ChunkReader` for many threads, in which a long text does not block a short one.

    One thread runs the encoder. A round takes equally many chunks from each waiting text, so that a
    short text is read together with parts of a long one.

    Args:
        reader: The reader that does the work.
    """

    def __init__(self, reader: ChunkReader) -> None:
        super().__init__(reader.model, reader.processor)
        self.lock = reader.lock
        self._inner = reader
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._watching = threading.local()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="e2llm-reading", daemon=True)
        self._thread.start()

    @property
    def fingerprint(self) -> str:
        """Digest of everything that what is kept depends on, renewed when a weight changes."""
        return self._inner.fingerprint

    @contextmanager
    def watched(
        self, on_progress: Callable[[int, int], Any], is_cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """Report the progress of readings that this thread starts in the block, and allow cancelling them.

        Args:
            on_progress: Called in this thread with the number of chunks read and to read.
            is_cancelled: Asked before each round; if true, the reading ends with `ReadingCancelledError`.
        """
        self._watching.by = (on_progress, is_cancelled)
        try:
            yield
        finally:
            del self._watching.by

    def read(
        self,
        texts: Sequence[str],
        *,
        progress: bool | None = None,
        on_read: Callable[[list[int], ReadChunks], Any] | None = None,
    ) -> ReadChunks:
        """Read chunk texts; see `ChunkReader.read`.

        Args:
            texts: C texts that each fit the encoder.
            progress: Not used: `watched` reports progress.
            on_read: See `ChunkReader.read`; called in the calling thread.

        Raises:
            ReadingCancelledError: If `is_cancelled` says so, or the reader was closed.
        """
        on_progress, is_cancelled = getattr(self._watching, "by", (lambda *_: None, lambda: False))
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        job = _Job(list(texts), order, self.empty(len(texts)), is_cancelled)
        on_progress(0, len(texts))
        if not texts:
            return job.result
        with self._changed:
            if self._closed:
                raise ReadingCancelledError("the reader is closed")
            self._jobs.append(job)
            self._changed.notify()
        num_done = 0
        try:
            while (item := self._next(job)) is not None:
                if isinstance(item, BaseException):
                    raise item
                num_done += len(item)
                if on_read is not None:
                    on_read(item, job.result)
                on_progress(num_done, len(texts))
        finally:
            job.ended = True  # where it ended early; a whole one has left the list already
        return job.result

    @staticmethod
    def _next(job: _Job) -> "list[int] | BaseException | None":
        while True:
            if job.is_cancelled():
                raise ReadingCancelledError("the reading was cancelled")
            try:
                return job.done.get(timeout=0.25)
            except queue.Empty:
                continue

    def close(self) -> None:
        """Stop the thread; unfinished readings raise `ReadingCancelledError`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def num_waiting(self) -> int:
        """Number of texts that are being read or waiting."""
        with self._changed:
            return len(self._jobs)

    # --- the thread ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (jobs := self._wait()) is not None:
            share = max(1, _ROUND_CHUNKS // len(jobs))
            taken = [(job, [job.waiting.pop() for _ in range(min(share, len(job.waiting)))]) for job in jobs]
            try:
                self._read_round(taken)
            except Exception:  # one bad text must not affect the others
                for item in taken:
                    self._read_alone(item)
            with self._changed:
                self._jobs = [job for job in self._jobs if job.waiting and job.is_wanted]

    def _wait(self) -> list[_Job] | None:
        """Wait for at least one job and return all; None once the reader is closed."""
        with self._changed:
            while True:
                self._jobs = [job for job in self._jobs if job.is_wanted]
                if self._closed:
                    for job in self._jobs:
                        job.done.put(ReadingCancelledError("the reader is closed"))
                    return None
                if self._jobs:
                    return list(self._jobs)
                self._changed.wait()

    def _read_alone(self, item: tuple[_Job, list[int]]) -> None:
        try:
            self._read_round([item])
        except Exception as error:  # raised in the thread that waits
            item[0].done.put(error)
            item[0].ended = True

    def _read_round(self, taken: list[tuple[_Job, list[int]]]) -> None:
        texts = [job.texts[place] for job, places in taken for place in places]
        read = self._inner.read(texts, progress=False)
        start = 0
        for job, places in taken:
            job.result.put(places, read, range(start, start + len(places)))
            start += len(places)
            job.done.put(places)
            if not job.waiting:
                job.done.put(None)
