"""The rate, encoder tokens per soft token, and the averages of states that it needs.

A chunk of `n` encoder tokens (special tokens included) has `ceil(n / rate)` soft tokens: its states are taken
in groups of `rate` from the left, the last group shorter. Rates are powers of two, so that the groups of a
coarser rate are unions of those of a finer one, and a number of soft tokens belongs to one rate only.

Shapes: C chunks, T encoder tokens per chunk, E width of the states, N kept states per chunk, S their width,
P places at which chunks are in the decoder's input, R soft tokens in all.
"""

from typing import Any, Literal

import torch

from e2llm.errors import E2LLMError

Rate = int | Literal["one"]

ONE_PER_CHUNK: Literal["one"] = "one"
TEXT_LEVEL = "text"  # beside rates, in a configuration's `trained_on`: chunks that were given as raw text
RATES: tuple[Rate, ...] = (1, 2, 4, 8, 16, 32, ONE_PER_CHUNK)
_WHOLE_CHUNK = 2**30  # tokens, more than any chunk has


def check_rate(value: Any, finest: int = 1, name: str = "rate") -> Rate:
    """Return a rate, or raise `E2LLMError` unless it is a power of two from `finest` on, or `one`."""
    if value == ONE_PER_CHUNK:
        return ONE_PER_CHUNK
    if type(value) is not int or value < 1 or value & (value - 1):
        raise E2LLMError(f"{name} must be a power of two (1, 2, 4, ...) or 'one', got {value!r}")
    if value < finest:
        raise E2LLMError(
            f"{name} {value} is finer than the kept states, one per {finest} encoder tokens; "
            f"use {finest} or coarser"
        )
    return value


def check_finest_rate(value: Any) -> int:
    """Return the finest rate, or raise `E2LLMError` unless it is a power of two."""
    if type(value) is not int or value < 1 or value & (value - 1):
        raise E2LLMError(f"finest_rate must be a power of two (1, 2, 4, ...), got {value!r}")
    return value


def parse_rate(text: str) -> Rate:
    """Parse a rate that a user wrote: a number or `one`."""
    return check_rate(int(text) if text.isdecimal() else text)


def encoder_tokens(rate: Rate) -> int:
    """Return the most encoder tokens that one soft token represents."""
    return _WHOLE_CHUNK if rate == ONE_PER_CHUNK else int(rate)


def count_soft_tokens(num_tokens: int, rate: Rate) -> int:
    """Return the number of soft tokens, at least 1, of a chunk of `num_tokens` encoder tokens at a rate."""
    return max(1, -(-num_tokens // encoder_tokens(rate)))


def rates_of_counts(num_tokens: torch.Tensor, counts: torch.Tensor, finest: int) -> torch.Tensor:
    """Return the rate at which each chunk has a given number of soft tokens.

    Args:
        num_tokens: `[P]` int64, encoder tokens of each chunk.
        counts: `[P]` int64, soft tokens of each.
        finest: The finest rate there is.

    Returns:
        `[P]` int64, encoder tokens per soft token, the finest rate that gives the number.

    Raises:
        E2LLMError: If no rate gives a number.
    """
    rates = torch.zeros_like(num_tokens)
    rate, longest = finest, int(num_tokens.max()) if len(num_tokens) else 0
    while True:
        fits = (rates == 0) & ((num_tokens + rate - 1) // rate == counts)
        rates = torch.where(fits, rate, rates)
        if rate >= longest:
            break
        rate *= 2
    if bool((rates == 0).any()):
        place = int((rates == 0).nonzero()[0])
        length = int(num_tokens[place])
        allowed = dict.fromkeys(count_soft_tokens(length, finest * 2**power) for power in range(31))
        raise E2LLMError(
            f"a chunk of {length} encoder tokens cannot have {int(counts[place])} soft tokens; with some "
            f"rate it can have {', '.join(map(str, allowed))}"
        )
    return rates


def group_means(states: torch.Tensor, mask: torch.Tensor, rate: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Average neighbouring token states in groups of `rate` from the left.

    Args:
        states: `[C, T, E]`.
        mask: `[C, T]`, nonzero for real tokens.
        rate: Tokens per group; the last group of a chunk is divided by its own length.

    Returns:
        `[C, N, E]` means, zero where a chunk has no such group, and `[C, N]` bool, which groups it has.
    """
    real = mask.bool()
    if rate == 1 and bool((real[:, :-1] | ~real[:, 1:]).all()):  # nothing to average, padding on the right
        return states.masked_fill(~real.unsqueeze(-1), 0.0), real
    num_chunks, _, width = states.shape
    position = real.long().cumsum(dim=1) - 1
    num_groups = -(-int(real.sum(dim=1).max()) // rate)
    group = position // rate + num_groups * torch.arange(num_chunks, device=states.device)[:, None]
    target = group[real]
    means, sizes = _average(states[real], torch.ones_like(target), target, num_chunks * num_groups)
    return means.view(num_chunks, num_groups, width), sizes.view(num_chunks, num_groups) > 0


def coarsen(kept: torch.Tensor, num_tokens: torch.Tensor, rates: torch.Tensor, finest: int) -> torch.Tensor:
    """Average kept states to coarser rates, each weighted by the tokens that it represents.

    Args:
        kept: `[P, N, S]` means of groups of `finest` tokens.
        num_tokens: `[P]` int64, encoder tokens of each chunk.
        rates: `[P]` int64, multiples of `finest`.
        finest: Tokens per kept state.

    Returns:
        `[R, S]`, the states of all places at their rates, one after the other.
    """
    place = torch.arange(kept.shape[1], device=kept.device)
    sizes = (num_tokens[:, None] - place * finest).clamp(0, finest)
    counts = (num_tokens + rates - 1) // rates
    first = counts.cumsum(0) - counts
    target = first[:, None] + place // (rates // finest)[:, None]
    used = sizes > 0
    means, _ = _average(kept[used], sizes[used], target[used], int(counts.sum()))
    return means


def _average(
    rows: torch.Tensor, weights: torch.Tensor, target: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weighted means `[count, S]` of the rows of each target, and the sums of weights.

    Sums are float32 or wider: in bfloat16, 256 + 1 is 256.
    """
    wide = torch.promote_types(rows.dtype, torch.float32)
    weights = weights.to(wide)
    total = weights.new_zeros(count, rows.shape[1]).index_add(0, target, rows.to(wide) * weights[:, None])
    sums = weights.new_zeros(count).index_add(0, target, weights)
    return (total / sums.clamp(min=1)[:, None]).to(rows.dtype), sums
