"""The model: configuration, adapters, model class, processor, LoRA, checkpoints.

Importing this package makes the Auto classes of transformers know the model, and hides one warning of
bitsandbytes.
"""

import logging

from transformers import AutoProcessor

from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.model import E2LLMForConditionalGeneration, register
from e2llm.modeling.processor import E2LLMProcessor

logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(  # on import, which peft does, it warns of speed
    lambda record: "gemm_4bit_forward" not in record.msg
)
register()
AutoProcessor.register(E2LLMConfig, E2LLMProcessor, exist_ok=True)

__all__ = ["E2LLMConfig", "E2LLMForConditionalGeneration", "E2LLMProcessor"]
