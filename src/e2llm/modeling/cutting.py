"""Cutting texts to a number of tokens, by few calls of a tokenizer that only counts."""

from collections.abc import Callable


def longest_prefix(text: str, max_tokens: int | None, count_tokens: Callable[[str], int]) -> str:
    """The longest start of a text that has at most so many tokens; the whole text without a limit."""
    if max_tokens is None:
        return text
    return text[: _longest(len(text), max_tokens, lambda size: count_tokens(text[:size]))]


def longest_suffix(text: str, max_tokens: int | None, count_tokens: Callable[[str], int]) -> str:
    """The longest end of a text that has at most so many tokens; the whole text without a limit."""
    if max_tokens is None:
        return text
    start = len(text)
    return text[start - _longest(start, max_tokens, lambda size: count_tokens(text[start - size :])) :]


def _longest(size: int, max_tokens: int, count: Callable[[int], int]) -> int:
    """The most characters, up to `size`, of which `count` gives at most `max_tokens` tokens."""
    high = max(1, max_tokens)
    while high < size and count(high) <= max_tokens:
        high *= 2
    low, high = 0, min(high, size)
    while low < high:
        middle = (low + high + 1) // 2
        if count(middle) <= max_tokens:
            low = middle
        else:
            high = middle - 1
    return low
