"""The model of a recipe in its real size, without its weights: every tensor lies on torch's `meta` device.

Everything that a run does to its model before the first step is done to this one, too, so that what trains,
and in which precision it is held, is read off the real classes.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from e2llm.errors import E2LLMError
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.parts import encoder_build_kwargs
from e2llm.training.build import keep_layers, new_decoder_config, set_modes
from e2llm.training.known_parts import part_config
from e2llm.training.schema import Recipe


def draw(recipe: Recipe) -> E2LLMForConditionalGeneration:
    """The recipe's model in its real size, with what trains set, on the `meta` device.

    Raises:
        E2LLMError: If the dimensions of a part are not known, the parts do not fit each other, or LoRA finds
            no target.
    """
    encoder_config, decoder_config, dtype = part_configs(recipe)
    config = E2LLMConfig(
        encoder_config=encoder_config,
        text_config=decoder_config,
        adapter=recipe.adapter.kind,
        max_soft_tokens=recipe.adapter.max_soft_tokens,
        adapter_num_heads=recipe.adapter.num_heads,
        pooling=recipe.adapter.pooling,
        chunk_token_id=0,
    )
    if recipe.encoder.batch_tokens is not None:
        config.encoder_batch_tokens = recipe.encoder.batch_tokens
    with torch.device("meta"):
        encoder = AutoModel.from_config(
            encoder_config, dtype=torch.float32, **encoder_build_kwargs(encoder_config)
        )
        decoder = AutoModelForCausalLM.from_config(decoder_config, dtype=dtype)
        model = E2LLMForConditionalGeneration(config, chunk_encoder=encoder, language_model=decoder)
        if recipe.decoder.keep_layers:
            keep_layers(model, recipe.decoder.keep_layers)
        model.adapter.to(decoder.get_input_embeddings().weight.dtype)
        set_modes(model, recipe)
    return model


def part_configs(recipe: Recipe) -> tuple[Any, Any, torch.dtype]:
    """The configurations of the encoder and of the decoder, and the precision that the decoder is held in."""
    encoder = part_config("encoder", recipe.encoder.source, recipe.encoder.revision)
    shape = recipe.decoder.new
    if shape is not None:
        return encoder, new_decoder_config(shape, shape.vocab_size), torch.float32
    decoder = part_config("decoder", str(recipe.decoder.source), recipe.decoder.revision)
    if recipe.decoder.dtype == "auto":
        return encoder, decoder, getattr(decoder, "dtype", None) or torch.float32
    dtype = getattr(torch, recipe.decoder.dtype)
    assert isinstance(dtype, torch.dtype)
    return encoder, decoder, dtype


def matrices(part: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that rows are multiplied by, by module name: those of linear layers, LoRA's included."""
    return {
        name: module.weight
        for name, module in part.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }


def quantized_matrices(recipe: Recipe, model: E2LLMForConditionalGeneration) -> set[str]:
    """Names of the decoder's matrices that `decoder.quantization` holds in 4 bits: not LoRA, not the head."""
    if recipe.decoder.quantization == "none":
        return set()
    head = model.language_model.get_output_embeddings()
    if head is None:
        raise E2LLMError("decoder.quantization: this decoder has no output head, which stays unquantized")
    return {
        name
        for name, weight in matrices(model.language_model).items()
        if "lora_" not in name and weight is not head.weight
    }
