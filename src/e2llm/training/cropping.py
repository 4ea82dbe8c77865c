"""Which chunks of a context a sample holds, and which of them are raw text."""

import random
from collections.abc import Sequence

from e2llm.records import Record


def texts_of(record: Record, spans: Sequence[tuple[int, int]]) -> list[str]:
    """The texts of chunks."""
    return [record.context[start:end] for start, end in spans]


def crop(
    gold: Sequence[bool], max_chunks: int | None, rng: random.Random, *, keep_all: bool = False
) -> tuple[int, int]:
    """A run of at most `max_chunks` chunks: one that holds a gold chunk if there is any, else the beginning.

    With `keep_all` it holds all gold chunks, where that many fit.
    """
    if max_chunks is None or len(gold) <= max_chunks:
        return 0, len(gold)
    golden = [index for index, is_gold in enumerate(gold) if is_gold]
    if not golden:
        return 0, max_chunks
    if keep_all and golden[-1] - golden[0] < max_chunks:
        lowest, highest = golden[0], golden[-1]
    else:
        lowest = highest = rng.choice(golden)
    first = rng.randint(max(0, highest - max_chunks + 1), min(lowest, len(gold) - max_chunks))
    return first, first + max_chunks


def choose_expanded(
    gold: Sequence[bool], most: int, gold_fraction: float, rng: random.Random, *, all_gold: bool = False
) -> list[int]:
    """Indices of chunks to give as raw text, with gold ones among them in `gold_fraction` of the draws.

    As many as are drawn, at most `most`; with `all_gold` all that there are, even where these are more.
    """
    count = rng.randint(1, min(most, len(gold)))
    golden = [index for index, is_gold in enumerate(gold) if is_gold]
    others = [index for index, is_gold in enumerate(gold) if not is_gold]
    chosen: list[int] = []
    if golden and rng.random() < gold_fraction:
        chosen = golden if all_gold else rng.sample(golden, min(count, len(golden)))
    chosen = [*chosen, *rng.sample(others, max(0, min(count - len(chosen), len(others))))]
    return sorted(chosen)
