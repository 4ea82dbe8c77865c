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
for _name, _start in _NOISE.items():
    logging.getLogger(_name).addFilter(lambda record, start=_start: start not in record.getMessage())
register()
AutoProcessor.register(E2LLMConfig, E2LLMProcessor, exist_ok=True)

__all__ = ["E2LLMConfig", "E2LLMForConditionalGeneration", "E2LLMProcessor"]
