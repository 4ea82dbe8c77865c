"""The one place through which commands print."""

import json
from typing import Any

import typer

from e2llm.messages import UNPRINTABLE, printable


def echo(text: str = "", *, err: bool = False, nl: bool = True, has_colours: bool = False) -> None:
    """Print a text for people; control characters of documents, answers and names are shown.

    Args:
        text: The text.
        err: Print on stderr.
        nl: End the line.
        has_colours: The text has escape codes of ours, and nothing that others wrote.
    """
    typer.echo(text if has_colours else printable(text), err=err, nl=nl)


def print_result(value: Any, text: str, as_json: bool) -> None:
    """Print a value as JSON, or the text that shows it to people."""
    if as_json:
        print_json(value)
    else:
        echo(text)


def print_json(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON, from which every character can be read back."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    typer.echo(UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
