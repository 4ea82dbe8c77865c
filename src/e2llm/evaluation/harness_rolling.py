"""The likelihood of a whole text, in windows: each token is predicted once.

The first window is plain text. In a later one the decoder has no room for what it has read; with
`rolling="compress"` that stands before the window as soft tokens, the latest chunks where not all fit (chosen
here), with `rolling="plain"` the decoder sees one token of it, as with lm_eval's `hf`.
"""

from collections import Counter

import torch

from e2llm.errors import ContextOverflowError
from e2llm.evaluation.harness_prompts import RawText
from e2llm.evaluation.harness_scoring import TokenScorer
from e2llm.evaluation.harness_settings import HarnessSettings
from e2llm.inference.context import Context
from e2llm.inference.engine import Engine
from e2llm.inference.reader import soft_tokens_of


class RollingScorer:
    """Scores texts of any length.

    Args:
        engine: Reads what stands before a window.
        settings: `rolling`, `soft_tokens`, `rate` and `raw_tokens` count; half of the window is raw by
            default.
        max_length: Positions of a window.
        raw_text: Encodes the text.
        scorer: Scores a window.
        counts: Counts texts and windows.
    """

    def __init__(
        self,
        engine: Engine,
        settings: HarnessSettings,
        max_length: int,
        raw_text: RawText,
        scorer: TokenScorer,
        counts: Counter[str],
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._max_length = max_length
        self._raw_text = raw_text
        self._scorer = scorer
        self._counts = counts

    def score(self, text: str) -> float:
        """Log-likelihood of a text in nats; what the tokenizer puts before a text counts to it.

        Raises:
            ContextOverflowError: If `raw_tokens` leaves no room for one chunk.
        """
        compresses = self._settings.compresses and self._settings.rolling == "compress"
        compresses = compresses and not self._engine.dial.answers_raw(self._settings.rate)
        ids, places = self._raw_text.encode_with_places(text, offsets=compresses)
        whole = self._raw_text.encode(text, at_start=True)
        ids, places = whole, [0] * (len(whole) - len(ids)) + places
        if not ids:
            return 0.0
        self._counts["rolling texts"] += 1
        first = self._raw_text.prefix_id
        first = ids[0] if first is None else first
        if not compresses or len(ids) <= self._max_length:
            return self._score_plain(ids, first)
        return self._score_compressed(text, ids, places, first)

    def _score_plain(self, ids: list[int], first: int) -> float:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = get_rolling_token_windows(ids, first, self._max_length, context_len=1)
        total = 0.0
        for before, scored in map(make_disjoint_window, windows):
            total += self._scorer.score([*before, *scored], len(scored))[0]
            self._counts["plain windows"] += 1
        return total

    def _score_compressed(self, text: str, ids: list[int], places: list[int], first: int) -> float:
        history = self._engine.new_context()
        total, done, num_read = 0.0, 0, 0
        while done < len(ids):
            if text[num_read : places[done]].strip():
                history.append(text[num_read : places[done]])
                num_read = places[done]
            soft_tokens = self._latest(history)
            num_soft = 0 if soft_tokens is None else len(soft_tokens)
            count = min(self._max_length - num_soft, len(ids) - done)
            head = [first, *[self._engine.processor.chunk_token_id] * num_soft]
            window = ids[done : done + count]
            total += self._scorer.score([*head, *window], count, soft_tokens, (text, done))[0]
            done += count
            self._counts["windows after soft tokens" if num_soft else "plain windows"] += 1
        return total

    def _latest(self, history: Context) -> torch.Tensor | None:
        """`[R, D]` soft tokens of the latest chunks that fit beside the raw text."""
        if not len(history):
            return None
        raw = self._settings.raw_tokens or self._max_length // 2
        room = self._max_length - raw
        read = history.content.read
        levels = self._engine.dial.levels(
            read.num_tokens.tolist(), self._settings.soft_tokens, self._settings.rate
        )
        level = next((item for item in levels if sum(item.counts) <= room), levels[-1])
        first, left = len(history), room
        while first and level.counts[first - 1] <= left:
            first -= 1
            left -= level.counts[first]
        if first == len(history):
            raise ContextOverflowError(
                f"{raw} raw tokens in a window of {self._max_length} leave no room for the "
                f"{level.counts[-1]} soft token(s) of a chunk; lower raw_tokens"
            )
        latest = range(first, len(history))
        return soft_tokens_of(self._engine.model, read, latest, [level.counts[index] for index in latest])
