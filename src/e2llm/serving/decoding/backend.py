"""The interface of what decodes: this process, or a server that takes soft tokens over the network."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal, Protocol

from e2llm.inference.decoding.sampling import Sampling
from e2llm.inference.layout import LaidOut


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
        """Answer a prompt; closing the iterator gives the answer up."""

    @property
    def num_decoding(self) -> int:
        """Answers under way."""

    def close(self) -> None:
        """Stop; answers under way end with an error."""


async def merge(answers: Sequence[AsyncIterator[AnswerPart]]) -> AsyncIterator[tuple[int, AnswerPart]]:
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
