"""The options of commands that turn a model's dial: `--rate`, beside `--soft-tokens`, and `--finest-rate`."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from e2llm.inference.engine import Engine
    from e2llm.modeling.rates import Rate

RATE_HELP = "Encoder tokens per soft token (2, 4, 8, ...), or one: a soft token per chunk."
RateOption = Annotated[str | None, typer.Option("--rate", metavar="N|one", help=RATE_HELP)]
FinestRateOption = Annotated[
    int | None,
    typer.Option(
        "--finest-rate",
        min=1,
        help="Keep one state per so many encoder tokens; no finer rate can be asked for, but they take less "
        "room. By default the model's.",
    ),
]


def take_rate(text: str | None) -> "Rate | None":
    """Return the rate that an option gives.

    Raises:
        E2LLMError: If it is no rate.
    """
    from e2llm.modeling.rates import parse_rate

    return None if text is None else parse_rate(text)


def keep_as_saved(engine: "Engine", file: Path) -> None:
    """Let an engine keep as much as a saved context does, so that this can be loaded."""
    from e2llm.errors import E2LLMError
    from e2llm.inference.context_file import saved_finest_rate

    if (rate := saved_finest_rate(file)) is not None:
        with suppress(E2LLMError):  # of a model without a rate: loading says what is wrong
            engine.model.set_finest_rate(rate)


def level_name(soft_tokens: int, rate: "Rate | None") -> str:
    """Return such as `4 soft token(s)` or `rate 8`."""
    return f"{soft_tokens} soft token(s)" if rate is None else f"rate {rate}"
