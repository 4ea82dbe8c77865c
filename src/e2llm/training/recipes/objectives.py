"""The keys of a recipe's `objectives`: the mix, and what each objective draws."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from e2llm.modeling.rates import RATES, Rate, check_rate
from e2llm.training.recipes.part_sections import Section

ObjectiveName = Literal["understanding", "reasoning"]
Purpose = ObjectiveName | Literal["distractors"]
View = Literal["truncate", "bm25", "closed_book"]
PositiveInt = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
RateValue = Annotated[Rate, BeforeValidator(check_rate)]

# Keys without effect for other adapters, or when the context is raw text.
KEYS_OF_NUMBERS = ("soft_tokens",)
KEYS_OF_RATES = ("rates", "rate_weights")
_KEYS_OF_SOFT_TOKENS = (
    "max_chunks",
    "distractor_fraction",
    "distractor_max_chunks",
    "distractor_max_soft_tokens",
)
_KEYS_OF_TEXT = ("text_views", "text_budgets")


class UnderstandingObjective(Section):
    """Restate a window of chunks from its soft tokens."""

    fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of the samples; reasoning takes the rest."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of its loss; reasoning has 1 (paper v2: 1e-7 to 1e-9 with summed losses)."""
    window_chunks: list[PositiveInt] = Field(default=[1, 2, 4], min_length=1)
    """Window lengths in chunks to draw from."""
    chunk_sizes_chars: list[Annotated[int, Field(ge=16)]] = Field(default=[])
    """Chunk sizes to draw from; by default chunking.chunk_size_chars."""
    continue_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of these samples whose answer is the chunk after the window."""


class ReasoningObjective(Section):
    """Answer a question from the soft tokens of its context, or from raw text."""

    context: Literal["soft_tokens", "text"] = "soft_tokens"
    """What the decoder gets of the context; `text` trains a baseline."""
    text_views: dict[View, Weight] = Field(default={"truncate": 1.0, "bm25": 1.0, "closed_book": 0.2})
    """With `context: text`, how often each view of a context that does not fit is drawn."""
    text_budgets: list[PositiveInt] = Field(default=[])
    """With `context: text`, positions of input and answer to draw from; by default the window."""
    max_chunks: int | None = Field(default=None, ge=1)
    """Longer contexts are cut to this many chunks around the evidence."""
    distractor_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples with chunks of other contexts around theirs, from files with `distractors`, else
    from those that serve reasoning."""
    distractor_max_chunks: int = Field(default=8, ge=1)
    """Most such chunks in a sample."""
    distractor_max_soft_tokens: int | None = Field(default=None, ge=1)
    """Most soft tokens of these chunks."""
    turns: int = Field(default=1, ge=1)
    """Most questions about one context in a sample, as in a conversation."""

    def most_distractors_per_side(self, num_soft_tokens: int) -> int:
        """Return the most chunks of other contexts before a sample's own, and after them.

        Args:
            num_soft_tokens: Soft tokens per chunk of the sample.
        """
        most = (self.distractor_max_chunks + 1) // 2
        if self.distractor_max_soft_tokens is not None:
            most = min(most, self.distractor_max_soft_tokens // num_soft_tokens // 2)
        return most if self.distractor_fraction else 0

    @model_validator(mode="after")
    def _check(self) -> "ReasoningObjective":
        if not any(self.text_views.values()):
            raise ValueError("the weights of text_views are all 0; set one above 0")
        idle = _KEYS_OF_SOFT_TOKENS if self.context == "text" else _KEYS_OF_TEXT
        if names := self.changed(idle):
            other = "soft_tokens" if self.context == "text" else "text"
            raise ValueError(
                f"{', '.join(names)} has no effect with context: {self.context}; leave it out, or set "
                f"context: {other}"
            )
        return self


class DistillationSection(Section):
    """Learn from the same decoder's answers to raw text."""

    teacher: str | None = None
    """Checkpoint trained with `objectives.reasoning.context: text` and LoRA on the same decoder."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of the KL divergence from the teacher's answers."""


class ObjectivesSection(Section):
    """The mix of objectives."""

    understanding: UnderstandingObjective = UnderstandingObjective()
    reasoning: ReasoningObjective = ReasoningObjective()
    soft_tokens: list[PositiveInt] = Field(default=[1, 2, 4, 8], min_length=1)
    """For other adapters than `pooling`: soft tokens per chunk, one drawn per optimizer step. Repeat a number
    to draw it more often."""
    rates: list[RateValue] = Field(default=[rate for rate in RATES if rate not in (1, 32)], min_length=1)
    """For `pooling`: encoder tokens per soft token. Every batch has all of them."""
    rate_weights: list[Annotated[float, Field(gt=0)]] = Field(default=[])
    """How often each rate is drawn; by default equally."""
    mixed_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples in which some chunks are raw text."""
    distillation: DistillationSection = DistillationSection()
    reduction: Literal["mean", "sum"] = "mean"
    """Mean loss over tokens (ours) or sum over the batch (paper)."""

    @model_validator(mode="after")
    def _check(self) -> "ObjectivesSection":
        if self.rate_weights and len(self.rate_weights) != len(self.rates):
            raise ValueError(
                f"rate_weights has {len(self.rate_weights)} numbers, but rates has {len(self.rates)}; give "
                "one weight per rate"
            )
        if self.reasoning.context == "text":
            self._check_text()
        return self

    def _check_text(self) -> None:
        """Refuse what needs soft tokens beside raw text."""
        if self.understanding.fraction:
            raise ValueError(
                f"understanding.fraction={self.understanding.fraction:g} does not work with "
                "reasoning.context: text, which has no soft tokens to restate; set understanding.fraction: "
                "0"
            )
        if names := self.changed((*KEYS_OF_NUMBERS, *KEYS_OF_RATES, "mixed_fraction", "distillation")):
            raise ValueError(f"{', '.join(names)} has no effect with reasoning.context: text; leave it out")

    def fractions(self) -> dict[str, float]:
        """Return the share of the samples per objective."""
        understanding = self.understanding.fraction
        return {"understanding": understanding, "reasoning": 1 - understanding}
