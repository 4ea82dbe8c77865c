"""Size of the decoder's key-value cache."""

from e2llm.modeling.model import E2LLMForConditionalGeneration


def kv_cache_bytes_per_token(model: E2LLMForConditionalGeneration) -> int:
    """Bytes of the decoder's key-value cache for one position, all layers together.

    Of a decoder whose layers all attend to the whole context; one with windows keeps less.
    """
    config = model.config.text_config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    itemsize = model.get_input_embeddings().weight.dtype.itemsize
    return int(2 * config.num_hidden_layers * heads * head_size * itemsize)
