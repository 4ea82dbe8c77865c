"""Systems that read the whole text into a cache of keys and values, and answer from what the cache holds."""

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item
from e2llm.evaluation.systems import Cost, Output, System, View, raw_view
from e2llm.inference.decoding.likelihood import Likelihood, answer_ids, likelihood_of
from e2llm.measuring import PeakMemory
from e2llm.modeling.raw_text import RawText


class ReadCache(Protocol):
    """A decoder with a cache that has read something."""

    @property
    def most(self) -> int:
        """The most positions that it held at a time, between two calls."""

    @property
    def room(self) -> int:
        """Positions that may be of the context."""

    def feed(self, ids: Sequence[int], *, all_logits: bool = False) -> torch.Tensor:
        """Read on; returns the logits behind the last token `[1, V]`, or behind each `[len(ids), V]`."""


@dataclass
class CacheSystem(System):
    """The whole text is read, the cache decides what of it stays; answers are greedy."""

    @abstractmethod
    def prefill(self, context_ids: list[int], question_ids: list[int], max_new_tokens: int) -> ReadCache:
        """Read a context.

        Args:
            context_ids: Ids up to the end of the context.
            question_ids: Ids from there to the answer, which will be read next.
            max_new_tokens: Longest answer.

        Raises:
            ContextOverflowError: If the system refuses it.
        """

    def view(self, item: Item, max_new_tokens: int) -> View:
        """The whole text; the cache decides what of it stays."""
        return raw_view(RawText.whole(item.context))

    def answer(self, item: Item, max_new_tokens: int) -> Output:
        """Answer greedily after reading everything."""
        started = time.perf_counter()
        with PeakMemory(self.engine.device) as memory:
            cache, logits, read_seconds = self._read(item, max_new_tokens)
            ids = [self._choose(logits)]
            first = time.perf_counter() - started
            while len(ids) < max_new_tokens and ids[-1] not in self._ends:
                ids.append(self._choose(cache.feed(ids[-1:])[-1]))
            rest = time.perf_counter() - started - first
        tokens = self.readings.count_tokens(item.context)
        cost = Cost(
            decoder_positions=cache.most,
            context_tokens=min(tokens, cache.room),
            context_fraction=min(1.0, cache.room / max(1, tokens)),
            read_seconds=read_seconds,
            first_token_seconds=first - read_seconds,
            ms_per_token=1000 * rest / (len(ids) - 1) if len(ids) > 1 else None,
            peak_extra_bytes=memory.extra_bytes,
            new_tokens=len(ids),
        )
        given = {"soft_tokens_per_chunk": 0, "raw_spans": [[0, len(item.context)]], "left_out": 0}
        return Output(self.engine.processor.decode_answer(ids), cost, given)

    def score(self, item: Item, texts: Sequence[str]) -> list[Likelihood]:
        """Score each text after reading everything; the context is read anew for each."""
        rows = [answer_ids(self.engine.processor, text) for text in texts]
        longest = max(map(len, rows))
        results = []
        for targets in rows:
            cache, logits, _ = self._read(item, longest)
            steps = [logits[None]]
            if len(targets) > 1:
                steps.append(cache.feed(targets[:-1], all_logits=True))
            results.append(likelihood_of(torch.cat(steps), targets))
        return results

    def _read(self, item: Item, max_new_tokens: int) -> tuple[ReadCache, torch.Tensor, float]:
        """Read up to the answer: the cache, the next token's logits `[V]`, and the context's seconds."""
        before = self.engine.processor.template.before_context
        context = self.readings.token_ids(item.context) if item.context.strip() else []
        question = self.readings.question_ids(item.prompt)[len(before) :]
        started = time.perf_counter()
        cache = self.prefill([*before, *context], question, max_new_tokens)
        read_seconds = time.perf_counter() - started
        return cache, cache.feed(question)[-1], read_seconds

    @property
    def _ends(self) -> set[int]:
        ends = self.engine.model.generation_config.eos_token_id
        return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)

    def _choose(self, logits: torch.Tensor) -> int:
        """The likeliest token that is no placeholder."""
        logits = logits.clone()
        logits[self.engine.processor.chunk_token_id] = -torch.inf
        return int(logits.argmax())


def reject_sliding_window(config: Any, user: str) -> None:
    """Raise `E2LLMError` for a decoder whose own attention drops old positions."""
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise E2LLMError(f"{config.model_type} has a sliding window of its own; {user} needs full attention")
