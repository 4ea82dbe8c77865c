"""From an answer's tokens, as they come, to text that can be told at once, and to the texts that end it."""

from collections.abc import Callable, Sequence

import torch

from e2llm.inference.streaming import PieceStreamer


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
