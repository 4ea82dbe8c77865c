"""What stands in the decoder's window: which chunks as raw text, which as soft tokens, and how many of these.

All counts are decoder positions. The number of soft tokens per chunk is called K.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.selection import best
from e2llm.surrogates import reject_lone_surrogates

SELECTORS = ("bm25", "encoder")
OVERFLOWS = ("error", "select")


@dataclass(frozen=True)
class Request:
    """A question and how its context is to be laid out; `Engine.ask` describes the fields.

    Raises:
        E2LLMError: If a field is out of its range.
    """

    question: str
    max_new_tokens: int
    soft_tokens: int | None = None
    expand: int | Sequence[int] = ()
    expand_tokens: int | None = None
    select: str = "bm25"
    raw_below: float | None = None
    overflow: str = "error"
    history: Sequence[tuple[str, str]] = ()
    window: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.question, str) or not self.question.strip():
            raise E2LLMError(f"the question is empty or no text: {self.question!r}")
        reject_lone_surrogates(self.question, "the question")
        _check_count("max_new_tokens", self.max_new_tokens, least=1)
        if self.soft_tokens is not None and type(self.soft_tokens) is not int:
            raise E2LLMError(f"soft_tokens must be a whole number, got {self.soft_tokens!r}")
        if isinstance(self.expand, bool) or not isinstance(self.expand, int | Sequence):
            raise E2LLMError(f"expand takes a number of chunks or a list of indices, got {self.expand!r}")
        if isinstance(self.expand, int):
            _check_count("expand", self.expand, least=0)
        elif isinstance(self.expand, str) or not all(type(index) is int for index in self.expand):
            raise E2LLMError(f"expand takes a number of chunks or a list of indices, got {self.expand!r}")
        if self.expand_tokens is not None:
            _check_count("expand_tokens", self.expand_tokens, least=0)
            if not isinstance(self.expand, int) and len(self.expand):
                raise E2LLMError("expand_tokens goes with a number of chunks, not with a list of indices")
        if self.window is not None:
            _check_count("window", self.window, least=1)
        if self.select not in SELECTORS:
            raise E2LLMError(f"select={self.select!r} is unknown; choose one of: {', '.join(SELECTORS)}")
        if self.overflow not in OVERFLOWS:
            raise E2LLMError(f"overflow={self.overflow!r} is unknown; choose one of: {', '.join(OVERFLOWS)}")
        if self.raw_below is not None and not (
            isinstance(self.raw_below, int | float) and 0 <= self.raw_below <= 1
        ):
            raise E2LLMError(f"raw_below must be from 0 to 1, got {self.raw_below!r}")
        for turn in self.history if isinstance(self.history, Sequence) else [self.history]:
            is_pair = isinstance(turn, tuple | list) and len(turn) == 2
            if not is_pair or not all(isinstance(text, str) for text in turn):
                raise E2LLMError(f"history takes pairs (question, answer), got {turn!r}")

    @classmethod
    def take(cls, question: str, max_new_tokens: int, options: dict[str, Any]) -> "Request":
        """Make a request of the options that are its fields; they are taken out of `options`."""
        names = [item.name for item in fields(cls) if item.name in options]
        return cls(question, max_new_tokens, **{name: options.pop(name) for name in names})

    @property
    def ranks(self) -> bool:
        """Whether chunks have to be chosen by the question."""
        return self.expand_tokens is not None or (isinstance(self.expand, int) and self.expand > 0)


def _check_count(name: str, value: object, *, least: int) -> None:
    if type(value) is not int or value < least:
        raise E2LLMError(f"{name} must be {least} or more, a whole number, got {value!r}")


@dataclass(frozen=True)
class Plan:
    """What stands in the window.

    Attributes:
        soft_tokens: K, for each chunk that is kept and not expanded.
        expand: Indices of the chunks given as raw text, in document order.
        kept: Indices of all chunks that the decoder gets, in document order.
        left_out: Number of chunks that it does not get.
        positions: Positions that the input takes, the answer not included.
        window: Positions that there are; None if the decoder states none.
        max_new_tokens: Positions kept for the answer.
    """

    soft_tokens: int
    expand: list[int]
    kept: list[int] = field(repr=False)
    left_out: int
    positions: int
    window: int | None
    max_new_tokens: int

    def __str__(self) -> str:
        window = "no stated window" if self.window is None else f"a window of {self.window:,}"
        left_out = f", {self.left_out:,} chunks left out" if self.left_out else ""
        return (
            f"{len(self.kept) - len(self.expand):,} chunks at {self.soft_tokens} soft token(s), "
            f"{len(self.expand):,} as raw text{left_out}: {self.positions:,} positions and "
            f"{self.max_new_tokens:,} for the answer in {window}"
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
    *,
    overhead: int,
    expand: Sequence[int],
    window: int | None,
    max_new_tokens: int,
    wanted: int | None,
    limit: int,
    overflow: str,
    rank: Callable[[], list[float]],
    may_drop: bool = False,
) -> Plan:
    """Lay out a context around chosen raw chunks.

    Args:
        token_counts: Decoder tokens of each chunk.
        overhead: Positions of template, question and history.
        expand: Chunks to give as raw text.
        window: Positions that the decoder takes; None if it states none.
        max_new_tokens: Positions kept for the answer.
        wanted: K if the user chose it; else the largest that fits.
        limit: The model's largest K.
        overflow: `error`, or `select` to keep the chunks most relevant to the question.
        rank: Scores of the chunks, called if some must be left out.
        may_drop: Whether `select` may also take chunks out of `expand`, the least relevant first: those that
            were chosen for the user, not those that he named.

    Raises:
        ContextOverflowError: If the input does not fit; says by how much and what to turn.
    """
    expanded = sorted(set(expand))
    if expanded and not (expanded[0] >= 0 and expanded[-1] < len(token_counts)):
        there_are = f"there are 0 to {len(token_counts) - 1}" if token_counts else "there are none"
        raise E2LLMError(f"expand names chunks that do not exist: {expanded}; {there_are}")
    if overflow == "select" and may_drop and window is not None:
        expanded = _drop_to_fit(expanded, token_counts, window - overhead - max_new_tokens, rank)
    raw = overhead + sum(token_counts[index] for index in expanded)
    num_soft = len(token_counts) - len(expanded)
    kept = list(range(len(token_counts)))
    room = None if window is None else window - raw - max_new_tokens
    per_chunk = wanted or limit
    if room is not None and num_soft:
        per_chunk = wanted or max(1, min(limit, room // num_soft))
    if room is not None and num_soft * per_chunk > room:
        if overflow != "select" or room < 0:
            raise ContextOverflowError(
                _overflow_message(num_soft, per_chunk, raw, max_new_tokens, room, wanted is not None)
            )
        scores = rank()
        soft = set(kept) - set(expanded)
        chosen = best([scores[index] if index in soft else -1e9 for index in kept], room // per_chunk)
        kept = sorted({*expanded, *(index for index in chosen if index in soft)})
    return Plan(
        soft_tokens=per_chunk,
        expand=expanded,
        kept=kept,
        left_out=len(token_counts) - len(kept),
        positions=raw + (len(kept) - len(expanded)) * per_chunk,
        window=window,
        max_new_tokens=max_new_tokens,
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
    num_soft: int, per_chunk: int, raw: int, max_new_tokens: int, room: int, is_wanted: bool
) -> str:
    remedies = []
    if is_wanted and num_soft and 1 <= room // num_soft < per_chunk:
        remedies.append(f"use {room // num_soft} soft token(s) per chunk or fewer")
    elif num_soft and room > 0:
        remedies.append(f"use overflow='select' to keep the {room // per_chunk} most relevant chunks")
        remedies.append("use larger chunks")
    remedies.append("lower max_new_tokens, shorten the question or expand fewer chunks")
    need = num_soft * per_chunk
    return (
        f"{num_soft} chunks at {per_chunk} soft token(s) each, {raw} tokens of text, question and template, "
        f"and {max_new_tokens} new tokens need {need + raw + max_new_tokens} positions; the decoder's window "
        f"has {room + raw + max_new_tokens}: {need - room} too many; {', or '.join(remedies)}"
    )


def fill_window(
    token_counts: Sequence[int],
    scores: Sequence[float],
    *,
    overhead: int,
    window: int,
    max_new_tokens: int,
    limit: int,
    overflow: str,
) -> Plan:
    """Choose K and the raw chunks so that together they fill a window (chosen here).

    Soft tokens take at most half of the room, so K is the largest that allows; they take more only where one
    per chunk does. The rest goes to the raw text of the best chunks, each in the place of its soft tokens. If
    chunks remain soft and positions free after that, K grows into them.

    Args:
        token_counts: Decoder tokens of each chunk.
        scores: Relevance of each chunk; equal ones favour the earlier chunk.
        overhead: Positions of template and question.
        window: Positions to fill.
        max_new_tokens: Positions kept for the answer.
        limit: The model's largest K.
        overflow: `error`, or `select` for contexts that do not fit at K = 1.

    Raises:
        ContextOverflowError: If one soft token per chunk does not fit.
    """
    room = max(0, window - overhead - max_new_tokens)
    per_chunk = max(1, min(limit, room // 2 // max(1, len(token_counts))))
    free = room - per_chunk * len(token_counts)
    if free < 0 and overflow == "select":
        free = room // 2
    expand: list[int] = []
    for index in sorted(range(len(scores)), key=lambda index: (-scores[index], index)):
        cost = token_counts[index] - per_chunk
        if cost <= free:
            free -= cost
            expand.append(index)
    return make_plan(
        token_counts,
        overhead=overhead,
        expand=expand,
        window=window,
        max_new_tokens=max_new_tokens,
        wanted=None,
        limit=limit,
        overflow=overflow,
        rank=lambda: list(scores),
    )
