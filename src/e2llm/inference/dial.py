"""The dial: how many soft tokens each chunk gets, as a user or the window asks for it.

Models with the `pooling` adapter are turned by the rate, encoder tokens per soft token; those with
`attention` and `mlp` by the number of soft tokens per chunk. The planner counts soft tokens only.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from e2llm.errors import E2LLMError, E2LLMWarning
from e2llm.modeling.composite import CompositeModel
from e2llm.modeling.decoder_input import one_per_chunk
from e2llm.modeling.rates import (
    ONE_PER_CHUNK,
    RATES,
    TEXT_LEVEL,
    Rate,
    check_rate,
    count_soft_tokens,
    encoder_tokens,
    parse_rate,
)

UNTRAINED = "the adapter of this model is not trained yet, so it answers from raw text"


@dataclass(frozen=True)
class Level:
    """One position of the dial, for the chunks of a context.

    Attributes:
        counts: Soft tokens of each chunk.
        soft_tokens: The one number that all chunks have, where the dial is that; else None.
        rate: The one rate of all chunks; None where they differ, or the dial is `soft_tokens`.
        values: Where the chunks differ, the rate or the number of soft tokens of each.
    """

    counts: Sequence[int]
    soft_tokens: int | None = None
    rate: Rate | None = None
    values: Sequence[Rate] | None = None

    def value_of(self, chunk: int) -> Rate:
        """The rate of a chunk, or its number of soft tokens where the dial is that."""
        if self.values is not None:
            return self.values[chunk]
        return self.soft_tokens if self.rate is None else self.rate  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """Such as `2 soft token(s) each` or `rate 4`."""
        if self.rate == ONE_PER_CHUNK:
            return "one soft token each"
        if self.rate is not None:
            return f"rate {self.rate}"
        return "their soft tokens" if self.soft_tokens is None else f"{self.soft_tokens} soft token(s) each"


class Dial:
    """Turns `soft_tokens=` or `rate=` into numbers of soft tokens per chunk.

    Args:
        model: Its adapter says which of the two it is turned by.
    """

    def __init__(self, model: CompositeModel) -> None:
        self._model = model
        self._warned: set[str] = set()

    @property
    def has_rate(self) -> bool:
        """Whether the dial is the rate."""
        return bool(self._model.adapter.dial == "rate")

    @property
    def rates(self) -> list[Rate]:
        """Rates to choose from, finest first: those of training, or all where these are unknown."""
        finest = self._model.config.finest_rate
        known = trained_rates(self._model.config.trained_on) or RATES
        return [rate for rate in known if encoder_tokens(rate) >= finest]

    def check(self, soft_tokens: Any = None, rate: Any = None) -> None:
        """Refuse an option that the model does not have, and values that it cannot make.

        Args:
            soft_tokens: A number of soft tokens per chunk, or a list with one for each; None if not given.
            rate: The same of rates.

        Raises:
            E2LLMError: Says which option the model has, and which values.
        """
        config = self._model.config
        if soft_tokens is not None and self.has_rate:
            raise E2LLMError(
                f"soft_tokens={soft_tokens!r} was given, but this model ({config.adapter!r} adapter) "
                f"has a rate instead (encoder tokens per soft token); use rate, such as {_listed(self.rates)}"
            )
        if rate is not None and not self.has_rate:
            raise E2LLMError(
                f"rate={rate!r} was given, but this model ({config.adapter!r} adapter) has instead a "
                f"number of soft tokens per chunk; use soft_tokens, from 1 to {config.max_soft_tokens}"
            )
        for value in _values(soft_tokens):
            self._model.check_num_soft_tokens(value)
        for value in dict.fromkeys(_values(rate)):
            if encoder_tokens(check_rate(value)) < config.finest_rate:
                raise E2LLMError(
                    f"rate {value} was requested, but one state per {config.finest_rate} encoder tokens is "
                    f"kept; read the documents again with finest_rate={value}, or use rate "
                    f"{config.finest_rate} or coarser"
                )

    def note_on(self, rates: Iterable[Rate]) -> str | None:
        """Return what a user has to know of the rates that soft tokens are made at, and warn of it.

        Returns:
            None if the model was trained at all of them, or its rates of training are unknown.
        """
        used = list(dict.fromkeys(rates))
        if not used:
            return None
        if not self._model.is_trained:
            note = (
                f"rate {_listed(used)} is used, but the adapter of this model is not trained yet: the "
                "decoder cannot read its soft tokens; train it, or leave rate out to answer from raw text"
            )
        else:
            trained = trained_rates(self._model.config.trained_on)
            untrained = [rate for rate in used if trained and rate not in trained]
            if not untrained:
                return None
            note = (
                f"rate {_listed(untrained)} is used, but this model was trained at {_listed(trained)}; "
                "expect worse answers, or use one of these"
            )
        self.warn(note)
        return note

    def answers_raw(self, wants_soft: bool) -> bool:
        """Whether text alone has to answer: the adapter is untrained, and no soft tokens were requested."""
        if self._model.is_trained or wants_soft:
            return False
        self.warn(f"{UNTRAINED}; train it, or set a rate to use its soft tokens anyway")
        return True

    def warn(self, message: str) -> None:
        """Warn of something, once for each model."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, E2LLMWarning, stacklevel=2)

    def level(self, num_tokens: Sequence[int], soft_tokens: Any = None, rate: Any = None) -> Level:
        """Return the given position of the dial; by default the one with most soft tokens.

        Args:
            num_tokens: Encoder tokens of each chunk; not used where the dial is the number of soft tokens.
            soft_tokens: See `check`, which must have been called.
            rate: The same.

        Raises:
            E2LLMError: If a list has not one value for each chunk.
        """
        given = rate if self.has_rate else soft_tokens
        if given is None:
            return self.finest_first(num_tokens)[0]
        if _is_one(given):
            return self._at(given, num_tokens)
        values = one_per_chunk(len(num_tokens), range(len(num_tokens)), soft_tokens, rate)
        if len(set(values)) == 1:
            return self._at(values[0], num_tokens)
        counts = values
        if self.has_rate:
            counts = [count_soft_tokens(n, item) for n, item in zip(num_tokens, values, strict=True)]
        return Level(counts, values=values)

    def finest_first(self, num_tokens: Sequence[int]) -> list[Level]:
        """Return all positions of the dial, the one with most soft tokens first; the last has one each."""
        values: Sequence[Any] = range(self._model.config.max_soft_tokens, 0, -1)
        if self.has_rate:
            values = self.rates if ONE_PER_CHUNK in self.rates else [*self.rates, ONE_PER_CHUNK]
        return [self._at(value, num_tokens) for value in values]

    def _at(self, value: Any, num_tokens: Sequence[int]) -> Level:
        """The position of the dial at one value for all chunks."""
        if self.has_rate:
            return Level([count_soft_tokens(length, value) for length in num_tokens], rate=value)
        return Level([value] * len(num_tokens), soft_tokens=value)


def trained_rates(trained_on: dict[str, int] | None) -> list[Rate]:
    """Rates that a model was trained at, finest first, by its configuration's `trained_on`."""
    names = [name for name, count in (trained_on or {}).items() if count and name != TEXT_LEVEL]
    return sorted(map(parse_rate, names), key=encoder_tokens)


def _is_one(value: Any) -> bool:
    return isinstance(value, int | str)


def _values(value: Any) -> list[Any]:
    """The values of an option: none, one, or those of a list."""
    return [] if value is None else [value] if _is_one(value) else list(value)


def _listed(rates: Sequence[Rate]) -> str:
    return ", ".join(map(str, rates))
