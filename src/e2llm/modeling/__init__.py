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
_NOISE = ("Failed to load CPU gemm_4bit_forward", "Setting accelerator to")


def _is_no_noise(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NOISE)


for _name in ("bitsandbytes.backends.cpu.ops", "DeepSpeed"):  # the second on stdout
    logging.getLogger(_name).addFilter(_is_no_noise)
register()
AutoProcessor.register(E2LLMConfig, E2LLMProcessor, exist_ok=True)

__all__ = ["E2LLMConfig", "E2LLMForConditionalGeneration", "E2LLMProcessor"]
