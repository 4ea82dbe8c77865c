"""Scores, sizes and foreign text as a person reads them."""

import math
import re
import unicodedata
from typing import Any

_LOWER_IS_BETTER = re.compile(r"(^|_)(loss|perplexity|error|nats|wer|cer)(_|$)")
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_LINE_ENDS = re.compile(r"\r\n?")
_RUNS = re.compile(r"(\d+)")


def lower_is_better(metric: str) -> bool:
    """Whether a score is the better the lower it is: losses, perplexities and error rates, by their names."""
    return bool(_LOWER_IS_BETTER.search(metric))


def readable_score(value: float | None, *, signed: bool = False) -> str:
    """A score to three decimals; above 100 to one, with thousands separated."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    sign = "+" if signed else ""
    if abs(value) >= 100:
        return f"{value:{sign},.1f}"
    text = f"{value:{sign}.3f}"
    return text.replace("-", "+" if signed else "") if float(text) == 0 else text


def readable_interval(interval: tuple[float, float] | None, *, signed: bool = False) -> str:
    """An interval as `low to high`; nothing where there is none."""
    if interval is None:
        return ""
    low, high = (readable_score(value, signed=signed) for value in interval)
    return f"{low} to {high}"


def readable_length(tokens: float | str) -> str:
    """A number of tokens: 4096 as 4K, 1048576 as 1M, others with thousands separated."""
    number = as_number(tokens)
    if number is None:
        return str(tokens)
    for size, unit in ((2**20, "M"), (2**10, "K")):
        if number >= size and number % size == 0:
            return f"{number // size:,.0f}{unit}"
    return f"{number:,.6g}" if number < 1e6 else f"{number:,.0f}"


def readable_count(value: float) -> str:
    """A count or a mean of counts, with thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.1f}"


def readable_bytes(value: float) -> str:
    """A size in MB or GB."""
    return f"{value / 1e9:,.2f} GB" if value >= 1e9 else f"{value / 1e6:,.1f} MB"


def readable_p_value(value: float | None) -> str:
    """A p-value to three decimals; the least ones as a bound."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def as_number(value: Any) -> float | None:
    """A number, or a text that is one; None for all else and for what is not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def group_key(value: str) -> tuple[int, float, str]:
    """Sorts values of a group: numbers by size, then texts."""
    number = as_number(value)
    return (1, 0.0, value) if number is None else (0, number, value)


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sorts texts with the numbers in them by size: `item-9` before `item-10`."""
    parts = _RUNS.split(text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def printable(text: str) -> str:
    """Text without what moves a terminal's cursor, turns the line around or is no text, spelled out instead.

    Lines end with a plain newline. A control character stands as `\\x1b`, half of a surrogate pair as
    `\\ud800`, a bidirectional override as `\\u202e`.
    """
    text = _LINE_ENDS.sub("\n", text)
    return "".join(mark if _is_harmless(mark) else _spelled(mark) for mark in text)


def on_one_line(text: str, limit: int | None = None) -> str:
    """Printable text with single spaces for any white space, cut to `limit` characters with an ellipsis."""
    line = printable(" ".join(text.split()))
    return line if limit is None or len(line) <= limit else line[: max(0, limit - 1)] + "…"


def _is_harmless(mark: str) -> bool:
    if mark in "\n\t":
        return True
    return unicodedata.category(mark) not in {"Cc", "Cs", "Zl", "Zp"} and mark not in _BIDI_CONTROLS


def _spelled(mark: str) -> str:
    return f"\\x{ord(mark):02x}" if ord(mark) < 256 else f"\\u{ord(mark):04x}"
