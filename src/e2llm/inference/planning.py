"""Plan the decoder's window: give each chunk text, soft tokens at some rate, or nothing.

All sizes are decoder positions. Chunks are ranked by relevance. A policy spends a budget in that
order: text for the first, finer rates for those that follow, one soft token for the rest.
"""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.dial import Level
from e2llm.messages import counted
from e2llm.modeling.rates import TEXT_LEVEL, Rate

DEFAULT_BUDGET = 2048  # most positions of the input, unless the user sets a budget
TEXT_FORM = -1  # the form of a chunk given as text; other forms are indices of levels


@dataclass(frozen=True)
class Policy:
    """A rule for spending a budget on ranked chunks.

    Attributes:
        name: Its name among the options of a question.
        gives_text: Whether the best chunks are given as text.
        widths: For each level, finest first: for each chunk given as text, how many of the chunks
            next in rank are given at that level. All others have the coarsest level.
        coarse_share: Largest share of the room for the coarsest level, which is given first, 0 to 1;
            chunks that do not fit in it get nothing.
        is_uniform: Whether all chunks get the same form, the finest that fits.
    """

    name: str
    gives_text: bool = True
    widths: tuple[int, ...] = ()
    coarse_share: float = 0.5
    is_uniform: bool = False


POLICIES = {
    policy.name: policy
    for policy in (
        Policy("mixed"),
        Policy("raw", coarse_share=0.0),
        Policy("soft", gives_text=False, widths=(1, 2, 4, 8), coarse_share=1.0),
        Policy("uniform", coarse_share=1.0, is_uniform=True),
    )
}


@dataclass(frozen=True)
class Plan:
    """The chunks in the decoder's window and their forms.

    Attributes:
        kept: Indices of all chunks that the decoder gets, in document order.
        levels: The form of each: `text`, its rate, or its number of soft tokens.
        sizes: Positions that each takes.
        relevance: Relevance of each to the question.
        num_chunks: Chunks of the context.
        overhead: Positions of template, question and history.
    """

    kept: list[int] = field(repr=False)
    levels: list[Rate | str] = field(repr=False)
    sizes: list[int] = field(repr=False)
    relevance: list[float] = field(repr=False)
    num_chunks: int
    overhead: int

    @cached_property
    def expand(self) -> list[int]:
        """Indices of the chunks given as text."""
        return [index for index, level in zip(self.kept, self.levels, strict=True) if level == TEXT_LEVEL]

    @cached_property
    def counts(self) -> list[int]:
        """Soft tokens of each chunk of `kept`, 0 for those given as text."""
        pairs = zip(self.levels, self.sizes, strict=True)
        return [0 if level == TEXT_LEVEL else size for level, size in pairs]

    @property
    def levels_by_chunk(self) -> list[Rate | str | None]:
        """The form of each chunk of the context; None for those that the decoder does not get."""
        found: list[Rate | str | None] = [None] * self.num_chunks
        for index, level in zip(self.kept, self.levels, strict=True):
            found[index] = level
        return found

    @property
    def rate(self) -> Rate | None:
        """The rate or number of soft tokens that all chunks except text share; None if they differ."""
        found = set(self.levels) - {TEXT_LEVEL}
        return found.pop() if len(found) == 1 else None  # type: ignore[return-value]

    @property
    def num_soft_tokens(self) -> int:
        """Soft tokens of all chunks."""
        return sum(self.counts)

    @property
    def left_out(self) -> int:
        """Number of chunks that the decoder does not get at all."""
        return self.num_chunks - len(self.kept)

    @property
    def positions(self) -> int:
        """Positions of the input, without the answer."""
        return self.overhead + sum(self.sizes)

    @cached_property
    def positions_by_level(self) -> dict[str, int]:
        """Positions of the chunks by form."""
        found: dict[str, int] = {}
        for level, size in zip(self.levels, self.sizes, strict=True):
            found[str(level)] = found.get(str(level), 0) + size
        return found

    def __str__(self) -> str:
        forms = "".join(f", {count:,} as {level}" for level, count in Counter(self.levels).items())
        left_out = f", {self.left_out:,} left out" if self.left_out else ""
        return f"{counted(self.num_chunks, 'chunk')}{forms}{left_out}: {counted(self.positions, 'position')}"


@dataclass(frozen=True)
class Room:
    """Positions for chunks, beside template, question, history and answer.

    Attributes:
        budget: Positions that the policy may spend.
        limit: Positions that chunks named by the user may take; None if the decoder states no window.
        overhead: Positions of template, question and history.
    """

    budget: int
    limit: int | None
    overhead: int

    @classmethod
    def of(cls, budget: int | None, window: int | None, overhead: int, max_new_tokens: int) -> "Room":
        """Return the positions that a question leaves for chunks.

        Args:
            budget: Positions of the input that the user allows; None for `DEFAULT_BUDGET`, or, for named
                chunks the whole window.
            window: Positions that the decoder takes; None if it states none.
            overhead: Positions of template, question and history.
            max_new_tokens: Positions kept for the answer.

        Raises:
            ContextOverflowError: If the question itself does not fit.
        """
        fitting = None if window is None else window - max_new_tokens
        if fitting is not None and budget is not None and budget > fitting:
            raise E2LLMError(
                f"budget is {budget:,} and the answer may take {max_new_tokens:,}, but the decoder's window "
                f"has {window:,} positions; lower budget or max_new_tokens"
            )
        limit = fitting if budget is None else budget
        if limit is not None and overhead > limit:
            raise ContextOverflowError(
                f"question, history and template take {overhead:,} positions, and the input may take "
                f"{max(0, limit):,} beside {max_new_tokens:,} for the answer; raise budget, lower "
                "max_new_tokens or shorten the question"
            )
        most = max(DEFAULT_BUDGET, overhead + DEFAULT_BUDGET // 2) if budget is None else budget
        most = most if limit is None else min(limit, most)
        return cls(max(0, most - overhead), None if limit is None else limit - overhead, overhead)


def best_first(scores: Sequence[float], preferred: Container[int] = ()) -> list[int]:
    """Return the indices of scores, highest first; of equal scores the preferred ones, then in order."""
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index not in preferred, index))


class Spending:
    """Assign forms to chunks, and count the positions that they take.

    Args:
        token_counts: Decoder tokens of each chunk.
        levels: Levels of the dial that may be used, finest first; at least one.

    Attributes:
        forms: The form of each chunk: None for nothing, -1 for text, or the index of its level.
        used: Positions that all chunks take.
    """

    def __init__(self, token_counts: Sequence[int], levels: Sequence[Level]) -> None:
        self.token_counts = token_counts
        self.levels = levels
        self.forms: list[int | None] = [None] * len(token_counts)
        self.used = 0

    def size(self, chunk: int, form: int | None) -> int:
        """Return the positions of a chunk in a form."""
        if form is None:
            return 0
        return self.token_counts[chunk] if form == TEXT_FORM else self.levels[form].counts[chunk]

    def give(self, chunk: int, form: int, room: int | None) -> bool:
        """Give a chunk a form if all chunks then take at most `room` positions; return whether they do."""
        used = self.used + self.size(chunk, form) - self.size(chunk, self.forms[chunk])
        if room is not None and used > room:
            return False
        self.forms[chunk], self.used = form, used
        return True

    def plan(self, overhead: int = 0, relevance: Sequence[float] | None = None) -> Plan:
        """Return the plan for the forms given so far, with `overhead` positions of other text."""
        relevance = [0.0] * len(self.forms) if relevance is None else relevance
        kept = [index for index, form in enumerate(self.forms) if form is not None]
        return Plan(
            kept,
            [self._name(index, self.forms[index]) for index in kept],
            [self.size(index, self.forms[index]) for index in kept],
            [relevance[index] for index in kept],
            len(self.forms),
            overhead,
        )

    def _name(self, chunk: int, form: int | None) -> Rate | str:
        return TEXT_LEVEL if form in (None, TEXT_FORM) else self.levels[form].value_of(chunk)


def spend(
    spending: Spending, order: Sequence[int], room: int, policy: Policy, text_only: Container[int] = ()
) -> None:
    """Give chunks their forms, as a policy spends the budget.

    The chunks are upgraded one by one, in an order that does not depend on the budget, until one does not
    fit. So a larger budget never takes text or soft tokens away from a chunk.

    Args:
        spending: Forms so far; chunks that have one keep it.
        order: The chunks, most relevant first.
        room: Positions that all chunks may take.
        policy: How to spend them.
        text_only: Chunks that get text or nothing, because their soft tokens say nothing.
    """
    open_chunks = [chunk for chunk in order if spending.forms[chunk] is None]
    coarsest = len(spending.levels) - 1
    coarse_room = max(spending.used + int(policy.coarse_share * (room - spending.used)), 0)
    if policy.coarse_share:
        for chunk in open_chunks:
            if chunk not in text_only and not spending.give(chunk, coarsest, coarse_room):
                break
    for chunk, form in _upgrades(open_chunks, policy, coarsest):
        if spending.give(chunk, form, room):
            continue
        if (
            policy.coarse_share and chunk not in text_only
        ):  # spend the rest on the finest form of this chunk that fits
            any(spending.give(chunk, finer, room) for finer in range(coarsest) if finer > form)
        break


def _upgrades(order: Sequence[int], policy: Policy, coarsest: int) -> Iterator[tuple[int, int]]:
    """Yield chunks with their next form, so that text and each finer level reach further down the ranking."""
    widths = [(TEXT_FORM, 1 if policy.gives_text else 0), *enumerate(policy.widths[:coarsest])]
    ends = [0] * len(widths)
    for step in range(1, len(order) + 1):
        end, before = 0, list(ends)
        for place, (form, width) in enumerate(widths):
            start, end = max(before[place], end), min(len(order), end + step * width)
            for rank in range(start, end):
                yield order[rank], form
            ends[place] = end
        if ends == before:
            return


def spend_uniformly(spending: Spending, room: int, *, gives_text: bool) -> None:
    """Give all chunks without a form the same form: text if it fits, else the finest level that fits.

    If even the coarsest level does not fit, the first chunks get it.
    """
    chunks = [index for index, form in enumerate(spending.forms) if form is None]
    coarsest = len(spending.levels) - 1
    for form in range(TEXT_FORM if gives_text else 0, coarsest + 1):
        need = sum(spending.size(chunk, form) for chunk in chunks)
        if spending.used + need <= room or form == coarsest:
            for chunk in chunks:
                if not spending.give(chunk, form, room):
                    return
            return


def give_named(spending: Spending, expand: Sequence[int], room: Room) -> None:
    """Give the chunks that the user named their text.

    Raises:
        E2LLMError: If one does not exist.
        ContextOverflowError: If they do not fit.
    """
    num_chunks = len(spending.forms)
    if expand and not (min(expand) >= 0 and max(expand) < num_chunks):
        there_are = f"there are 0 to {num_chunks - 1}" if num_chunks else "the context has no chunks"
        raise E2LLMError(f"expand names chunks that do not exist: {sorted(set(expand))}; {there_are}")
    for chunk in expand:
        if not spending.give(chunk, TEXT_FORM, room.limit):
            need = sum(spending.token_counts[index] for index in set(expand))
            raise ContextOverflowError(
                f"the text takes {need:,} positions, but there is room for {room.limit:,}: "
                f"{need - (room.limit or 0):,} too many; {_LESS}"
            )


def give_level(spending: Spending, order: Sequence[int], room: Room, *, select: bool) -> None:
    """Give all chunks without a form the level that the user named.

    Args:
        spending: Has only this level.
        order: The chunks, most relevant first.
        room: Positions for the chunks.
        select: Leave out the least relevant ones if they do not fit.

    Raises:
        ContextOverflowError: If they do not fit; says by how much and what to change.
    """
    chunks = [chunk for chunk in order if spending.forms[chunk] is None]
    need = sum(spending.size(chunk, 0) for chunk in chunks)
    if room.limit is not None and spending.used + need > room.limit and not select:
        level, left = spending.levels[0], room.limit - spending.used
        remedies = [_LESS]
        if chunks and left >= len(chunks):
            fewer = f"use at most {counted(left // len(chunks), 'soft token')} per chunk"
            remedies.insert(0, fewer if level.rate is None else "use a coarser rate")
        elif left > 0:
            fitting = left * len(chunks) // need
            remedies.insert(0, f"use overflow='select' to keep the {fitting} most relevant chunks")
        raise ContextOverflowError(
            f"{counted(len(chunks), 'chunk')} at {level.name} take {need} positions, but there is room for "
            f"{left}: {need - left} too many; {', or '.join(remedies)}"
        )
    for chunk in chunks:
        if not spending.give(chunk, 0, room.limit):
            return


_LESS = "raise budget, lower max_new_tokens, shorten the question or expand fewer chunks"
