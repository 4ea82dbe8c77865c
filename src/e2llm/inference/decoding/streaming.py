"""Stream the pieces of an answer as its tokens come, and stop on request."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

_UNFINISHED = "\ufffd"  # an incomplete character decodes to this


class AnswerText:
    """Turn tokens into pieces of text as they come; joined, the pieces are the answer.

    White space at the end, incomplete characters, and the possible beginning of a stop text
    are held back until more tokens come.

    Args:
        decode: Converts the answer's token ids so far to text, without surrounding white space.
        stop: Texts that end the answer and are not part of it.

    Attributes:
        text: All pieces so far.
        stopped: Whether a stop text ended the answer.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self.text = ""
        self.stopped = False

    def put(self, *tokens: int) -> str:
        """Add tokens, and return the piece of text that is now certain, which may be empty."""
        if self.stopped:
            return ""
        self._ids += tokens
        return self._next_piece(self._decode(self._ids).rstrip(_UNFINISHED).rstrip(), at_end=False)

    def end(self) -> str:
        """End the answer, and return the text that was still held back."""
        return "" if self.stopped else self._next_piece(self._decode(self._ids), at_end=True)

    def _next_piece(self, text: str, *, at_end: bool) -> str:
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if places:
            text, self.stopped = text[: min(places)], True
        elif not at_end:
            text = text[: len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)]
        piece = text[len(self.text) :]
        self.text += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class PieceStreamer(BaseStreamer):  # type: ignore[misc]
    """Call `emit` with each piece of an answer, from the generating thread.

    Args:
        decode: See `AnswerText`.
        emit: Called with each piece.
    """

    def __init__(self, decode: Callable[[list[int]], str], emit: Callable[[str], Any]) -> None:
        self._text = AnswerText(decode)
        self._emit = emit
        self._saw_prompt = False

    def put(self, value: torch.Tensor) -> None:
        """Add new tokens; the first call brings the prompt and is ignored."""
        if self._saw_prompt:
            self._pass_on(self._text.put(*value.flatten().tolist()))
        self._saw_prompt = True

    def end(self) -> None:
        """Emit the text that was still held back."""
        self._pass_on(self._text.end())

    def _pass_on(self, piece: str) -> None:
        if piece:
            self._emit(piece)


class FirstTokenClock(BaseStreamer):  # type: ignore[misc]
    """Record the time of the first new token, and pass all tokens on to another streamer."""

    def __init__(self, inner: BaseStreamer | None = None) -> None:
        self.inner = inner
        self.first_token_at: float | None = None
        self._saw_prompt = False

    def put(self, value: torch.Tensor) -> None:
        """Pass tokens on; the first call brings the prompt, the second the first token."""
        if self._saw_prompt and self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        self._saw_prompt = True
        if self.inner is not None:
            self.inner.put(value)

    def end(self) -> None:
        """End the other streamer."""
        if self.inner is not None:
            self.inner.end()


class StopEvent(StoppingCriteria):  # type: ignore[misc]
    """Stop generation when an event is set."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return for each row whether to stop."""
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)
