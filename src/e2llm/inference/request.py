"""A question about a context and the options that lay it out, checked before anything is done."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from e2llm.errors import E2LLMError
from e2llm.modeling.rates import Rate, check_rate
from e2llm.surrogates import reject_lone_surrogates

SELECTORS = ("bm25", "encoder")
OVERFLOWS = ("error", "select")


@dataclass(frozen=True)
class Request:
    """A question and how its context is to be laid out; `Engine.ask` describes the fields.

    Raises:
        E2LLMError: If a field is out of its range.
    """

    question: str
    max_new_tokens: int
    soft_tokens: int | Sequence[int] | None = None
    expand: int | Sequence[int] = ()
    expand_tokens: int | None = None
    select: str = "bm25"
    raw_below: float | None = None
    overflow: str = "error"
    history: Sequence[tuple[str, str]] = ()
    window: int | None = None
    rate: Rate | Sequence[Rate] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.question, str) or not self.question.strip():
            raise E2LLMError(f"the question is empty or no text: {self.question!r}")
        reject_lone_surrogates(self.question, "the question")
        _check_count("max_new_tokens", self.max_new_tokens, least=1)
        _check_dial(self.soft_tokens, self.rate)
        if isinstance(self.expand, bool) or not isinstance(self.expand, int | Sequence):
            raise E2LLMError(f"expand takes a number of chunks or a list of indices, got {self.expand!r}")
        if isinstance(self.expand, int):
            _check_count("expand", self.expand, least=0)
        elif isinstance(self.expand, str) or not all(type(index) is int for index in self.expand):
            raise E2LLMError(f"expand takes a number of chunks or a list of indices, got {self.expand!r}")
        if self.expand_tokens is not None:
            _check_count("expand_tokens", self.expand_tokens, least=0)
            if not isinstance(self.expand, int) and len(self.expand):
                raise E2LLMError("expand_tokens goes with a number of chunks, not with a list of indices")
        if self.window is not None:
            _check_count("window", self.window, least=1)
        if self.select not in SELECTORS:
            raise E2LLMError(f"select={self.select!r} is unknown; choose one of: {', '.join(SELECTORS)}")
        if self.overflow not in OVERFLOWS:
            raise E2LLMError(f"overflow={self.overflow!r} is unknown; choose one of: {', '.join(OVERFLOWS)}")
        if self.raw_below is not None and not (
            isinstance(self.raw_below, int | float) and 0 <= self.raw_below <= 1
        ):
            raise E2LLMError(f"raw_below must be from 0 to 1, got {self.raw_below!r}")
        for turn in self.history if isinstance(self.history, Sequence) else [self.history]:
            is_pair = isinstance(turn, tuple | list) and len(turn) == 2
            if not is_pair or not all(isinstance(text, str) for text in turn):
                raise E2LLMError(f"history takes pairs (question, answer), got {turn!r}")

    @classmethod
    def take(cls, question: str, max_new_tokens: int, options: dict[str, Any]) -> "Request":
        """Make a request of the options that are its fields; they are taken out of `options`."""
        names = [item.name for item in fields(cls) if item.name in options]
        return cls(question, max_new_tokens, **{name: options.pop(name) for name in names})

    @property
    def ranks(self) -> bool:
        """Whether chunks have to be chosen by the question."""
        return self.expand_tokens is not None or (isinstance(self.expand, int) and self.expand > 0)


def _check_dial(soft_tokens: Any, rate: Any) -> None:
    """Refuse what is no number, no rate, and no list of these; the model refuses what it cannot make."""
    if soft_tokens is not None and rate is not None:
        raise E2LLMError(
            f"soft_tokens={soft_tokens!r} and rate={rate!r} were given; a model takes one of them, the rate "
            "if its adapter is 'pooling': leave the other out"
        )
    is_list = isinstance(soft_tokens, Sequence) and not isinstance(soft_tokens, str)
    if soft_tokens is not None and any(
        type(item) is not int for item in (soft_tokens if is_list else [soft_tokens])
    ):
        raise E2LLMError(
            f"soft_tokens must be a whole number, or a list with one for each chunk, got {soft_tokens!r}"
        )
    is_list = isinstance(rate, Sequence) and not isinstance(rate, str)
    for item in [] if rate is None else rate if is_list else [rate]:
        check_rate(item)


def _check_count(name: str, value: object, *, least: int) -> None:
    if type(value) is not int or value < least:
        raise E2LLMError(f"{name} must be {least} or more, a whole number, got {value!r}")
