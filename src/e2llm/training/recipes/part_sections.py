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
            raise ValueError("this key does not take true or false")  # true would count as 1
        return value

    def changed(self, names: Iterable[str]) -> list[str]:
        """Return those of some keys whose value is not the default."""
        return [name for name in names if getattr(self, name) != type(self).model_fields[name].default]


class LoraSection(Section):
    """LoRA of the decoder."""

    rank: int = Field(default=8, ge=1)
    """Rank of the deltas (paper: 8-16)."""
    alpha: float = Field(default=16.0, gt=0)
    """The deltas are multiplied by alpha / rank."""


class EncoderLoraSection(LoraSection):
    """LoRA of the encoder."""

    rank: int = Field(default=16, ge=1)
    """Rank of the deltas (paper: 16-32)."""
    alpha: float = Field(default=32.0, gt=0)
    """The deltas are multiplied by alpha / rank."""
    target_modules: list[str] = Field(default=[])
    """Ends of module names; by default `LORA_TARGETS` in `e2llm.modeling.lora`."""


class PartSection(Section):
    """What the parts that train have in common."""

    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate; by default train.learning_rate."""


class EncoderSection(PartSection):
    """The text encoder."""

    source: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub id or folder; with init_from the checkpoint's encoder."""
    mode: Literal["frozen", "lora", "full"] = "frozen"
    """What trains: nothing, LoRA deltas, or all weights."""
    lora: EncoderLoraSection = EncoderLoraSection()
    """Used with mode lora."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens per pass of the encoder, padding included; by default 2048. Bounds memory."""
    unchecked_tokens: int = Field(default=0, ge=0)
    """Encoder tokens whose activations are kept for the backward pass: faster, more memory."""


class DecoderSection(PartSection):
    """The decoder LLM."""

    source: str | None = None
    """Hub id or folder; with init_from the checkpoint's decoder."""
    mode: Literal["frozen", "lora", "full"] = "lora"
    """What trains, as for the encoder."""
    lora: LoraSection = LoraSection()
    """Used with mode lora."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Precision of the frozen weights."""
    quantization: Literal["none", "nf4"] = "none"
    """`nf4`: 4-bit weights (QLoRA); needs mode lora or frozen."""

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
    """`pooling` (ours), `attention` (paper v2) or `mlp` (paper v1)."""
    finest_rate: int = Field(default=2, ge=1)
    """Finest rate of a `pooling` adapter: encoder tokens per state that it keeps."""
    start: Literal["ridge", "random"] = "ridge"
    """Start of a new `pooling` adapter: a ridge regression from states to embeddings, or random."""
    max_soft_tokens: int = Field(default=8, ge=1)
    """Most soft tokens per chunk, for other adapters."""
    mode: Literal["frozen", "full"] = "full"
    """Whether it trains."""
