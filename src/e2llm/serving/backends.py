"""Who decodes: this process, or a server that takes soft tokens over the network."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from e2llm.inference.decoding.sampling import Sampling
from e2llm.inference.layout import LaidOut
from e2llm.inference.options import AskRequest


@dataclass(frozen=True)
class DecoderPrompt:
    """What the decoder is to go on from.

    Attributes:
        laid: Ids, soft tokens, and what they stand for.
        request: The question and its history.
        is_chat: Whether it is a conversation; else a text to go on with.
    """

    laid: LaidOut
    request: AskRequest
    is_chat: bool = True


@dataclass(frozen=True)
class AnswerPart:
    """A piece of one of the answers.

    Attributes:
        index: Which answer, from 0.
        text: May be empty.
        num_tokens: Tokens of the answer so far, its end token included.
        finish_reason: With the last piece of an answer; None before.
        queue_seconds: How long it waited for a place in the batch; with the first piece.
        cached_tokens: Positions of its prompt that were not read again; with the first piece.
    """

    index: int
    text: str
    num_tokens: int
    finish_reason: Literal["stop", "length"] | None = None
    queue_seconds: float | None = None
    cached_tokens: int = 0


class Backend(Protocol):
    """Decodes answers."""

    name: str

    def check(self, sampling: Sampling) -> None:
        """Refuse what this backend cannot do.

        Raises:
            ApiError: 400, with the reason.
        """

    def answer(self, prompts: Sequence[tuple[DecoderPrompt, Sampling]]) -> AsyncIterator[AnswerPart]:
        """Answer several prompts at once; closing the iterator gives them all up.

        Args:
            prompts: Each with how its tokens are chosen.
        """

    @property
    def num_decoding(self) -> int:
        """Answers on their way."""

    def close(self) -> None:
        """Stop; answers on their way end with an error."""
