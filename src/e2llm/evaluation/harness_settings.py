"""What a user may set of the lm-evaluation-harness model, checked before a model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from e2llm.errors import E2LLMError
from e2llm.inference.options import Selector
from e2llm.modeling.rates import Rate, check_rate

Overflow = Literal["compress", "truncate", "error"]
Rolling = Literal["compress", "plain"]

# Where the tasks of lm_eval 0.4.13 keep what is to be read: LongBench, InfiniteBench and SQuAD (context),
# RULER and BABILong (input), BoolQ and DROP (passage), RACE (article), SCROLLS (text), CoQA (story), ...
CONTEXT_FIELDS = (
    "context",
    "input",
    "passage",
    "article",
    "document",
    "story",
    "text",
    "report",
    "transcript",
    "dialogue",
    "book",
    "content",
)


@dataclass(frozen=True)
class HarnessSettings:
    """How prompts are laid out; docs/harness.md describes each with examples.

    Attributes:
        soft_tokens: Per chunk, from 1 to the model's most; None for as many as fit; 0 compresses nothing.
        rate: Encoder tokens per soft token, for models with the `pooling` adapter; None for the model's.
        expand: Number of chunks, chosen by the rest of the prompt, whose raw text stands in the place of
            their soft tokens.
        select: How they are chosen: `bm25` or `encoder`.
        context_fields: Fields of a task's row that may hold its document; a dot leads into a nested row.
        min_context_tokens: Shorter documents stay raw, in decoder tokens (chosen here: about one chunk).
        raw_tokens: With `overflow="compress"`, how many tokens at the end of a prompt without a known
            document stay raw; what stands before them is compressed even where the prompt would fit. None
            for half of the room, and only in prompts that do not fit.
        max_length: Positions that are used; None for the decoder's window.
        max_gen_toks: Longest answer in tokens, for tasks that name none (lm_eval's own default).
        overflow: A prompt without a known document that does not fit: its older part is compressed, or cut
            off as lm_eval's `hf` does, or an error. With `error`, chunks that do not fit are one too; else
            the most relevant ones are kept.
        rolling: Texts longer than the window in `loglikelihood_rolling`: what was read before a window is
            compressed, or forgotten as lm_eval's `hf` does.

    Raises:
        E2LLMError: If a value is out of its range, or settings do not go together.
    """

    soft_tokens: int | None = None
    expand: int = 0
    select: str = "bm25"
    context_fields: tuple[str, ...] = CONTEXT_FIELDS
    min_context_tokens: int = 128
    raw_tokens: int | None = None
    max_length: int | None = None
    max_gen_toks: int = 256
    overflow: Overflow = "compress"
    rolling: Rolling = "compress"
    rate: Rate | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("soft_tokens", 0),
            ("expand", 0),
            ("min_context_tokens", 0),
            ("raw_tokens", 1),
            ("max_length", 2),
            ("max_gen_toks", 1),
        ):
            value = getattr(self, name)
            optional = name in ("soft_tokens", "raw_tokens", "max_length")
            if not (optional and value is None) and (type(value) is not int or value < least):
                raise E2LLMError(f"{name} must be a whole number, {least} or more, got {value!r}")
        for name, allowed in (
            ("select", get_args(Selector)),
            ("overflow", get_args(Overflow)),
            ("rolling", get_args(Rolling)),
        ):
            if getattr(self, name) not in allowed:
                raise E2LLMError(f"{name}={getattr(self, name)!r}: choose one of: {', '.join(allowed)}")
        if self.raw_tokens is not None and self.overflow != "compress":
            raise E2LLMError(f"raw_tokens has no effect with overflow={self.overflow}; leave one of them out")
        if self.rate is not None:
            check_rate(self.rate)
            if self.soft_tokens is not None:
                raise E2LLMError("soft_tokens and rate were given; a model takes one of them: leave one out")
        if self.soft_tokens == 0 and (self.expand or self.raw_tokens is not None):
            raise E2LLMError("soft_tokens=0 compresses nothing; expand and raw_tokens have no effect with it")

    @property
    def compresses(self) -> bool:
        """Whether any text becomes soft tokens."""
        return self.soft_tokens != 0


def parse_fields(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Field names from a model argument: None for the usual ones, `a+b`, or a list.

    Raises:
        E2LLMError: If there is no name in it.
    """
    if value is None:
        return CONTEXT_FIELDS
    names = value.split("+") if isinstance(value, str) else list(value)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise E2LLMError(
            f"context_field takes names of fields, such as context or passage+text; got {value!r}"
        )
    return tuple(name.strip() for name in names)
