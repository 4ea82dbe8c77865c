"""The keys of a recipe's `encoder`, `decoder` and `adapter`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from e2llm.modeling.rates import Rate, check_rate
from e2llm.training.section import Section


class LoraSection(Section):
    """LoRA of the encoder."""

    rank: int = Field(default=16, ge=1)
    """Rank of the deltas (paper: 16-32)."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale of the deltas, which are multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of LoRA inputs dropped in training."""
    target_modules: list[str] = Field(default=[])
    """Ends of module names to adapt; by default the table in `e2llm.modeling.lora`."""


class DecoderLoraSection(LoraSection):
    """LoRA of the decoder."""

    rank: int = Field(default=8, ge=1)
    """Rank of the deltas (paper: 8-16)."""
    alpha: float = Field(default=16.0, gt=0)
    """Scale of the deltas, which are multiplied by alpha / rank."""


class PartSection(Section):
    """What the parts that train have in common."""

    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of this part; by default train.learning_rate."""
    schedule: Literal["cosine", "linear", "constant"] | None = None
    """Shape of this part's learning rate; by default train.schedule."""


class EncoderSection(PartSection):
    """The text encoder."""

    source: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hub id or local folder. With init_from, the encoder is that of the checkpoint."""
    revision: str | None = None
    """Revision of a hub id."""
    mode: Literal["frozen", "lora", "full"] = "frozen"
    """What trains: nothing, LoRA deltas, or all weights, which are then saved with the model."""
    lora: LoraSection = LoraSection()
    """Used with mode lora."""
    layers: list[Annotated[int, Field(ge=0)]] = Field(default=[])
    """Layers whose states the adapter reads, 0 for the embeddings; by default the first, the middle and the
    last for the pooling adapter, the last alone for others."""
    attention: Literal["as_trained", "bidirectional"] = "as_trained"
    """bidirectional lets a causal encoder, such as Qwen3-Embedding, see later tokens."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens, padding included, that one pass of the encoder reads; bounds memory. By default 2048."""
    unchecked_tokens: int = Field(default=0, ge=0)
    """Tokens of a batch whose activations are kept for the backward pass: faster; memory grows with them."""
    backward_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of a batch's chunks that gradients flow through, drawn anew and scaled to stand for all."""


class NewDecoder(Section):
    """A decoder from scratch: a Llama-shaped model with a tokenizer learned from the training texts."""

    hidden_size: int = Field(default=256, ge=8)
    """Width."""
    num_layers: int = Field(default=6, ge=1)
    """Layers."""
    num_heads: int = Field(default=4, ge=1)
    """Attention heads; must divide hidden_size."""
    intermediate_size: int = Field(default=704, ge=8)
    """Width of the feed-forward layers."""
    vocab_size: int = Field(default=8192, ge=300)
    """Tokens of the byte-level BPE tokenizer, special tokens included."""
    window: int = Field(default=2048, ge=16)
    """Positions that the decoder takes."""
    tokenizer_sample_chars: int = Field(default=30_000_000, ge=1000)
    """Characters of text that the tokenizer is learned from."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Attention dropout."""

    @model_validator(mode="after")
    def _check(self) -> "NewDecoder":
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide hidden_size={self.hidden_size}")
        return self


class DecoderSection(PartSection):
    """The decoder LLM: a pretrained one (`source`) or one made from scratch (`new`)."""

    source: str | None = None
    """Hub id or local folder. With init_from, the decoder is that of the checkpoint."""
    revision: str | None = None
    """Revision of a hub id."""
    new: NewDecoder | None = None
    """Shape of a decoder from scratch."""
    keep_layers: list[Annotated[int, Field(ge=0)]] = Field(default=[])
    """Layers of the decoder of `init_from` that stay, counted from 0; the others are left out."""
    mode: Literal["frozen", "lora", "full"] = "lora"
    """What trains, as for the encoder; a decoder from scratch needs full."""
    lora: DecoderLoraSection = DecoderLoraSection()
    """Used with mode lora."""
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Precision in which a pretrained decoder's weights are held."""
    quantization: Literal["none", "nf4"] = "none"
    """nf4 holds a pretrained decoder's matrices in 4 bits (QLoRA); needs mode lora or frozen."""

    @model_validator(mode="after")
    def _check(self) -> "DecoderSection":
        if self.quantization != "none" and (self.source is None or self.mode == "full"):
            raise ValueError(
                f"decoder.quantization: {self.quantization} needs a decoder.source and decoder.mode lora or "
                "frozen: weights of 4 bits cannot train themselves"
            )
        return self


class AdapterSection(PartSection):
    """The adapter."""

    kind: str = "attention"
    """`pooling` (chosen here), `attention` (paper v2) or `mlp` (paper v1)."""
    finest_rate: int = Field(default=2, ge=1)
    """Encoder tokens per state that the pooling adapter keeps: the finest rate it can be asked for."""
    default_rate: Annotated[Rate, BeforeValidator(check_rate)] = 4
    """The rate of the pooling adapter where a question does not say."""
    start: Literal["ridge", "random"] = "ridge"
    """How a new pooling adapter starts: at the ridge solution from states to embeddings, or at random."""
    start_texts: int = Field(default=300, ge=10)
    """Chunks of the training texts that the ridge solution is fitted on."""
    max_soft_tokens: int = Field(default=8, ge=1)
    """Most soft tokens per chunk."""
    num_heads: int = Field(default=4, ge=1)
    """Heads of the attention adapter (paper: 4)."""
    pooling: Literal["cls", "mean"] = "mean"
    """What the mlp adapter reads."""
    mode: Literal["frozen", "full"] = "full"
    """Whether it trains."""
    reset: bool = False
    """Start with a new adapter in place of the one of `init_from`."""
