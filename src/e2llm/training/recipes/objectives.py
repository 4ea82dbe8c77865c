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
    """Restating a window of chunks from its soft tokens."""

    fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of the samples; reasoning takes the rest."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of its mean loss against the reasoning loss (paper v2: 1e-7 to 1e-9 with summed losses)."""
    window_chunks: list[PositiveInt] = Field(default=[1, 2, 4], min_length=1)
    """Window lengths to draw from, in chunks."""
    chunk_sizes_chars: list[Annotated[int, Field(ge=16)]] = Field(default=[])
    """Chunk sizes to draw from; by default only chunking.chunk_size_chars. A new adapter needs short ones."""
    continue_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples that continue the window: the answer is the chunk after it, which takes more than
    copying (arXiv 2510.20535)."""


class ReasoningObjective(Section):
    """Answering an instruction from the soft tokens of the whole context, or from raw text."""

    context: Literal["soft_tokens", "text"] = "soft_tokens"
    """How the decoder gets the context: as soft tokens, or as raw text alone, which trains a baseline."""
    text_views: dict[View, Weight] = Field(default={"truncate": 1.0, "bm25": 1.0, "closed_book": 0.2})
    """With context text: how often each view of a context that does not fit is drawn. `truncate`: beginning
    and end, half of the room each; `bm25`: the passages that share most words with the question;
    `closed_book`: nothing."""
    text_budgets: list[PositiveInt] = Field(default=[])
    """With context text: positions of input and answer to cut to, drawn per sample; by default the window."""
    max_chunks: int | None = Field(default=None, ge=1)
    """Longer contexts are cut to a run of this many chunks around the evidence; none keeps all."""
    distractor_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples whose context is surrounded by chunks of other contexts: those of the files that
    list `distractors` under `objectives`, by default those that serve reasoning."""
    distractor_max_chunks: int = Field(default=8, ge=1)
    """Most chunks of other contexts in such a sample."""
    distractor_max_soft_tokens: int | None = Field(default=None, ge=1)
    """Most soft tokens of these chunks, so that a sample has more of them at coarser rates."""
    turns: int = Field(default=1, ge=1)
    """Most questions about one context in a sample, one after another as in a conversation: the context is
    read once for all of them."""

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
    """Soft targets: answers of the same decoder from raw text, with LoRA deltas trained for that."""

    teacher: str | None = None
    """Checkpoint whose decoder has these deltas, trained with `objectives.reasoning.context: text` on the
    same base; the teacher's pass switches them on: no second decoder is in memory. None: no soft targets."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of the mean KL divergence from the teacher's answers, beside the loss of the tokens."""


class ObjectivesSection(Section):
    """The mix of objectives."""

    understanding: UnderstandingObjective = UnderstandingObjective()
    reasoning: ReasoningObjective = ReasoningObjective()
    soft_tokens: list[PositiveInt] = Field(default=[1, 2, 4, 8], min_length=1)
    """Soft tokens per chunk, one drawn for each optimizer step: the compression dial. A number listed twice
    is drawn twice as often."""
    rates: list[RateValue] = Field(default=[rate for rate in RATES if rate not in (1, 32)], min_length=1)
    """Encoder tokens per soft token, instead of soft_tokens, for the pooling adapter: every batch has all of
    them."""
    rate_weights: list[Annotated[float, Field(gt=0)]] = Field(default=[])
    """How often each is drawn; by default equally."""
    mixed_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples in which some chunks are raw text: with the pooling adapter, a quarter of the
    chunks, and the others have a rate each; else one or two chunks of a reasoning sample, mostly with the
    evidence."""
    distillation: DistillationSection = DistillationSection()
    reduction: Literal["mean", "sum"] = "mean"
    """Losses are means over tokens (chosen here) or sums over the batch (paper)."""

    @model_validator(mode="after")
    def _check(self) -> "ObjectivesSection":
        if self.rate_weights and len(self.rate_weights) != len(self.rates):
            raise ValueError(
                f"rate_weights has {len(self.rate_weights)} numbers, rates has {len(self.rates)}; give one "
                "weight per entry"
            )
        if self.reasoning.context == "text":
            self._check_text()
        return self

    def _check_text(self) -> None:
        """Refuse what needs soft tokens beside raw text."""
        if self.understanding.fraction:
            raise ValueError(
                f"understanding.fraction={self.understanding.fraction:g} does not go with reasoning.context: "
                "text: only soft tokens are restated; set understanding.fraction: 0"
            )
        if names := self.changed((*KEYS_OF_NUMBERS, *KEYS_OF_RATES, "mixed_fraction", "distillation")):
            raise ValueError(f"{', '.join(names)} has no effect with reasoning.context: text; leave it out")

    def fractions(self) -> dict[str, float]:
        """Return the share of the samples per objective."""
        understanding = self.understanding.fraction
        return {"understanding": understanding, "reasoning": 1 - understanding}
