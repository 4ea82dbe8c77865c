"""The model: configuration, adapters, model class, processor, LoRA, checkpoints.

Importing this package makes transformers' Auto classes know the model; it does nothing else.
"""

from transformers import AutoProcessor

from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.model import E2LLMForConditionalGeneration, register
from e2llm.modeling.processor import E2LLMProcessor

register()
AutoProcessor.register(E2LLMConfig, E2LLMProcessor, exist_ok=True)

__all__ = ["E2LLMConfig", "E2LLMForConditionalGeneration", "E2LLMProcessor"]
