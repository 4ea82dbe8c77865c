"""Lists on the command line: names, and lengths and counts such as `4096,128K,1M`."""

import re

import typer

_LENGTH = re.compile(r"(\d+(?:_\d+)*)([kKmM]?)")
_UNITS = {"": 1, "k": 2**10, "m": 2**20}


def split_names(text: str) -> list[str]:
    """Names between commas, without the spaces around them; empty ones are left out."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_lengths(text: str, option: str, least: int = 1) -> list[int]:
    """Whole numbers between commas, each once; K is 1,024 and M 1,048,576.

    Args:
        text: What the user gave.
        option: Its option, which an error names.
        least: The least number that is allowed.

    Raises:
        typer.BadParameter: If one is no number or less than that.
    """
    found = [_LENGTH.fullmatch(item) for item in split_names(text)]
    lengths = [int(match[1]) * _UNITS[match[2].lower()] for match in found if match]
    if not lengths or None in found or min(lengths) < least:
        raise typer.BadParameter(
            f"{option} takes whole numbers of {least:,} or more such as 4096,128K,1M; got {text!r}"
        )
    return list(dict.fromkeys(lengths))
