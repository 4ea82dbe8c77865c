"""Options that several commands share, and the parsing of their values."""

import re
from typing import TYPE_CHECKING, Annotated

import typer

from e2llm.messages import counted

if TYPE_CHECKING:
    from e2llm.modeling.rates import Rate

MODEL_HELP = "Folder, hub id, or 'smol', the embedded model."
FILES_HELP = "Files or folders ('-' reads stdin), or one saved context"

Model = Annotated[str, typer.Option(help=MODEL_HELP)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default a GPU if there is one.")]
Store = Annotated[
    str | None, typer.Option(help="Folder to keep encoded chunks in, so that no chunk is encoded twice.")
]
SoftTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Soft tokens per chunk, for attention and mlp adapters."),
]
RateText = Annotated[
    str | None,
    typer.Option(
        "--rate",
        metavar="N|one",
        help="Encoder tokens per soft token: 2, 4, 8, ..., or 'one' for one soft token per chunk.",
    ),
]
FinestRate = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Keep one state per N encoder tokens: a larger N saves space, but rules out finer rates.",
    ),
]
ChunkSize = Annotated[
    int | None, typer.Option(min=16, help="Most characters per chunk; by default the model's setting.")
]
NewTokens = Annotated[int, typer.Option(min=1, help="Most tokens of the answer.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a key; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_LENGTH = re.compile(r"(\d+(?:_\d+)*)([kKmM]?)")
_UNITS = {"": 1, "k": 2**10, "m": 2**20}


def take_rate(text: str | None) -> "Rate | None":
    """Return the rate that an option's text stands for.

    Raises:
        E2LLMError: If it is not a rate.
    """
    from e2llm.modeling.rates import parse_rate

    return None if text is None else parse_rate(text)


def level_name(soft_tokens: int, rate: "Rate | None") -> str:
    """Return a label such as `4 soft tokens` or `rate 8`."""
    return counted(soft_tokens, "soft token") if rate is None else f"rate {rate}"


def split_settings(settings: list[str] | None) -> dict[str, str]:
    """Parse `KEY=VALUE` strings into a dictionary.

    Raises:
        typer.BadParameter: If a string has another form.
    """
    pairs = [setting.partition("=") for setting in settings or []]
    for name, sign, value in pairs:
        if not name or not sign:
            raise typer.BadParameter(f"--set {name + sign + value!r}: write it as KEY=VALUE")
    return {name: value for name, _, value in pairs}


def split_names(text: str) -> list[str]:
    """Split a comma-separated list into names, without surrounding spaces and empty names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_lengths(text: str, option: str, least: int = 1) -> list[int]:
    """Parse a comma-separated list of whole numbers, without repeats; K means 1,024 and M 1,048,576.

    Args:
        text: The value received.
        option: The option's name, for the error.
        least: The smallest number that is allowed.

    Raises:
        typer.BadParameter: If an item is not a number or is too small.
    """
    found = [_LENGTH.fullmatch(item) for item in split_names(text)]
    lengths = [int(match[1]) * _UNITS[match[2].lower()] for match in found if match]
    if not lengths or None in found or min(lengths) < least:
        raise typer.BadParameter(
            f"{option} takes whole numbers of {least:,} or more such as 4096,128K,1M; got {text!r}"
        )
    return list(dict.fromkeys(lengths))


def parse_layers(text: str, option: str) -> list[int]:
    """Parse a comma-separated list of layer numbers.

    Raises:
        typer.BadParameter: If an item is not a whole number of 0 or more.
    """
    layers = split_names(text)
    if not layers or not all(layer.isdecimal() for layer in layers):
        raise typer.BadParameter(
            f"{option} takes layer numbers such as 0,3,6 (0 is the embeddings); got {text!r}"
        )
    return [int(layer) for layer in layers]
