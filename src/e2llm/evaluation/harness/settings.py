"""The settings of the lm-evaluation-harness model, checked before a model is loaded."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from e2llm.errors import E2LLMError
from e2llm.inference.options import Selector
from e2llm.modeling.rates import Rate, check_rate
from e2llm.validation import CheckedModel

# Fields with the document of a task in lm_eval 0.4.13: LongBench, InfiniteBench and SQuAD (context), RULER
# and BABILong (input), BoolQ and DROP (passage), RACE (article), SCROLLS (text), CoQA (story), ...
CONTEXT_FIELDS = (
    *("context", "input", "passage", "article", "document", "story", "text", "report", "transcript"),
    *("dialogue", "book", "content"),
)


def _fields(value: Any) -> Any:
    """Return field names from `a+b`, a list, or None for the usual ones."""
    if value is None:
        return CONTEXT_FIELDS
    names = value.split("+") if isinstance(value, str) else list(value)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise E2LLMError(
            f"context_field takes names of fields, such as context or passage+text; got {value!r}"
        )
    return tuple(name.strip() for name in names)


def _rate(value: Any) -> Any:
    """Return a checked rate; lm_eval's command line gives numbers as numbers or as text."""
    text = isinstance(value, str) and value.isdecimal()
    return value if value is None else check_rate(int(value) if text else value)


class HarnessSettings(CheckedModel):
    """How prompts are laid out; docs/harness.md describes each setting with examples.

    Attributes:
        soft_tokens: Per chunk, from 1 to the model's most; None for as many as fit; 0 compresses nothing.
        rate: Encoder tokens per soft token, for models with the `pooling` adapter; None for the model's.
        expand: Number of chunks, chosen by the rest of the prompt, to give as text instead of soft tokens.
        select: How they are chosen.
        context_field: Fields of a task's row that may hold its document; a dot leads into a nested row.
        min_context_tokens: Shorter documents stay raw, in decoder tokens (chosen here: about one chunk).
        raw_tokens: With `overflow="compress"`, tokens at the end of a prompt without a known document that
            stay raw; the text before them is compressed even where the prompt would fit. None for half of
            the room, and only in prompts that do not fit.
        max_length: Positions to use; None for the decoder's window.
        max_gen_toks: Longest answer in tokens, for tasks that name none (lm_eval's default).
        overflow: A prompt without a known document that does not fit: compress its older part, cut it off as
            lm_eval's `hf` does, or raise an error. With `error`, chunks that do not fit are an error, too;
            otherwise the most relevant ones are kept.
    """

    soft_tokens: Annotated[int, Field(ge=0)] | None = None
    rate: Annotated[Rate | None, BeforeValidator(_rate)] = None
    expand: Annotated[int, Field(ge=0)] = 0
    select: Selector = "bm25"
    context_field: Annotated[tuple[str, ...], BeforeValidator(_fields)] = CONTEXT_FIELDS
    min_context_tokens: Annotated[int, Field(ge=0)] = 128
    raw_tokens: Annotated[int, Field(ge=1)] | None = None
    max_length: Annotated[int, Field(ge=2)] | None = None
    max_gen_toks: Annotated[int, Field(ge=1)] = 256
    overflow: Literal["compress", "truncate", "error"] = "compress"

    @model_validator(mode="after")
    def _fit_together(self) -> "HarnessSettings":
        if self.raw_tokens is not None and self.overflow != "compress":
            raise E2LLMError(f"raw_tokens has no effect with overflow={self.overflow}; leave one of them out")
        if self.rate is not None and self.soft_tokens is not None:
            raise E2LLMError("soft_tokens and rate were given; a model takes one of them: leave one out")
        if self.soft_tokens == 0 and (self.expand or self.raw_tokens is not None):
            raise E2LLMError("soft_tokens=0 compresses nothing; expand and raw_tokens have no effect with it")
        return self

    @property
    def compresses(self) -> bool:
        """Whether any text becomes soft tokens."""
        return self.soft_tokens != 0
