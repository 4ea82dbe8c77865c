"""What all mappings of a recipe have in common, and the keys of `encoder`, `decoder` and `adapter`."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)


class Section(BaseModel):
    """A mapping of the recipe: unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("this key is not one of true or false")  # true would count as 1
        return value

    def changed(self, names: Iterable[str]) -> list[str]:
        """Return those of some keys whose value is not the default."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]


class LoraSection(Section):
    """LoRA of the decoder."""

    rank: int = Field(default=8, ge=1)
    """Rank of the deltas (paper: 8-16)."""
    alpha: float = Field(default=16.0, gt=0)
    """Scale of the deltas, which are multiplied by alpha / rank."""


class EncoderLoraSection(LoraSection):
    """LoRA of the encoder."""

    rank: int = Field(default=16, ge=1)
    """Rank of the deltas (paper: 16-32)."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale of the deltas, which are multiplied by alpha / rank."""
    target_modules: list[str] = Field(default=[])
    """Ends of module names to adapt; by default the table in `e2llm.modeling.lora`."""


class PartSection(Section):
    """What the parts that train have in common."""

    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of this part; by default train.learning_rate."""


class EncoderSection(PartSection):
    """The text encoder."""

    source: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub id or local folder. With init_from, the encoder is that of the checkpoint."""
    mode: Literal["frozen", "lora", "full"] = "frozen"
    """What trains: nothing, LoRA deltas, or all weights, which are then saved with the model."""
    lora: EncoderLoraSection = EncoderLoraSection()
    """Used with mode lora."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens, padding included, that one pass of the encoder reads; bounds memory. By default 2048."""
    unchecked_tokens: int = Field(default=0, ge=0)
    """Tokens of a batch whose activations are kept for the backward pass: faster; memory grows with them."""


class DecoderSection(PartSection):
    """The decoder LLM."""

    source: str | None = None
    """Hub id or local folder. With init_from, the decoder is that of the checkpoint."""
    mode: Literal["frozen", "lora", "full"] = "lora"
    """What trains, as for the encoder."""
    lora: LoraSection = LoraSection()
    """Used with mode lora."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Precision in which the frozen weights are held."""
    quantization: Literal["none", "nf4"] = "none"
    """nf4 holds the decoder's matrices in 4 bits (QLoRA); needs mode lora or frozen."""

    @model_validator(mode="after")
    def _check(self) -> "DecoderSection":
        if self.quantization != "none" and self.mode == "full":
            raise ValueError(
                f"decoder.quantization: {self.quantization} needs decoder.mode lora or frozen: weights of 4 "
                "bits cannot train themselves"
            )
        return self


class AdapterSection(PartSection):
    """The adapter."""

    kind: str = "attention"
    """`pooling` (chosen here), `attention` (paper v2) or `mlp` (paper v1, of the [CLS] state)."""
    finest_rate: int = Field(default=2, ge=1)
    """Encoder tokens per state that the pooling adapter keeps: the finest rate it can be asked for."""
    start: Literal["ridge", "random"] = "ridge"
    """How a new pooling adapter starts: at the ridge solution from states to embeddings, or at random."""
    max_soft_tokens: int = Field(default=8, ge=1)
    """Most soft tokens per chunk."""
    mode: Literal["frozen", "full"] = "full"
    """Whether it trains."""
