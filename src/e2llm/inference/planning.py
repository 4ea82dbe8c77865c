"""What is in the decoder's window: which chunks as raw text, which as soft tokens, and how many of these.

All counts are decoder positions. A `Level` is one position of the dial: a number of soft tokens per chunk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.dial import Level
from e2llm.modeling.rates import Rate

RAW_TOKENS = 2048  # decoder positions of raw text that answer in the place of an untrained adapter


@dataclass(frozen=True)
class Plan:
    """What is in the window.

    Attributes:
        soft_tokens: Soft tokens of each chunk that is kept and not expanded; their mean, rounded up, where
            the chunks differ.
        expand: Indices of the chunks given as raw text, in document order.
        kept: Indices of all chunks that the decoder gets, in document order.
        left_out: Number of chunks that it does not get.
        positions: Positions that the input takes, the answer not included.
        window: Positions that there are; None if the decoder states none.
        max_new_tokens: Positions kept for the answer.
        rate: The one rate of the chunks; None where they differ, or the model's dial is `soft_tokens`.
        counts: Soft tokens of each chunk of `kept`, 0 for those given as raw text.
        level: The position of the dial that was chosen; None if there was no soft token to choose.
    """

    soft_tokens: int
    expand: list[int]
    kept: list[int] = field(repr=False)
    left_out: int
    positions: int
    window: int | None
    max_new_tokens: int
    rate: Rate | None = None
    counts: list[int] = field(default_factory=list, repr=False)
    level: Level | None = field(default=None, repr=False)

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
        return (
            f"{num_soft:,} chunks at {level}, {len(self.expand):,} as raw text{left_out}: "
            f"{self.positions:,} positions and {self.max_new_tokens:,} for the answer in {window}"
        )


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
    ranking = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    if only_positive:
        ranking = [index for index in ranking if scores[index] > 0]
    chosen: list[int] = []
    room = max_tokens
    for index in ranking:
        if count is not None and len(chosen) >= count:
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
    rank: Callable[[], list[float]],
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
            were chosen for the user, not those that he named.

    Raises:
        ContextOverflowError: If the input does not fit; says by how much and what to turn.
    """
    expanded = check_expanded(expand, len(token_counts))
    if overflow == "select" and may_drop and window is not None:
        expanded = _drop_to_fit(expanded, token_counts, window - overhead - max_new_tokens, rank)
    raw = overhead + sum(token_counts[index] for index in expanded)
    is_raw = set(expanded)
    soft = [index for index in range(len(token_counts)) if index not in is_raw]
    kept = list(range(len(token_counts)))
    room = None if window is None else window - raw - max_new_tokens
    level, need = levels[-1], 0
    for level in levels:
        need = sum(level.counts[index] for index in soft)
        if room is None or need <= room:
            break
    if room is not None and need > room:
        if overflow != "select" or room < 0:
            raise ContextOverflowError(
                _overflow_message(level, len(soft), need, raw, max_new_tokens, room, is_wanted)
            )
        scores = rank()
        chosen = choose_expanded(
            [scores[index] for index in soft],
            [level.counts[index] for index in soft],
            count=None,
            max_tokens=room,
            only_positive=False,
        )
        kept = sorted({*expanded, *(soft[place] for place in chosen)})
    counts = [0 if index in is_raw else level.counts[index] for index in kept]
    return plan_of(level, counts, expanded, kept, raw, len(token_counts), window, max_new_tokens)


def check_expanded(expand: Sequence[int], num_chunks: int) -> list[int]:
    """Return the chunks to expand in document order; raises `E2LLMError` if one does not exist."""
    expanded = sorted(set(expand))
    if expanded and not (expanded[0] >= 0 and expanded[-1] < num_chunks):
        there_are = f"there are 0 to {num_chunks - 1}" if num_chunks else "there are none"
        raise E2LLMError(f"expand names chunks that do not exist: {expanded}; {there_are}")
    return expanded


def plan_of(
    level: Level | None,
    counts: list[int],
    expanded: list[int],
    kept: list[int],
    raw: int,
    num_chunks: int,
    window: int | None,
    max_new_tokens: int,
) -> Plan:
    """Return the plan of chosen chunks, their soft tokens and the positions of all text."""
    total, num_soft = sum(counts), len(kept) - len(expanded)
    per_chunk = None if level is None else level.soft_tokens
    return Plan(
        soft_tokens=-(-total // max(1, num_soft)) if per_chunk is None else per_chunk,
        expand=expanded,
        kept=kept,
        left_out=num_chunks - len(kept),
        positions=raw + total,
        window=window,
        max_new_tokens=max_new_tokens,
        rate=None if level is None else level.rate,
        counts=counts,
        level=level,
    )


def plan_raw(
    token_counts: Sequence[int],
    *,
    overhead: int,
    expand: Sequence[int],
    window: int | None,
    max_new_tokens: int,
    max_tokens: int | None,
    rank: Callable[[], list[float]],
) -> Plan:
    """Answer from raw text alone, as long as an adapter is untrained: the best chunks, the others left out.

    Args:
        token_counts: Decoder tokens of each chunk.
        overhead: Positions of template, question and history.
        expand: Chunks that the user named: these and no other; empty to choose.
        window: Positions that the decoder takes; None if it states none.
        max_new_tokens: Positions kept for the answer.
        max_tokens: Most positions of chosen chunks; None for `RAW_TOKENS`.
        rank: Scores of the chunks; of equal ones the earlier is taken first, so that the first chunks are
            given where none shares a word with the question.

    Raises:
        ContextOverflowError: If the named chunks do not fit, or not one chunk does.
    """
    chosen = check_expanded(expand, len(token_counts))
    room = None if window is None else window - overhead - max_new_tokens
    if not chosen and token_counts:
        most = RAW_TOKENS if max_tokens is None else max_tokens
        most = most if room is None else min(most, room)
        chosen = choose_expanded(rank(), token_counts, count=None, max_tokens=most, only_positive=False)
        if not chosen:
            raise ContextOverflowError(
                f"the shortest chunk has {min(token_counts)} tokens, and there is room for {max(0, most)}; "
                "the adapter of this model is not trained, so that only raw text can be given: use smaller "
                "chunks, lower max_new_tokens or shorten the question"
            )
    raw = overhead + sum(token_counts[index] for index in chosen)
    if room is not None and raw - overhead > room:
        raise ContextOverflowError(_overflow_message(None, 0, 0, raw, max_new_tokens, window - raw, False))  # type: ignore[operator]
    return plan_of(
        None, [0] * len(chosen), chosen, list(chosen), raw, len(token_counts), window, max_new_tokens
    )


def _drop_to_fit(
    expanded: list[int], token_counts: Sequence[int], room: int, rank: Callable[[], list[float]]
) -> list[int]:
    """The chunks to expand without the least relevant ones, until the rest fits."""
    excess = sum(token_counts[index] for index in expanded) - room
    if excess <= 0:
        return expanded
    scores = rank()
    kept = sorted(expanded, key=lambda index: (-scores[index], index))
    while kept and excess > 0:
        excess -= token_counts[kept.pop()]
    return sorted(kept)


def _overflow_message(
    level: Level | None,
    num_soft: int,
    need: int,
    raw: int,
    max_new_tokens: int,
    room: int,
    is_wanted: bool,
) -> str:
    remedies = []
    if is_wanted and num_soft and room // num_soft >= 1 and (level is None or level.soft_tokens is None):
        remedies.append("use a coarser rate" if level and level.rate else "use fewer soft tokens per chunk")
    elif is_wanted and num_soft and level is not None and 1 <= room // num_soft < (level.soft_tokens or 0):
        remedies.append(f"use {room // num_soft} soft token(s) per chunk or fewer")
    elif num_soft and room > 0:
        fitting = room * num_soft // need
        remedies.append(f"use overflow='select' to keep the {fitting} most relevant chunks")
        remedies.append("use larger chunks")
    remedies.append("lower max_new_tokens, shorten the question or expand fewer chunks")
    what = f"{num_soft} chunks at {level.name}, " if level is not None else ""
    return (
        f"{what}{raw} tokens of text, question and template, and {max_new_tokens} new tokens need "
        f"{need + raw + max_new_tokens} positions; the decoder's window has "
        f"{room + raw + max_new_tokens}: {need - room} too many; {', or '.join(remedies)}"
    )


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
    where the coarsest does. The rest goes to the raw text of the best chunks, each in the place of its soft
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
    expand: list[int] = []
    for index in sorted(range(len(scores)), key=lambda index: (-scores[index], index)):
        cost = token_counts[index] - level.counts[index]
        if cost <= free:
            free -= cost
            expand.append(index)
    return make_plan(
        token_counts,
        levels,
        overhead=overhead,
        expand=expand,
        window=window,
        max_new_tokens=max_new_tokens,
        is_wanted=False,
        overflow=overflow,
        rank=lambda: list(scores),
    )
