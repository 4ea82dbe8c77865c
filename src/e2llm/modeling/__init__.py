"""The model: configuration, adapters, model class, processor, LoRA, checkpoints.

Importing this package makes the Auto classes of transformers know the model, and hides what
bitsandbytes and DeepSpeed log on import.
"""

import logging

from transformers import AutoProcessor

from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.model import E2LLMForConditionalGeneration, register
from e2llm.modeling.processor import E2LLMProcessor

# What libraries log when peft or transformers import them, and which a user cannot act on.
_NOISE = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "DeepSpeed": "Setting accelerator to",  # on stdout
}


def _is_of_use(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(tuple(_NOISE.values()))


for _name in _NOISE:
    logging.getLogger(_name).addFilter(_is_of_use)
register()
AutoProcessor.register(E2LLMConfig, E2LLMProcessor, exist_ok=True)

__all__ = ["E2LLMConfig", "E2LLMForConditionalGeneration", "E2LLMProcessor"]
