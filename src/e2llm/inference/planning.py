"""One plan of the decoder's window: which chunks as raw text, which as soft tokens, and how many of these.

All counts are decoder positions. A `Level` is one position of the dial: a number of soft tokens per chunk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.dial import Level
from e2llm.modeling.rates import Rate

RAW_TOKENS = 2048  # decoder positions of raw text that answer instead of an untrained adapter

Scores = Callable[[], list[float]]


@dataclass(frozen=True)
class Plan:
    """What is in the window.

    Attributes:
        expand: Indices of the chunks given as raw text, in document order.
        kept: Indices of all chunks that the decoder gets, in document order.
        counts: Soft tokens of each chunk of `kept`, 0 for those given as raw text.
        level: The chosen position of the dial; None where raw text alone answers.
        num_chunks: Chunks of the context.
        num_text: Positions of template, question, history and expanded chunks.
        window: Positions of the window; None if the decoder states none.
        max_new_tokens: Positions kept for the answer.
    """

    expand: list[int]
    kept: list[int] = field(repr=False)
    counts: list[int] = field(repr=False)
    level: Level | None
    num_chunks: int
    num_text: int
    window: int | None
    max_new_tokens: int

    @property
    def rate(self) -> Rate | None:
        """The one rate of the chunks; None where they differ, or the model's dial is `soft_tokens`."""
        return None if self.level is None else self.level.rate

    @property
    def soft_tokens(self) -> int:
        """Soft tokens of each chunk that is not expanded; their mean, rounded up, where the chunks differ."""
        if self.level is not None and self.level.soft_tokens is not None:
            return self.level.soft_tokens
        return -(-sum(self.counts) // max(1, len(self.kept) - len(self.expand)))

    @property
    def left_out(self) -> int:
        """Number of chunks that the decoder does not get."""
        return self.num_chunks - len(self.kept)

    @property
    def positions(self) -> int:
        """Positions that the input takes, the answer not included."""
        return self.num_text + sum(self.counts)

    @property
    def options(self) -> dict[str, Any]:
        """The options of `Engine.ask` that lay a context out like this."""
        dial = {"soft_tokens": self.soft_tokens} if self.rate is None else {"rate": self.rate}
        return {**(dial if self.level is not None else {}), "expand": self.expand}

    def __str__(self) -> str:
        window = "no stated window" if self.window is None else f"a window of {self.window:,}"
        left_out = f", {self.left_out:,} chunks left out" if self.left_out else ""
        num_soft = len(self.kept) - len(self.expand)
        level = f"{self.soft_tokens} soft token(s)"
        if self.rate is not None:
            level = f"rate {self.rate} ({sum(self.counts):,} soft tokens)"
        soft = f"{num_soft:,} chunks at {level}, " if num_soft else ""
        return (
            f"{soft}{len(self.expand):,} {'' if soft else 'chunks '}as raw text{left_out}: "
            f"{self.positions:,} positions and {self.max_new_tokens:,} for the answer in {window}"
        )


def best_first(scores: Sequence[float]) -> list[int]:
    """Return the indices of scores, the highest first; of equal ones the earlier first."""
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index))


def choose_expanded(
    scores: Sequence[float],
    token_counts: Sequence[int],
    *,
    count: int | None,
    max_tokens: int | None,
    only_positive: bool,
) -> list[int]:
    """Choose the chunks to expand: the best first, within a number and a budget.

    Args:
        scores: One per chunk; higher is more relevant.
        token_counts: Decoder tokens of each chunk.
        count: Most chunks; None for any number.
        max_tokens: Most tokens of them all; None for any number. A chunk that exceeds what is left is passed
            over, and shorter ones after it still count.
        only_positive: Leave out chunks that share no word with the question, as BM25 scores them 0.

    Returns:
        Indices in document order.
    """
    chosen: list[int] = []
    room = max_tokens
    for index in best_first(scores):
        if (only_positive and scores[index] <= 0) or len(chosen) == count:
            break
        if room is not None:
            if token_counts[index] > room:
                continue
            room -= token_counts[index]
        chosen.append(index)
    return sorted(chosen)


def make_plan(
    token_counts: Sequence[int],
    levels: Sequence[Level],
    *,
    overhead: int,
    expand: Sequence[int],
    window: int | None,
    max_new_tokens: int,
    is_wanted: bool,
    overflow: str,
    rank: Scores,
    may_drop: bool = False,
) -> Plan:
    """Lay out a context around chosen raw chunks.

    Args:
        token_counts: Decoder tokens of each chunk.
        levels: Positions of the dial to try; the first that fits is taken, and the last where none does.
        overhead: Positions of template, question and history.
        expand: Chunks to give as raw text.
        window: Positions that the decoder takes; None if it states none.
        max_new_tokens: Positions kept for the answer.
        is_wanted: Whether the user chose the level.
        overflow: `error`, or `select` to keep the chunks most relevant to the question.
        rank: Scores of the chunks, called if some must be left out.
        may_drop: Whether `select` may also take chunks out of `expand`, the least relevant first: those that
            were chosen for the user, not those that the user named.

    Raises:
        ContextOverflowError: If the input does not fit; says by how much and what to turn.
    """
    expanded = check_expanded(expand, len(token_counts))
    room = None if window is None else window - overhead - max_new_tokens
    if room is not None and overflow == "select" and may_drop:
        expanded = _keep_best(expanded, token_counts, room, rank)
    raw = sum(token_counts[index] for index in expanded)
    is_raw = set(expanded)
    soft = [index for index in range(len(token_counts)) if index not in is_raw]
    level, need = levels[-1], 0
    for level in levels:
        need = sum(level.counts[index] for index in soft)
        if room is None or raw + need <= room:
            break
    if room is not None and raw + need > room:
        if overflow != "select" or raw > room:
            raise _overflow(level, len(soft), need, overhead + raw, max_new_tokens, room - raw, is_wanted)
        soft = _keep_best(soft, level.counts, room - raw, rank)
    kept = sorted([*expanded, *soft])
    counts = [0 if index in is_raw else level.counts[index] for index in kept]
    return Plan(expanded, kept, counts, level, len(token_counts), overhead + raw, window, max_new_tokens)


def check_expanded(expand: Sequence[int], num_chunks: int) -> list[int]:
    """Return the chunks to expand in document order; raises `E2LLMError` if one does not exist."""
    expanded = sorted(set(expand))
    if expanded and not (expanded[0] >= 0 and expanded[-1] < num_chunks):
        there_are = f"there are 0 to {num_chunks - 1}" if num_chunks else "the context has no chunks"
        raise E2LLMError(f"expand names chunks that do not exist: {expanded}; {there_are}")
    return expanded


def _keep_best(indices: list[int], sizes: Sequence[int], room: int, rank: Scores) -> list[int]:
    """Return those of some chunks that fit, the most relevant first, in document order."""
    if sum(sizes[index] for index in indices) <= room:
        return indices
    scores = rank()
    chosen = choose_expanded(
        [scores[index] for index in indices],
        [sizes[index] for index in indices],
        count=None,
        max_tokens=room,
        only_positive=False,
    )
    return [indices[place] for place in chosen]


def _overflow(
    level: Level, num_soft: int, need: int, text: int, max_new_tokens: int, room: int, is_wanted: bool
) -> ContextOverflowError:
    """Return the error of `num_soft` chunks that need more positions than the `room` beside the text."""
    remedies = []
    if num_soft and room >= num_soft and is_wanted:
        fewer = f"use at most {room // num_soft} soft token(s) per chunk"
        remedies.append("use a coarser rate" if level.rate else fewer)
    elif num_soft and room > 0:
        fitting = room * num_soft // need
        remedies.append(f"use overflow='select' to keep the {fitting} most relevant chunks")
        remedies.append("use larger chunks")
    remedies.append("lower max_new_tokens, shorten the question or expand fewer chunks")
    return ContextOverflowError(
        f"{num_soft} chunks at {level.name}, {text} tokens of text, question and template, and "
        f"{max_new_tokens} new tokens need {need + text + max_new_tokens} positions; the decoder's window "
        f"has {room + text + max_new_tokens}: {need - room} too many; {', or '.join(remedies)}"
    )


def plan_raw(
    token_counts: Sequence[int],
    *,
    overhead: int,
    expand: Sequence[int],
    window: int | None,
    max_new_tokens: int,
    max_tokens: int | None,
    rank: Scores,
) -> Plan:
    """Answer from raw text alone, as long as an adapter is untrained: the best chunks, the others left out.

    Args:
        token_counts: Decoder tokens of each chunk.
        overhead: Positions of template, question and history.
        expand: Chunks that the user named: these and no other; empty to choose.
        window: Positions that the decoder takes; None if it states none.
        max_new_tokens: Positions kept for the answer.
        max_tokens: Most positions of chosen chunks; None for `RAW_TOKENS`.
        rank: Scores of the chunks. Where none shares a word with the question, the first chunks are given.

    Raises:
        ContextOverflowError: If the named chunks do not fit, or not one chunk does.
    """
    chosen = check_expanded(expand, len(token_counts))
    room = window - overhead - max_new_tokens if window is not None else None
    most = RAW_TOKENS if max_tokens is None else max_tokens
    most = most if room is None else min(most, room)
    if not chosen:
        chosen = choose_expanded(rank(), token_counts, count=None, max_tokens=most, only_positive=False)
    raw = sum(token_counts[index] for index in chosen)
    if (room is not None and raw > room) or (token_counts and not chosen):
        raise ContextOverflowError(
            "the adapter of this model is not trained, so that only raw text can be given: the chunks take "
            f"{raw or min(token_counts)} positions, and there is room for {max(0, most)}; use smaller or "
            "fewer chunks, lower max_new_tokens or shorten the question"
        )
    counts = [0] * len(chosen)
    return Plan(chosen, chosen, counts, None, len(token_counts), overhead + raw, window, max_new_tokens)


def fill_window(
    token_counts: Sequence[int],
    levels: Sequence[Level],
    scores: Sequence[float],
    *,
    overhead: int,
    window: int,
    max_new_tokens: int,
    overflow: str,
) -> Plan:
    """Choose the level and the raw chunks so that together they fill a window (chosen here).

    Soft tokens take at most half of the room, so the level is the finest that allows; they take more only
    where the coarsest does. The rest goes to the raw text of the best chunks, each instead of its soft
    tokens. If chunks remain soft and positions free after that, a finer level takes them.

    Args:
        token_counts: Decoder tokens of each chunk.
        levels: Positions of the dial, most soft tokens first.
        scores: Relevance of each chunk; equal ones favour the earlier chunk.
        overhead: Positions of template and question.
        window: Positions to fill.
        max_new_tokens: Positions kept for the answer.
        overflow: `error`, or `select` for contexts that do not fit at one soft token per chunk.

    Raises:
        ContextOverflowError: If one soft token per chunk does not fit.
    """
    room = max(0, window - overhead - max_new_tokens)
    level = next((item for item in levels if sum(item.counts) <= room // 2), levels[-1])
    free = room - sum(level.counts)
    if free < 0 and overflow == "select":
        free = room // 2
    costs = [size - count for size, count in zip(token_counts, level.counts, strict=True)]
    return make_plan(
        token_counts,
        levels,
        overhead=overhead,
        expand=choose_expanded(scores, costs, count=None, max_tokens=free, only_positive=False),
        window=window,
        max_new_tokens=max_new_tokens,
        is_wanted=False,
        overflow=overflow,
        rank=lambda: list(scores),
    )
