"""Choose the chunks of a sample: which run of a context, at which rates, and which as raw text."""

import random
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

from e2llm.modeling.rates import TEXT_LEVEL, Rate
from e2llm.training.recipes.objectives import ObjectivesSection

MIXED_TEXT_FRACTION = 0.25  # of the chunks of a mixed sample: they are raw text
MOST_RAW = 2  # chunks of a mixed sample where the dial is the number of soft tokens
_RAW_GOLD_FRACTION = 0.7
_GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, are spread evenly over any run of samples


@dataclass(frozen=True)
class Levels:
    """How the decoder gets the chunks of a sample.

    Attributes:
        rates: One for each chunk; those of raw chunks are not used.
        expand: Indices of the raw chunks.
    """

    rates: list[Rate]
    expand: list[int]

    @property
    def names(self) -> list[str]:
        """Each chunk's level, as a checkpoint counts it: a rate, or `text`."""
        raw = set(self.expand)
        return [TEXT_LEVEL if index in raw else str(rate) for index, rate in enumerate(self.rates)]


class LevelDraw:
    """Draws levels: every run of samples has all rates, by their weights.

    Args:
        settings: `rates`, `rate_weights` and `mixed_fraction`.
        seed: Shifts which sample has which rate.
    """

    def __init__(self, settings: ObjectivesSection, seed: int) -> None:
        self.settings = settings
        self.weights = settings.rate_weights or [1.0] * len(settings.rates)
        self._bounds = list(accumulate(weight / sum(self.weights) for weight in self.weights))[:-1]
        self._first = random.Random(f"{seed}/rates").random()

    def rate_of(self, index: int) -> Rate:
        """Return the rate of sample `index` if all its chunks have the same."""
        return self.settings.rates[bisect(self._bounds, (self._first + index * _GOLDEN) % 1)]

    def draw(self, num_chunks: int, index: int, rng: random.Random, *, keep_soft: bool = False) -> Levels:
        """Draw the levels of a sample's chunks.

        Args:
            num_chunks: Chunks of the sample.
            index: Its number in the run.
            rng: Its draws.
            keep_soft: Leave one chunk soft at least, for samples that restate them.
        """
        rate = self.rate_of(index)
        if rng.random() >= self.settings.mixed_fraction:
            return Levels([rate] * num_chunks, [])
        rates = rng.choices(self.settings.rates, self.weights, k=num_chunks)
        expand = [place for place in range(num_chunks) if rng.random() < MIXED_TEXT_FRACTION]
        if keep_soft and len(expand) == num_chunks:
            expand.remove(rng.choice(expand))
        return Levels(rates, expand)


def around(levels: Levels, before: int, after: int) -> Levels:
    """Return levels with other chunks before and after, at the first chunk's rate."""
    rate = levels.rates[0]
    return Levels(
        [*[rate] * before, *levels.rates, *[rate] * after], [place + before for place in levels.expand]
    )


def count_levels(samples: Sequence[Sequence[str]]) -> dict[str, int]:
    """Count the chunks of each level in some samples."""
    return dict(Counter(chain.from_iterable(samples)))


def crop(gold: Sequence[bool], max_chunks: int | None, rng: random.Random) -> tuple[int, int]:
    """Return a run of at most `max_chunks` chunks: around the gold ones if there are any, else the beginning.

    The run has all gold chunks if it can, else one of them.
    """
    if max_chunks is None or len(gold) <= max_chunks:
        return 0, len(gold)
    golden = [index for index, is_gold in enumerate(gold) if is_gold]
    if not golden:
        return 0, max_chunks
    if golden[-1] - golden[0] < max_chunks:
        lowest, highest = golden[0], golden[-1]
    else:
        lowest = highest = rng.choice(golden)
    first = rng.randint(max(0, highest - max_chunks + 1), min(lowest, len(gold) - max_chunks))
    return first, first + max_chunks


def choose_raw(gold: Sequence[bool], rng: random.Random) -> list[int]:
    """Return the indices of one or two chunks to give as raw text, in most draws with a gold one."""
    count = rng.randint(1, min(MOST_RAW, len(gold)))
    golden = [index for index, is_gold in enumerate(gold) if is_gold]
    others = [index for index, is_gold in enumerate(gold) if not is_gold]
    chosen: list[int] = []
    if golden and rng.random() < _RAW_GOLD_FRACTION:
        chosen = rng.sample(golden, min(count, len(golden)))
    chosen = [*chosen, *rng.sample(others, max(0, min(count - len(chosen), len(others))))]
    return sorted(chosen)
