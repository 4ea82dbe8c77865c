"""The keys of a recipe's `objectives`: the mix, and what each objective draws."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from e2llm.modeling.rates import RATES, Rate, check_rate
from e2llm.training.section import Section

ObjectiveName = Literal["language", "understanding", "reasoning"]
Purpose = ObjectiveName | Literal["distractors"]
PositiveInt = Annotated[int, Field(ge=1)]
RateValue = Annotated[Rate, BeforeValidator(check_rate)]
_ROUNDING = 1e-9  # 1 - 0.7 - 0.3 is not 0 in binary


class LanguageObjective(Section):
    """Next-token prediction of plain text, for decoders from scratch."""

    fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples."""
    sequence_tokens: int = Field(default=256, ge=8)
    """Decoder tokens per sample."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of its loss."""


class UnderstandingObjective(Section):
    """Restating a window of chunks from its soft tokens."""

    fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of the samples."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of its mean loss against the reasoning loss (paper v2: 1e-7 to 1e-9 with summed losses)."""
    window_chunks: list[PositiveInt] = Field(default=[1, 2, 4], min_length=1)
    """Window lengths to draw from, in chunks."""
    stride_chunks: int = Field(default=1, ge=1)
    """Windows start at multiples of this."""
    chunk_sizes_chars: list[Annotated[int, Field(ge=16)]] = Field(default=[])
    """Chunk sizes to draw from; by default only chunking.chunk_size_chars. Short ones make a curriculum."""
    expand_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples whose window stands as raw text, so that restating it is copying."""
    continue_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples that continue the window: the answer is the chunk after it, which takes more than
    copying (arXiv 2510.20535)."""


class TextViews(Section):
    """How often each view of a context is drawn with `objectives.reasoning.context: text`."""

    truncate: float = Field(default=1.0, ge=0)
    """The beginning and the end, half of the room each."""
    bm25: float = Field(default=1.0, ge=0)
    """The passages that share most words with the question, in the order of the context."""
    closed_book: float = Field(default=0.2, ge=0)
    """Nothing: the question alone."""

    @model_validator(mode="after")
    def _check(self) -> "TextViews":
        if not any(self.weights().values()):
            raise ValueError("the weights of text_views are all 0; give one that is not")
        return self

    def weights(self) -> dict[str, float]:
        """Weight of each view, by name."""
        return {"truncate": self.truncate, "bm25": self.bm25, "closed_book": self.closed_book}


KEYS_OF_NUMBERS = ("soft_tokens", "soft_token_weights")
KEYS_OF_RATES = ("rates", "rate_weights", "mixed_fraction", "mixed_text_fraction")
_KEYS_OF_SOFT_TOKENS = (
    "max_chunks",
    "keep_all_evidence",
    "expand_fraction",
    "expand_max_chunks",
    "expand_gold_fraction",
    "expand_all_gold",
    "distractor_fraction",
    "distractor_max_chunks",
    "distractor_max_soft_tokens",
    "questions_per_context",
)
_KEYS_OF_TEXT = ("text_views", "text_budgets")


class ReasoningObjective(Section):
    """Answering an instruction from the soft tokens of the whole context, or from raw text."""

    context: Literal["soft_tokens", "text"] = "soft_tokens"
    """What stands for the context: soft tokens, or raw text alone, which trains a baseline."""
    text_views: TextViews = TextViews()
    """With context text: which part of a context that does not fit is given."""
    text_budgets: list[PositiveInt] = Field(default=[])
    """With context text: positions of input and answer to cut to, drawn per sample; by default the window."""
    max_chunks: int | None = Field(default=None, ge=1)
    """Longer contexts are cut to a run of this many chunks around the evidence; None keeps all."""
    keep_all_evidence: bool = True
    """Cut so that all chunks with evidence stay, where max_chunks has room; else one of them, drawn, does."""
    expand_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples in which some chunks stand as raw text."""
    expand_max_chunks: int = Field(default=2, ge=1)
    """Most chunks that are raw in such a sample."""
    expand_gold_fraction: float = Field(default=0.7, ge=0, le=1)
    """Share of those samples in which a chunk that holds evidence is among them."""
    expand_all_gold: bool = False
    """Whether all of these are raw where one is, even beyond expand_max_chunks; else as many as are drawn."""
    distractor_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples whose context is surrounded by chunks of other contexts: those of the files that
    list `distractors` under `objectives`, by default those that reasoning is asked of."""
    distractor_max_chunks: int = Field(default=8, ge=1)
    """Most chunks of other contexts in such a sample."""
    distractor_max_soft_tokens: int | None = Field(default=None, ge=1)
    """Most soft tokens of these chunks, so that a sample has more of them at lower rates: with 240 there are
    30 chunks at most at 8 soft tokens and 240 at one, if distractor_max_chunks allows them."""
    questions_per_context: int = Field(default=1, ge=1)
    """Samples in a row that ask of one context; in a batch its chunks are then read once for all of them."""

    turns: int = Field(default=1, ge=1)
    """Most questions about one context in a sample, one after another as in a conversation: the context is
    read once for all of them."""

    def most_distractors_per_side(self, num_soft_tokens: int) -> int:
        """Most chunks of other contexts before a sample's own, and after them.

        Args:
            num_soft_tokens: Soft tokens per chunk of the sample.
        """
        most = (self.distractor_max_chunks + 1) // 2
        if self.distractor_max_soft_tokens is not None:
            most = min(most, self.distractor_max_soft_tokens // num_soft_tokens // 2)
        return most if self.distractor_fraction else 0

    @model_validator(mode="after")
    def _check(self) -> "ReasoningObjective":
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
    """Checkpoint whose decoder has these deltas, made with `objectives.reasoning.context: text` on the same
    base; they are switched on for the teacher's pass, no second decoder is held. None: no soft targets."""
    weight: float = Field(default=1.0, gt=0)
    """Weight of the mean KL divergence from the teacher's answers, beside the loss of the tokens."""


class ObjectivesSection(Section):
    """The mix of objectives; reasoning takes what the other two leave."""

    language: LanguageObjective = LanguageObjective()
    understanding: UnderstandingObjective = UnderstandingObjective()
    reasoning: ReasoningObjective = ReasoningObjective()
    soft_tokens: list[PositiveInt] = Field(default=[1, 2, 4, 8], min_length=1)
    """Soft tokens per chunk to draw from, once per optimizer step: the compression dial."""
    soft_token_weights: list[Annotated[float, Field(ge=0)]] = Field(default=[])
    """How often each is drawn; by default equally."""
    rates: list[RateValue] = Field(default=[rate for rate in RATES if rate not in (1, 32)], min_length=1)
    """Encoder tokens per soft token to draw from, in the place of soft_tokens, for the pooling adapter: every
    batch has all of them."""
    rate_weights: list[Annotated[float, Field(gt=0)]] = Field(default=[])
    """How often each is drawn; by default equally."""
    mixed_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the samples in which each chunk has a rate of its own, and some are raw text."""
    mixed_text_fraction: float = Field(default=0.25, ge=0, lt=1)
    """Share of the chunks of such a sample that are raw text."""
    distillation: DistillationSection = DistillationSection()
    reduction: Literal["mean", "sum"] = "mean"
    """Losses are means over tokens (chosen here) or sums over the batch (paper)."""

    @model_validator(mode="after")
    def _check(self) -> "ObjectivesSection":
        if self.language.fraction + self.understanding.fraction > 1 + _ROUNDING:
            raise ValueError("language.fraction and understanding.fraction add up to more than 1")
        if self.soft_token_weights and len(self.soft_token_weights) != len(self.soft_tokens):
            raise ValueError(
                f"soft_token_weights has {len(self.soft_token_weights)} numbers, soft_tokens has "
                f"{len(self.soft_tokens)}; give one weight per entry"
            )
        if self.soft_token_weights and not any(self.soft_token_weights):
            raise ValueError("soft_token_weights are all 0; give one that is not")
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
        idle = (*KEYS_OF_NUMBERS, *KEYS_OF_RATES, "distillation")
        if names := self.changed(idle):
            raise ValueError(f"{', '.join(names)} has no effect with reasoning.context: text; leave it out")

    def fractions(self) -> dict[str, float]:
        """Share of the samples per objective."""
        language, understanding = self.language.fraction, self.understanding.fraction
        rest = 1 - language - understanding
        return {
            "language": language,
            "understanding": understanding,
            "reasoning": rest if rest > _ROUNDING else 0.0,
        }
