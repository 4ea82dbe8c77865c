"""The base of RULER's tasks (Hsieh et al. 2024, arXiv 2404.06654): items of each length, and scores."""

import itertools
import random
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from e2llm.data.needles.hiding import Passage
from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item, Task, TaskRequest
from e2llm.evaluation.metrics import string_match

CHARS_PER_TOKEN = 4  # a first guess only; the count of tokens corrects it
SHORTFALL_FRACTION = 0.02  # how much shorter than asked a context may be, where its parts are that small
_MAX_COUNTS = 6
_PROBE_TOKENS = 4096
_MAX_STEPS = 60
_MAX_SIZE_PER_TOKEN = 32  # no tokenizer makes so few tokens


@dataclass(frozen=True)
class Draft:
    """A question with everything drawn except the size of its context.

    Attributes:
        build: Makes the context of a size, in characters of the haystack or in words. A larger size makes no
            shorter context and leaves the drawn parts as they are.
        first_size: Size to try first.
        smallest_size: Smallest size that makes sense.
        prompt: The question.
        references: Right answers.
        groups: Keys to break scores down by, beyond the length.
    """

    build: Callable[[int], Passage]
    first_size: int
    prompt: str
    references: tuple[str, ...]
    smallest_size: int = 0
    groups: Mapping[str, int] = field(default_factory=dict)


class RulerTask(Task):
    """A task of RULER: contexts of every length asked for, and one match of strings as the score."""

    metric: ClassVar[str] = "string_match_all"

    def items(self, request: TaskRequest) -> Iterator[Item]:
        """Make item 0 of each length, then item 1, and so on, up to the limit.

        Every context is the longest that a few counts of tokens find below its length: at most 2% shorter
        from 1,024 tokens on, and mostly 0.1%.

        Raises:
            E2LLMError: If the request cannot be served: no haystack, no data, a length that is too short.
            FileNotFoundError: If a file of the data is missing.
        """
        if request.limit < 1 or not request.lengths or min(request.lengths) < 1:
            raise E2LLMError(
                f"limit and lengths must be at least 1, got {request.limit} and {list(request.lengths)}"
            )
        shared = self._prepare(request)
        sizes: dict[int, int] = {}
        for index in range(self._num_items(request.limit)):
            for length in dict.fromkeys(request.lengths):
                rng = random.Random(f"{request.seed}/{self.name}/{length}/{index}")
                draft = self._draft(shared, rng, length, index)
                if draft is None and not index:
                    raise E2LLMError(f"{self.name}: no question fits in {length} tokens; raise --lengths")
                if draft is None:
                    continue
                passage, sizes[length] = longest_context(
                    draft, request.count_tokens, length, sizes.get(length), self.name
                )
                yield self._item(draft, passage, length, index)

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Return the share of the references that the prediction contains, case-insensitively."""
        return {self.metric: string_match(prediction, item.references)}

    def _prepare(self, request: TaskRequest) -> Any:
        """Prepare what all drafts share, such as the data."""

    @abstractmethod
    def _draft(self, shared: Any, rng: random.Random, length: int, index: int) -> Draft | None:
        """Draft item `index` of a length, with its own random source; None if there are no more questions."""

    def _num_items(self, limit: int) -> int:
        return limit

    def _item(self, draft: Draft, passage: Passage, length: int, index: int) -> Item:
        groups: dict[str, str | int | float] = {"length_tokens": length}
        if len(passage.spans) == 1:
            groups["depth_percent"] = depth_percent(passage)
        return Item(
            task=self.name,
            id=f"{self.name}-{length}-{index:04d}",
            context=passage.text,
            prompt=draft.prompt,
            references=draft.references,
            evidence=passage.spans,
            groups={**groups, **draft.groups},
        )


def depth_percent(passage: Passage) -> int:
    """Return the place of the first span, rounded to 10 so that several items share a depth."""
    start, end = passage.spans[0]
    rest = len(passage.text) - (end - start)
    return 10 * round(10 * start / rest) if rest else 0


def longest_context(
    draft: Draft, count_tokens: Callable[[str], int], length: int, size: int | None, task: str
) -> tuple[Passage, int]:
    """Return the longest context of a draft that a few counts find below a length.

    Whole contexts are counted, since tokens of parts do not add up; the next size lies on the line through
    the last two counts, so that three or four of them are mostly enough.

    Args:
        draft: Context to build.
        count_tokens: Decoder tokens of a text.
        length: Most tokens of the context.
        size: Size to try first; None for the draft's guess.
        task: The task's name, for errors.

    Returns:
        The context and its size, with which the next draft of the length may start.

    Raises:
        E2LLMError: If the smallest context is longer than `length`.
    """
    fits: tuple[int, int] | None = None  # size and tokens of the longest context that fits
    over: tuple[int, int] | None = None
    best = Passage("")
    counts: list[tuple[int, int]] = []
    if size is None:  # a short context tells the tokens per size at little cost
        size = draft.first_size * min(length, _PROBE_TOKENS) // length
    size = max(draft.smallest_size, size)
    allowed = max(1, length // 1000)
    for step in range(1, _MAX_STEPS + 1):
        passage = draft.build(size)
        tokens = count_tokens(passage.text)
        counts.append((size, tokens))
        if tokens <= length:
            fits, best = counts[-1], passage
        elif size > draft.smallest_size:
            over = counts[-1]
        else:
            raise E2LLMError(
                f"{task}: a length of {length} tokens is too short: the smallest context has {tokens}; "
                "raise --lengths"
            )
        if step == _MAX_COUNTS:
            allowed = max(allowed, int(SHORTFALL_FRACTION * length))
        if fits and (length - fits[1] <= allowed or (over and over[0] - fits[0] <= 1)):
            return best, fits[0]
        low = fits[0] + 1 if fits else draft.smallest_size
        if low > _MAX_SIZE_PER_TOKEN * length:
            break
        high = over[0] - 1 if over else 2 * size * length // max(1, tokens) + 64
        high = min(high, _MAX_SIZE_PER_TOKEN * length + 1)
        misled = step > _MAX_COUNTS and over is not None
        size = (low + high) // 2 if misled else _on_line(counts, length - allowed // 2)
        size = min(max(size, low), high)
    raise E2LLMError(f"{task}: found no context of {length} tokens; does count_tokens grow with the text?")


def _on_line(counts: Sequence[tuple[int, int]], goal: int) -> int:
    """Return the size at which the line through the last two different counts reaches the goal."""
    size, tokens = counts[-1]
    slope = tokens / max(1, size)
    for other, its_tokens in itertools.islice(reversed(counts), 1, None):
        if (its_tokens - tokens) * (other - size) > 0:
            slope = (its_tokens - tokens) / (other - size)
            break
    return size + round((goal - tokens) / slope) if slope > 0 else 2 * size + 1
