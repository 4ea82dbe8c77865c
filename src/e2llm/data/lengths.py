"""Lengths of texts in three numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class LengthSummary:
    """Smallest, median and largest of a list of lengths; all 0 for an empty list."""

    min: int
    median: int
    max: int


def summarize(lengths: Sequence[int]) -> LengthSummary:
    """The summary of some lengths."""
    if not lengths:
        return LengthSummary(0, 0, 0)
    return LengthSummary(min(lengths), round(median(lengths)), max(lengths))
