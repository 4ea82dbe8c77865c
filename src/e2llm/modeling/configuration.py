"""Configuration of the composite model: a text encoder, an adapter and a decoder LLM."""

from typing import Any, Literal

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from e2llm.errors import E2LLMError
from e2llm.modeling.rates import check_finest_rate

PART_MODULES = {"encoder": "chunk_encoder", "decoder": "language_model"}  # attributes that hold the parts


class E2LLMConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of `E2LLMForConditionalGeneration`.

    Attributes:
        encoder_config: The text encoder's own configuration (any natively implemented encoder).
        text_config: The decoder's own configuration (any natively implemented causal LM).
        adapter: Name in `e2llm.modeling.adapters.ADAPTERS`: `pooling` (chosen here), `attention` (paper v2)
            or `mlp` (paper v1).
        encoder_layers: Encoder layers whose states the adapter reads, side by side: 0 is the embeddings, the
            encoder's number of layers its last. None: the last alone, as in the paper.
        encoder_attention: `as_trained`, or `bidirectional` to let a causal encoder see later tokens, too.
        finest_rate: Encoder tokens per state that the `pooling` adapter keeps of a chunk, a power of two;
            finer rates are unavailable.
        trained_on: How often training gave a chunk at each rate (keys such as `4` and `one`) or as `text`,
            in chunks; empty for a model that was never trained.
        max_soft_tokens: Soft tokens that `attention` and `mlp` can make of one chunk, 1 or more; the
            compression dial chooses any number up to it at inference (chosen here; the paper has 1).
        adapter_num_heads: Attention heads of the `attention` adapter (paper v2: 4).
        pooling: What the `mlp` adapter reads: the first token (`cls`, paper v1) or the `mean` of the chunk.
        soft_token_scale: Root mean square that a new adapter's soft tokens start with. `from_parts` measures
            it on the decoder's token embeddings; at another scale early training stalls (chosen here).
        chunk_token_id: Id of the placeholder token, below the decoder's number of embedding rows.
        encoder_batch_tokens: Tokens, padding included, that one pass of the encoder reads at most. Larger
            passes are no faster on a CPU (docs/log/2026-11-23.md); raise it on a GPU.
    """

    model_type = "e2llm"
    sub_configs_defaults = {  # noqa: RUF012 - transformers reads this class attribute by name
        "encoder_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen3"),
    }

    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    adapter: str = "attention"
    encoder_layers: list[int] | None = None
    encoder_attention: Literal["as_trained", "bidirectional"] = "as_trained"
    finest_rate: int = 2
    trained_on: dict[str, int] | None = None
    max_soft_tokens: int = 8
    adapter_num_heads: int = 4
    pooling: Literal["cls", "mean"] = "mean"
    soft_token_scale: float = 0.02
    chunk_token_id: int = 0
    encoder_batch_tokens: int = 2048
    is_encoder_decoder: bool = False
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Resolve the two sub-configurations and check the values."""
        kwargs.pop("default_rate", None)  # of earlier checkpoints
        super().__post_init__(**kwargs)
        if type(self.max_soft_tokens) is not int or self.max_soft_tokens < 1:
            raise E2LLMError(
                f"max_soft_tokens must be a whole number of 1 or more, got {self.max_soft_tokens!r}"
            )
        check_finest_rate(self.finest_rate)
        self._check_layers()
        if self.encoder_batch_tokens < 1:
            raise E2LLMError(f"encoder_batch_tokens must be 1 or more, got {self.encoder_batch_tokens}")
        if self.chunk_token_id < 0:
            raise E2LLMError(f"chunk_token_id must be 0 or more, got {self.chunk_token_id}")

    def _check_layers(self) -> None:
        if self.encoder_layers is None:
            return
        num_layers = getattr(self.encoder_config, "num_hidden_layers", None)
        wrong = [
            layer
            for layer in self.encoder_layers
            if type(layer) is not int or layer < 0 or (num_layers is not None and layer > num_layers)
        ]
        if wrong or not self.encoder_layers or len(set(self.encoder_layers)) < len(self.encoder_layers):
            raise E2LLMError(
                f"encoder_layers must name different layers from 0 (the embeddings) to {num_layers} (the "
                f"last), got {self.encoder_layers}"
            )
