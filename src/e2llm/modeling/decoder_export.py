"""The decoder by itself, as other programs load it: LoRA merged, no encoder, no adapter."""

import os
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from e2llm.errors import E2LLMError
from e2llm.modeling.lora import merge_lora
from e2llm.modeling.parts import quiet_loading
from e2llm.modeling.quantization import is_quantized

_ID_NAMES = ("bos_token_id", "eos_token_id", "pad_token_id")


def save_decoder(model: Any, tokenizer: Any, folder: str | os.PathLike[str]) -> None:
    """Write a model's decoder as a plain causal LM of transformers, in safetensors files.

    The embedding keeps all of its rows, the placeholder's too, so that token ids mean the same there and
    here. Of the generation settings only the ids are written that begin, end and pad a text: the others would
    change answers where a server takes them for defaults.

    Args:
        model: Its LoRA layers are merged into it, in place.
        tokenizer: The decoder's, written beside it.
        folder: Where to; made if need be.

    Raises:
        E2LLMError: If the decoder is quantized.
    """
    if is_quantized(model.language_model):
        raise E2LLMError(
            "the decoder is quantized, and rounded weights are not exported; load the model with "
            "quantization_config=None, in the precision that dtype= says"
        )
    decoder = merge_lora(model).language_model
    ids = {name: getattr(model.generation_config, name, None) for name in _ID_NAMES}
    former = decoder.generation_config
    decoder.generation_config = GenerationConfig(
        **{name: value for name, value in ids.items() if value is not None}
    )
    try:
        with quiet_loading():
            decoder.save_pretrained(Path(folder))
    finally:
        decoder.generation_config = former
    tokenizer.save_pretrained(Path(folder))
