"""Which rate each chunk of a sample has, and which chunks are raw text: the draws of `objectives.rates`."""

import random
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

from e2llm.modeling.rates import TEXT_LEVEL, Rate
from e2llm.training.objectives import ObjectivesSection

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
        """Each chunk's level as a checkpoint counts it: a rate, or `text`."""
        raw = set(self.expand)
        return [TEXT_LEVEL if index in raw else str(rate) for index, rate in enumerate(self.rates)]


class LevelDraw:
    """Draws levels: every run of samples has all rates, by their weights.

    Args:
        settings: `rates`, `rate_weights`, `mixed_fraction` and `mixed_text_fraction`.
        seed: Shifts which sample has which rate.
    """

    def __init__(self, settings: ObjectivesSection, seed: int) -> None:
        self.settings = settings
        self.weights = settings.rate_weights or [1.0] * len(settings.rates)
        self._bounds = list(accumulate(weight / sum(self.weights) for weight in self.weights))[:-1]
        self._first = random.Random(f"{seed}/rates").random()

    def rate_of(self, index: int) -> Rate:
        """The rate of sample `index` where all its chunks have one."""
        return self.settings.rates[bisect(self._bounds, (self._first + index * _GOLDEN) % 1)]

    def draw(self, count: int, index: int, rng: random.Random, *, keep_soft: bool = False) -> Levels:
        """Levels of a sample's chunks.

        Args:
            count: Chunks of the sample.
            index: Its number in the run.
            rng: Its draws.
            keep_soft: Leave one chunk soft at least, for samples that restate them.
        """
        rate = self.rate_of(index)
        if rng.random() >= self.settings.mixed_fraction:
            return Levels([rate] * count, [])
        rates = rng.choices(self.settings.rates, self.weights, k=count)
        expand = [place for place in range(count) if rng.random() < self.settings.mixed_text_fraction]
        if keep_soft and len(expand) == count:
            expand.remove(rng.choice(expand))
        return Levels(rates, expand)


def around(levels: Levels, before: int, after: int) -> Levels:
    """The same for chunks that have others before and after them, which take the first chunk's rate."""
    rate = levels.rates[0]
    return Levels(
        [*[rate] * before, *levels.rates, *[rate] * after], [place + before for place in levels.expand]
    )


def count_levels(samples: Sequence[Sequence[str]]) -> dict[str, int]:
    """How many chunks of some samples have each level."""
    return dict(Counter(chain.from_iterable(samples)))
