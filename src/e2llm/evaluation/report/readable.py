"""Scores, sizes and texts of models as a person reads them."""

import math
import re
import unicodedata

_LOWER_IS_BETTER = re.compile(r"(^|_)(loss|perplexity|error|nats|wer|cer)(_|$)")
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_RUNS = re.compile(r"(\d+)")


def lower_is_better(metric: str) -> bool:
    """Whether a lower score is better, by its name: losses, perplexities and error rates."""
    return bool(_LOWER_IS_BETTER.search(metric))


def readable_score(value: float | None, *, signed: bool = False) -> str:
    """Return a score with three decimals; from 100 on with one, and with thousands separated."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    sign = "+" if signed else ""
    if abs(value) >= 100:
        return f"{value:{sign},.1f}"
    text = f"{value:{sign}.3f}"
    return text.replace("-", sign) if float(text) == 0 else text


def readable_interval(
    interval: tuple[float, float] | None, *, signed: bool = False, is_trusted: bool = True
) -> str:
    """Return an interval as `low to high`, with a warning if it is not trusted, and nothing for None."""
    if interval is None:
        return ""
    warning = "" if is_trusted else " (not to be trusted: under 10 contexts)"
    return " to ".join(readable_score(value, signed=signed) for value in interval) + warning


def readable_length(tokens: float | str) -> str:
    """Return a number of tokens: 4096 as 4K, 1048576 as 1M, others with thousands separated."""
    try:
        number = float(tokens)
    except ValueError:
        return str(tokens)
    for size, unit in ((2**20, "M"), (2**10, "K")):
        if number >= size and number % size == 0:
            return f"{number // size:,.0f}{unit}"
    return f"{number:,.6g}" if number < 1e6 else f"{number:,.0f}"


def readable_count(value: float) -> str:
    """Return a count or a mean of counts, with thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.1f}"


def readable_bytes(value: float) -> str:
    """Return a size in MB or GB."""
    return f"{value / 1e9:,.2f} GB" if value >= 1e9 else f"{value / 1e6:,.1f} MB"


def readable_p_value(value: float | None) -> str:
    """Return a p value with three decimals; below 0.001 as a bound."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def group_key(value: str) -> tuple[int, float, str]:
    """Sort values of a group: numbers by size, then texts."""
    try:
        return (0, float(value), value)
    except ValueError:
        return (1, 0.0, value)


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort texts by the size of the numbers in them: `item-9` before `item-10`."""
    parts = _RUNS.split(text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def printable(text: str) -> str:
    """Return text with `\\n` as line end, and control characters spelled out.

    A control character becomes `\\x1b`, half of a surrogate pair `\\ud800`, a bidirectional override
    `\\u202e`: none of them reaches a terminal or a page.
    """
    return "".join(_shown(mark) for mark in text.replace("\r\n", "\n").replace("\r", "\n"))


def on_one_line(text: str, limit: int | None = None) -> str:
    """Return printable text with single spaces for any white space, cut to `limit` characters."""
    line = printable(" ".join(text.split()))
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def _shown(mark: str) -> str:
    if mark in "\n\t" or (
        unicodedata.category(mark) not in {"Cc", "Cs", "Zl", "Zp"} and mark not in _BIDI_CONTROLS
    ):
        return mark
    return f"\\x{ord(mark):02x}" if ord(mark) < 256 else f"\\u{ord(mark):04x}"
