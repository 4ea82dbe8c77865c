"""The dial: convert `rate=` or `soft_tokens=` into the number of soft tokens of each chunk.

Models with the `pooling` adapter have a rate, encoder tokens per soft token. Those with
`attention` and `mlp` have a number of soft tokens per chunk. The planner counts soft tokens only.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from e2llm.errors import E2LLMError, E2LLMWarning
from e2llm.messages import counted
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
    """One setting of the dial, applied to the chunks of a context.

    Attributes:
        counts: Soft tokens of each chunk.
        soft_tokens: The number that all chunks share, for models with `soft_tokens`; else None.
        rate: The rate that all chunks share; None if they differ or the model has no rate.
        values: If the chunks differ, the rate or number of soft tokens of each.
    """

    counts: Sequence[int]
    soft_tokens: int | None = None
    rate: Rate | None = None
    values: Sequence[Rate] | None = None

    def value_of(self, chunk: int) -> Rate:
        """Return the rate of a chunk, or its number of soft tokens if the model has no rate."""
        if self.values is not None:
            return self.values[chunk]
        return self.soft_tokens if self.rate is None else self.rate  # type: ignore[return-value]

    @property
    def name(self) -> str:
        """A label such as `2 soft token(s) each` or `rate 4`."""
        if self.rate == ONE_PER_CHUNK:
            return "one soft token each"
        if self.rate is not None:
            return f"rate {self.rate}"
        if self.soft_tokens is None:
            return "their soft tokens"
        return f"{counted(self.soft_tokens, 'soft token')} each"


class Dial:
    """Convert `soft_tokens=` or `rate=` into numbers of soft tokens per chunk.

    Args:
        model: Its adapter decides which of the two options it has.
    """

    def __init__(self, model: CompositeModel) -> None:
        self._model = model
        self._warned: set[str] = set()

    @property
    def has_rate(self) -> bool:
        """Whether the model has a rate."""
        return bool(self._model.adapter.dial == "rate")

    @property
    def rates(self) -> list[Rate]:
        """Rates that policies may use, finest first: those of training, or all if these are unknown."""
        finest = self._model.config.finest_rate
        known = trained_rates(self._model.config.trained_on) or RATES
        return [rate for rate in known if encoder_tokens(rate) >= finest]

    def check(self, soft_tokens: Any = None, rate: Any = None) -> None:
        """Refuse an option that the model does not have, and values out of range.

        Args:
            soft_tokens: A number of soft tokens per chunk, or a list with one for each; None if not given.
            rate: A rate, or a list with one for each chunk; None if not given.

        Raises:
            E2LLMError: If the option or a value is wrong; names the right option and values.
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
        """Warn if soft tokens use a rate without training, and return the warning.

        Returns:
            None if the model was trained at all these rates, or its rates of training are unknown.
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
        """Return whether to give text alone: the adapter is untrained and no soft tokens were requested."""
        if self._model.is_trained or wants_soft:
            return False
        self.warn(f"{UNTRAINED}; train it, or set a rate to use its soft tokens anyway")
        return True

    def warn(self, message: str) -> None:
        """Emit a warning, once for each model."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, E2LLMWarning, stacklevel=2)

    def level(self, num_tokens: Sequence[int], soft_tokens: Any = None, rate: Any = None) -> Level:
        """Return the requested level; by default the one with the most soft tokens.

        Args:
            num_tokens: Encoder tokens of each chunk; unused if the model has no rate.
            soft_tokens: See `check`, which must have been called.
            rate: The same.

        Raises:
            E2LLMError: If a list does not have one value for each chunk.
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
        """Return all levels, finest first; the last gives one soft token per chunk."""
        values: Sequence[Any] = range(self._model.config.max_soft_tokens, 0, -1)
        if self.has_rate:
            values = self.rates if ONE_PER_CHUNK in self.rates else [*self.rates, ONE_PER_CHUNK]
        return [self._at(value, num_tokens) for value in values]

    def _at(self, value: Any, num_tokens: Sequence[int]) -> Level:
        """Return the level with one value for all chunks."""
        if self.has_rate:
            return Level([count_soft_tokens(length, value) for length in num_tokens], rate=value)
        return Level([value] * len(num_tokens), soft_tokens=value)


def trained_rates(trained_on: dict[str, int] | None) -> list[Rate]:
    """Return the rates that a model was trained at, finest first, from its `trained_on`."""
    names = [name for name, count in (trained_on or {}).items() if count and name != TEXT_LEVEL]
    return sorted(map(parse_rate, names), key=encoder_tokens)


def _is_one(value: Any) -> bool:
    return isinstance(value, int | str)


def _values(value: Any) -> list[Any]:
    """Return the values of an option as a list: empty, one, or several."""
    return [] if value is None else [value] if _is_one(value) else list(value)


def _listed(rates: Sequence[Rate]) -> str:
    return ", ".join(map(str, rates))
