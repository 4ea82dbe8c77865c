"""Whether a mean or a difference may be chance: bootstrap intervals, paired tests, many tests at once."""

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from e2llm.errors import E2LLMError

Floats = NDArray[numpy.float64]

# Of draws times units held at once: 8 MB of indices.
_BLOCK_ENTRIES = 1_000_000
# Up to this number of units all combinations of signs are tried: 4096.
_MAX_EXACT_UNITS = 12
# With fewer contexts, an interval is not to be trusted: it is too narrow, or has no width (chosen here).
FEWEST_CONTEXTS = 10


@dataclass(frozen=True)
class PairedTest:
    """A paired test of two systems.

    Attributes:
        difference: Mean of the first system's scores minus that of the second.
        interval_95: Bootstrap interval of the difference.
        p_value: How often chance alone makes a difference at least as large, either way; above 0, up to 1.
        num_pairs: Number of items.
    """

    difference: float
    interval_95: tuple[float, float]
    p_value: float
    num_pairs: int


def bootstrap_interval(
    *columns: Sequence[float],
    figure: Callable[..., float] = float,
    num_draws: int = 1000,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Return the 95% percentile interval of a mean, or of a figure made of several means.

    Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Deterministic. Equal values
    have an interval without width: their spread is unknown, the mean is not certain. The interval of few
    values is somewhat narrow: of 10 or 20 normally distributed values it contains the true mean in 90% or
    93% of cases.

    Args:
        columns: Scores, at least one; or several scores of the same items. Every draw takes the same items
            of each column.
        figure: Makes the figure of the columns' means, such as their geometric mean.
        num_draws: Resamples.
        seed: Fixes the draws.
        clusters: For each value its cluster, such as its context: the values of one cluster are drawn
            together, since questions on one context are not independent. By default each is its own.

    Raises:
        E2LLMError: If there are no values, one is not finite, or clusters are not one per value.
    """
    means = [_drawn_means(column, num_draws, seed, clusters) for column in columns]
    if all(len(set(column)) == 1 for column in columns):
        only = float(figure(*(float(column[0]) for column in columns)))
        return only, only
    ordered = sorted(figure(*map(float, draw)) for draw in zip(*means, strict=True))
    left_out = int(0.025 * len(ordered))
    return ordered[left_out], ordered[-1 - left_out]


def paired_test(
    a: Sequence[float],
    b: Sequence[float],
    *,
    seed: int = 0,
    num_draws: int = 10_000,
    clusters: Sequence[Hashable] | None = None,
) -> PairedTest:
    """Test whether two systems differ on the same items: sign-flip permutation test of the mean difference.

    If the systems were alike, each item's difference could as well have the other sign. The p value is the
    share of sign choices whose mean difference is at least as large as the one seen: of all choices with up
    to 12 units of a difference other than 0, else of `num_draws` random ones and the one seen (Phipson and
    Smyth, arXiv 1603.05766), so that it is never 0. Equal scores everywhere, and a single pair, have the p
    value 1. Deterministic.

    Args:
        a: Scores of the first system.
        b: Scores of the second, item for item.
        seed: Fixes the draws.
        num_draws: Random sign choices.
        clusters: As in `bootstrap_interval`; the differences of one cluster change their signs together.
    """
    differences = [float(first) - float(second) for first, second in zip(a, b, strict=True)]
    sums, _ = _unit_sums(differences, clusters)
    return PairedTest(
        difference=float(numpy.mean(differences)),
        interval_95=bootstrap_interval(differences, seed=seed, clusters=clusters),
        p_value=_sign_flip_p_value(sums[sums != 0], num_draws, seed),
        num_pairs=len(differences),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, in the order given.

    Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979). The smallest of n is multiplied by
    n, the next by n - 1, and so on; none comes out below a smaller one or above 1. If those up to 0.05 are
    called differences, the chance of one false call or more is at most 5%.
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def _drawn_means(
    values: Sequence[float], num_draws: int, seed: int, clusters: Sequence[Hashable] | None
) -> Floats:
    """Return means of resamples; with the same number of units and seed, the same units are drawn."""
    sums, sizes = _unit_sums(values, clusters)
    rng = _generator("bootstrap", seed)
    means = []
    for num_rows in _block_sizes(num_draws, len(sums)):
        drawn = rng.randint(0, len(sums), size=(num_rows, len(sums)), dtype=numpy.int64)
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return numpy.concatenate(means)


def _unit_sums(values: Sequence[float], clusters: Sequence[Hashable] | None) -> tuple[Floats, Floats]:
    """Return sums and sizes of the units that are drawn together, in the order in which they come first."""
    if not len(values):
        raise E2LLMError("there are no scores; an interval or a test needs at least one")
    numbers = numpy.asarray(values, dtype=numpy.float64)
    if not numpy.isfinite(numbers).all():
        raise E2LLMError(f"scores must be finite numbers, got {numbers[~numpy.isfinite(numbers)][0]}")
    if clusters is None:
        return numbers, numpy.ones(len(numbers))
    if len(clusters) != len(numbers):
        raise E2LLMError(
            f"each score needs a cluster; got {len(numbers)} scores and {len(clusters)} clusters"
        )
    places: dict[Hashable, int] = {}
    units = [places.setdefault(cluster, len(places)) for cluster in clusters]
    return (
        numpy.bincount(units, weights=numbers).astype(numpy.float64),
        numpy.bincount(units).astype(numpy.float64),
    )


def _sign_flip_p_value(sums: Floats, num_draws: int, seed: int) -> float:
    # Sums of the same numbers in another order may differ in the last digits; those are equal.
    at_least = abs(sums.sum()) - 1e-9 * numpy.abs(sums).sum()
    if len(sums) <= _MAX_EXACT_UNITS:
        choices = numpy.arange(2 ** len(sums))[:, None] >> numpy.arange(len(sums))[None, :] & 1
        return float((numpy.abs((1 - 2 * choices) @ sums) >= at_least).mean())
    rng = _generator("sign flips", seed)
    num_larger = 0
    for num_rows in _block_sizes(num_draws, len(sums)):
        signs = 1 - 2 * rng.randint(0, 2, size=(num_rows, len(sums)), dtype=numpy.int8)
        num_larger += int((numpy.abs(signs @ sums) >= at_least).sum())
    return (1 + num_larger) / (1 + num_draws)


def _block_sizes(num_draws: int, num_units: int) -> list[int]:
    """Return the numbers of draws to make at once, which bounds the memory."""
    most = max(1, _BLOCK_ENTRIES // num_units)
    return [min(most, num_draws - start) for start in range(0, num_draws, most)]


def _generator(purpose: str, seed: int) -> Any:
    """Return a separate generator; numpy promises to keep the stream of this one, unlike newer ones."""
    return numpy.random.RandomState(random.Random(f"{purpose}-{seed}").getrandbits(32))
