"""Streaming: the pieces of an answer as its tokens come, and a way to stop."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

_UNFINISHED = "\ufffd"  # what bytes of a character decode to until its last one has come


class PieceStreamer(BaseStreamer):  # type: ignore[misc]
    """Turns new tokens into pieces of text; the pieces joined are the decoded answer.

    White space at the end and characters that are not yet whole are held back until more comes.

    Args:
        decode: Token ids `[N]` of an answer so far to its text, without white space around it.
        emit: Called with each piece, from the thread that generates.
    """

    def __init__(self, decode: Callable[[list[int]], str], emit: Callable[[str], Any]) -> None:
        self._decode = decode
        self._emit = emit
        self._ids: list[int] = []
        self._num_emitted = 0
        self._saw_prompt = False

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt (first call, passed over) or new tokens."""
        if not self._saw_prompt:
            self._saw_prompt = True
            return
        self._ids += value.flatten().tolist()
        self._emit_from(self._decode(self._ids).rstrip(_UNFINISHED).rstrip())

    def end(self) -> None:
        """Emit what is still held back."""
        self._emit_from(self._decode(self._ids))

    def _emit_from(self, text: str) -> None:
        if len(text) > self._num_emitted:
            self._emit(text[self._num_emitted :])
            self._num_emitted = len(text)


class FirstTokenClock(BaseStreamer):  # type: ignore[misc]
    """Notes when the first new token comes, and passes all on to another streamer."""

    def __init__(self, inner: BaseStreamer | None = None) -> None:
        self.inner = inner
        self.first_token_at: float | None = None
        self._saw_prompt = False

    def put(self, value: torch.Tensor) -> None:
        """The first call brings the prompt, the second the first token."""
        if self._saw_prompt and self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        self._saw_prompt = True
        if self.inner is not None:
            self.inner.put(value)

    def end(self) -> None:
        """Tell the other streamer."""
        if self.inner is not None:
            self.inner.end()


class StopEvent(StoppingCriteria):  # type: ignore[misc]
    """Stops generation when its event is set."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """One verdict per row."""
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


class AnswerText:
    """An answer's text as its tokens come; the pieces told joined are the text.

    What may still become one of the stop texts is held back until more comes.

    Args:
        decode: Token ids of an answer so far to its text, without white space around it.
        stop: Texts that end the answer; they are not told.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        self._held = ""
        self._told: list[str] = []
        self._stop = tuple(stop)
        self._new: list[str] = []
        self._streamer = PieceStreamer(decode, self._new.append)
        self._streamer.put(torch.empty(0, dtype=torch.long))  # the prompt, passed over
        self.stopped = False

    @property
    def text(self) -> str:
        """What has been told."""
        return "".join(self._told)

    def put(self, token: int) -> str:
        """Take a token; returns the piece that can be told now, which may be empty."""
        if self.stopped:
            return ""
        self._streamer.put(torch.tensor([token]))
        return self._tell(at_end=False)

    def end(self) -> str:
        """The answer is complete: returns what was still held back."""
        if self.stopped:
            return ""
        self._streamer.end()
        return self._tell(at_end=True)

    def _tell(self, *, at_end: bool) -> str:
        text = self._held + "".join(self._new)
        self._new.clear()
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        keep = 0
        if places:
            text, self.stopped = text[: min(places)], True
        elif not at_end:
            keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        piece = text[: len(text) - keep]
        if piece:
            self._told.append(piece)
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a start of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
