"""Define the options of a question: meaning, range and default of each.

The library, the command line, the server and the evaluation take these; a new option of `ask` is one field.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, StrictStr, model_validator

from e2llm.errors import E2LLMError
from e2llm.inference.planning import DEFAULT_BUDGET
from e2llm.modeling.rates import Rate, check_rate
from e2llm.surrogates import check_text
from e2llm.validation import Allowed, CheckedModel


def _as_list(value: Any) -> Any:
    """Return any sequence except a text as a list, and other values unchanged."""
    return list(value) if _is_list(value) else value


def _as_pairs(value: Any) -> Any:
    """Return turns as tuples, whatever sequences they were given as."""
    return [tuple(turn) if isinstance(turn, list) else turn for turn in value] if _is_list(value) else value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _check_rates(value: Any) -> Any:
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        check_rate(item)
    return value


def _check_question(value: str) -> str:
    if not value.strip():
        raise E2LLMError("the question is empty; ask something")
    check_text(value, "the question")
    return value


Selector = Literal["bm25", "encoder", "fused"]
PolicyName = Literal["mixed", "raw", "soft", "uniform"]
Count = Annotated[StrictInt, Field(ge=0)]
OneOrMore = Annotated[StrictInt, Field(ge=1)]
Numbers = Annotated[list[StrictInt], Field(fail_fast=True)]


class LayoutOptions(CheckedModel):
    """Options of the decoder's input, which server requests may set too."""

    budget: Annotated[OneOrMore | None, Allowed("a whole number, 1 or more")] = Field(
        None,
        description="Most decoder positions of the input; by default "
        f"{DEFAULT_BUDGET:,}, or more if the chunks and rates that the request names need it.",
    )
    policy: Annotated[PolicyName | None, Allowed("mixed, raw, soft or uniform")] = Field(
        None,
        description="How to spend the budget: `mixed`, text for the most relevant chunks and one soft token "
        "for each other; `raw`, text alone; `soft`, soft tokens alone, finer for relevant chunks; `uniform`, "
        "the same form for each chunk. By default `mixed`, or `raw` if the adapter is untrained.",
    )
    soft_tokens: Annotated[
        StrictInt | Numbers | None,
        BeforeValidator(_as_list),
        Allowed("a whole number, or a list with one for each chunk"),
    ] = Field(
        None,
        description="Soft tokens per chunk, or a list with one number for each chunk, of models with the "
        "`attention` or `mlp` adapter; by default the policy chooses.",
    )
    rate: Annotated[Rate | list[Rate] | None, BeforeValidator(_check_rates), BeforeValidator(_as_list)] = (
        Field(
            None,
            description="Encoder tokens per soft token (a power of two or `one`), or a list with a rate for "
            "each chunk, of models with the `pooling` adapter; by default the policy chooses.",
        )
    )
    expand: Annotated[
        Count | Numbers | None,
        BeforeValidator(_as_list),
        Allowed("a number of chunks, 0 or more, or a list of chunk indices"),
    ] = Field(
        None,
        description="Chunks to give as text: a number (the most relevant ones) or a list of indices; by "
        "default the policy chooses, or none if the request names a rate or soft tokens.",
    )
    select: Annotated[Selector, Allowed("bm25, encoder or fused")] = Field(
        "bm25",
        description="How to rank chunks: `bm25`, by words shared with the question; `encoder`, by "
        "similarity of the encoder's embeddings; `fused`, by both (reciprocal rank).",
    )
    overflow: Annotated[Literal["error", "select"], Allowed("error or select")] = Field(
        "error",
        description="What happens if chunks do not fit at the rate that the request names: `error`, or "
        "`select` to keep those most relevant to the question.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> "LayoutOptions":
        if self.soft_tokens is not None and self.rate is not None:
            raise E2LLMError(
                f"soft_tokens={self.soft_tokens!r} and rate={self.rate!r} were given, but a model has one of "
                "them (rate, if its adapter is 'pooling'); leave the other out"
            )
        if self.policy == "raw" and (self.soft_tokens is not None or self.rate is not None):
            raise E2LLMError(
                "rate and soft_tokens have no effect with policy='raw', which gives text alone; drop them"
            )
        return self

    @property
    def has_level(self) -> bool:
        """Whether the request names a rate or a number of soft tokens."""
        return self.soft_tokens is not None or self.rate is not None


class AskOptions(LayoutOptions):
    """Options of the decoder's input, of the answer's length, and of its sources."""

    max_new_tokens: Annotated[OneOrMore, Allowed("a whole number, 1 or more")] = Field(
        64, description="Most tokens of the answer."
    )
    sources: Annotated[Literal["measured", "ranked"] | None, Allowed("measured or ranked")] = Field(
        None,
        description="How to find the answer's sources: `measured`, by what its likelihood loses without each "
        "of the best chunks; `ranked`, by relevance. By default `measured` if the decoder allows it.",
    )
    tool_calls: Annotated[Count, Allowed("a whole number, 0 or more")] = Field(
        0,
        description="Most calls of tools (`search` for words, `expand` a chunk) that the decoder may make "
        "before it answers; needs a chat template with tools.",
    )
    refine: Annotated[StrictInt, Field(ge=0, le=3), Allowed("a whole number from 0 to 3")] = Field(
        0,
        description="How often to answer again with the sources that were soft tokens given as text.",
    )


class SamplingOptions(CheckedModel):
    """Options for drawing the tokens of an answer, of the library and the server alike."""

    temperature: Annotated[float, Allowed("a number from 0 to 2")] = Field(
        0.0, ge=0, le=2, description="0 for the most likely answer."
    )
    top_p: Annotated[float, Allowed("a number above 0 and at most 1")] = Field(1.0, gt=0, le=1)


class AskRequest(AskOptions):
    """A question with its options and the turns before it."""

    question: Annotated[StrictStr, AfterValidator(_check_question), Allowed("a text")]
    history: Annotated[
        list[tuple[StrictStr, StrictStr]],
        BeforeValidator(_as_pairs),
        Allowed("a list of pairs (question, answer)"),
    ] = Field([], description="Earlier questions with their answers, oldest first, given as text.")
    ranking: Annotated[StrictStr | None, Allowed("a text")] = Field(
        None, description="Text to rank the chunks by; by default the question."
    )

    @classmethod
    def take(cls, question: str, options: dict[str, Any]) -> "AskRequest":
        """Make a request from the options that are its fields, and remove these from `options`."""
        names = [name for name in cls.model_fields if name in options]
        return cls.read({"question": question, **{name: options.pop(name) for name in names}})
