"""Decoding in this process, all requests in one batch."""

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Sequence

from e2llm.inference.decoding.batch import DecodingRow
from e2llm.inference.decoding.sampling import Sampling
from e2llm.inference.decoding.streaming import AnswerText
from e2llm.inference.engine import Engine
from e2llm.serving.backends import AnswerPart, DecoderPrompt
from e2llm.serving.decode_worker import DecodeWorker, Ticket

_Event = tuple[int, int | BaseException, str | None]


class LocalBackend:
    """Decodes with an engine's model.

    Args:
        engine: Its model.
        max_batch: Answers decoded together; others wait.
        prefix_bytes: Memory for what prompts left (see `DecodingBatch`).
    """

    name = "local"

    def __init__(self, engine: Engine, max_batch: int, prefix_bytes: int = 0) -> None:
        self._worker = DecodeWorker(engine.model, max_batch, prefix_bytes)
        # Its own, since the engine's is switched between settings while texts are read.
        self._processor = copy.deepcopy(engine.processor)

    def check(self, sampling: Sampling) -> None:
        """Everything that `Sampling` takes can be done."""

    async def answer(self, prompts: Sequence[tuple[DecoderPrompt, Sampling]]) -> AsyncIterator[AnswerPart]:
        """Answer several prompts at once; see `Backend`."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[_Event] = asyncio.Queue()
        tickets = []
        for index, (prompt, sampling) in enumerate(prompts):
            row = DecodingRow(prompt.laid.sample.input_ids, prompt.laid.soft_tokens, sampling)

            def tell(token: int | BaseException, reason: str | None, index: int = index) -> None:
                loop.call_soon_threadsafe(events.put_nowait, (index, token, reason))

            tickets.append(Ticket(row, tell))
        texts = [AnswerText(self._processor.decode_answer, sampling.stop) for _, sampling in prompts]
        started = time.perf_counter()
        waiting = set(range(len(prompts)))
        counts = [0] * len(prompts)
        self._worker.submit(tickets)
        try:
            while waiting:
                index, token, reason = await events.get()
                if isinstance(token, BaseException):
                    raise token
                if index not in waiting:
                    continue  # came after a stop text
                counts[index] += 1
                piece = texts[index].put(token)
                if reason is not None and not texts[index].stopped:
                    piece += texts[index].end()
                if texts[index].stopped:
                    self._worker.cancel([tickets[index]])
                    reason = "stop"
                first = tickets[index].started_at if counts[index] == 1 else None
                if reason is not None:
                    waiting.discard(index)
                yield AnswerPart(
                    index,
                    piece,
                    counts[index],
                    "stop" if reason == "stop" else "length" if reason else None,
                    None if first is None else first - started,
                    tickets[index].row.num_known if counts[index] == 1 else 0,
                )
        finally:
            self._worker.cancel([tickets[index] for index in waiting])

    @property
    def num_decoding(self) -> int:
        """Answers on their way."""
        return self._worker.num_decoding + self._worker.num_waiting

    def close(self) -> None:
        """Stop after the step under way."""
        self._worker.close()
