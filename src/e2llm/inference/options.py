"""The options of a question: what each does, its range and its default, in one place.

The library, the command line, the server and the evaluation take these; a new option of `ask` is one field.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, StrictStr, model_validator

from e2llm.errors import E2LLMError
from e2llm.modeling.rates import Rate, check_rate
from e2llm.surrogates import reject_lone_surrogates
from e2llm.validation import Allowed, CheckedModel


def _as_list(value: Any) -> Any:
    """A list of any sequence but a text; other values as they are."""
    return list(value) if _is_list(value) else value


def _as_pairs(value: Any) -> Any:
    """Turns as tuples, whatever sequences they came as."""
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
    reject_lone_surrogates(value, "the question")
    return value


Selector = Literal["bm25", "encoder"]
Count = Annotated[StrictInt, Field(ge=0)]
OneOrMore = Annotated[StrictInt, Field(ge=1)]
Numbers = Annotated[list[StrictInt], Field(fail_fast=True)]


class LayoutOptions(CheckedModel):
    """How a question's context is laid out: what anyone who asks may choose, over the network too."""

    soft_tokens: Annotated[
        StrictInt | Numbers | None,
        BeforeValidator(_as_list),
        Allowed("a whole number, or a list with one for each chunk"),
    ] = Field(
        None,
        description="Soft tokens per chunk, or a list with one number for each chunk, of models with the "
        "`attention` or `mlp` adapter; by default as many as the window takes.",
    )
    rate: Annotated[Rate | list[Rate] | None, BeforeValidator(_check_rates), BeforeValidator(_as_list)] = (
        Field(
            None,
            description="Encoder tokens per soft token (a power of two or `one`), or a list with a rate for "
            "each chunk, of models with the `pooling` adapter; by default the model's, or a coarser one.",
        )
    )
    expand: Annotated[
        Count | Numbers | None,
        BeforeValidator(_as_list),
        Allowed("a number of chunks, 0 or more, or a list of chunk indices"),
    ] = Field(
        None,
        description="Chunks given as raw text instead of soft tokens: a number of chunks, chosen by the "
        "question, or a list of indices; by default one, or none where the window has no room for it.",
    )
    expand_tokens: Annotated[Count | None, Allowed("a whole number, 0 or more")] = Field(
        None,
        description="Most decoder tokens of the chunks that the question chooses, instead of a number of "
        "chunks or beside it.",
    )
    select: Annotated[Selector, Allowed("bm25 or encoder")] = Field(
        "bm25",
        description="How the question chooses chunks: `bm25`, by shared words (a chunk that shares none is "
        "not chosen), or `encoder`, by similarity of the encoder's embeddings.",
    )
    overflow: Annotated[Literal["error", "select"], Allowed("error or select")] = Field(
        "error",
        description="What happens if the context does not fit the window: `error`, or `select` to keep the "
        "chunks most relevant to the question.",
    )

    @model_validator(mode="after")
    def _check_together(self) -> "LayoutOptions":
        if self.soft_tokens is not None and self.rate is not None:
            raise E2LLMError(
                f"soft_tokens={self.soft_tokens!r} and rate={self.rate!r} were given; a model takes one of "
                "them, the rate if its adapter is 'pooling': leave the other out"
            )
        if self.expand_tokens is not None and isinstance(self.expand, list) and self.expand:
            raise E2LLMError("expand_tokens goes with a number of chunks, not with a list of indices")
        return self

    @property
    def chooses(self) -> bool:
        """Whether the question chooses chunks to be given as raw text."""
        return self.expand_tokens is not None or self.expand is None or self.num_expanded > 0

    @property
    def num_expanded(self) -> int:
        """Most chunks that the question chooses; 0 where only `expand_tokens` limits them."""
        if self.expand is None:
            return 0 if self.expand_tokens is not None else 1
        return self.expand if isinstance(self.expand, int) else 0

    @property
    def indices(self) -> list[int]:
        """Chunks given as raw text because the user named them."""
        return self.expand if isinstance(self.expand, list) else []


class AskOptions(LayoutOptions):
    """How a question's context is laid out, and how long its answer may be."""

    raw_below: Annotated[float | None, Field(ge=0, le=1), Allowed("from 0 to 1")] = Field(
        None,
        description="Chunks whose fidelity score (0 to 1) is below this are given as raw text too.",
    )
    window: Annotated[OneOrMore | None, Allowed("a whole number, 1 or more")] = Field(
        None, description="Positions that input and answer may take; by default the decoder's window."
    )
    max_new_tokens: Annotated[OneOrMore, Allowed("a whole number, 1 or more")] = Field(
        64, description="Longest answer, in tokens."
    )


class AskRequest(AskOptions):
    """A question, the conversation before it, and its options."""

    question: Annotated[StrictStr, AfterValidator(_check_question), Allowed("a text")]
    history: Annotated[
        list[tuple[StrictStr, StrictStr]],
        BeforeValidator(_as_pairs),
        Allowed("a list of pairs (question, answer)"),
    ] = Field([], description="Earlier questions with their answers, oldest first, given as text.")

    @classmethod
    def take(cls, question: str, options: dict[str, Any]) -> "AskRequest":
        """Make a request of the options that are its fields; they are taken out of `options`."""
        names = [name for name in cls.model_fields if name in options]
        return cls.read({"question": question, **{name: options.pop(name) for name in names}})
