"""Build the model and processor that a run starts with, and set which of its parts train."""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from e2llm.errors import E2LLMError
from e2llm.modeling import lora
from e2llm.modeling.checkpoints.parts import load_tokenizer
from e2llm.modeling.checkpoints.quantization import is_quantized, nf4_config
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.ridge import init_adapter
from e2llm.training.console import say
from e2llm.training.recipes.part_sections import DecoderSection, EncoderLoraSection, LoraSection
from e2llm.training.recipes.schema import FINAL_FOLDER, Recipe
from e2llm.training.samples.data_files import Source

START_TEXTS = 300  # chunks that a new pooling adapter's linear start is fitted on


def build_model(
    recipe: Recipe, sources: Sequence[Source]
) -> tuple[E2LLMForConditionalGeneration, E2LLMProcessor]:
    """Load the checkpoint of `init_from`, or join an encoder and a decoder by a new adapter.

    Args:
        recipe: The resolved recipe.
        sources: The training records, on whose texts a new pooling adapter's linear start is fitted.

    Raises:
        E2LLMError: If a part cannot be loaded.
    """
    model, processor = load_start(recipe) if recipe.init_from else join_parts(recipe, sources)
    if recipe.encoder.batch_tokens is not None:
        model.config.encoder_batch_tokens = recipe.encoder.batch_tokens
    model.unchecked_encoder_tokens = recipe.encoder.unchecked_tokens
    return model, processor


def load_start(recipe: Recipe) -> tuple[E2LLMForConditionalGeneration, E2LLMProcessor]:
    """Return the model and processor of `init_from`, with the recipe's chunking."""
    start = existing(recipe.init_from, "init_from")
    options = decoder_options(recipe.decoder)
    dtype = options.pop("dtype")
    options.setdefault("quantization_config", None)
    # Each tensor in its stored dtype: the decoder's would round the tensors that train, which are float32.
    model = E2LLMForConditionalGeneration.from_pretrained(start, dtype="auto", **options)
    if options["quantization_config"] is not None and not is_quantized(model.language_model):
        raise E2LLMError(
            f"init_from: {start} contains the decoder's weights, and only a base model that a checkpoint "
            "refers to can be quantized; set decoder.quantization: none"
        )
    if recipe.decoder.source and dtype != "auto":
        hold_base_in(model.language_model, getattr(torch, dtype))
    return model, open_processor(recipe)


def existing(checkpoint: str | None, key: str) -> str:
    """Return the checkpoint that a key names; raise `E2LLMError` if its stage has not been trained."""
    name = str(checkpoint)
    if Path(name).name == FINAL_FOLDER and not Path(name).is_dir():
        raise E2LLMError(f"{key}: {name} does not exist yet; train the stage before this one first")
    return name


def open_processor(recipe: Recipe) -> E2LLMProcessor:
    """Return the processor of `init_from` or of the recipe's parts, with the recipe's chunking."""
    if recipe.init_from is not None:
        processor: E2LLMProcessor = E2LLMProcessor.from_pretrained(existing(recipe.init_from, "init_from"))
        set_chunking(processor, recipe)
        return processor
    return E2LLMProcessor.from_parts(
        recipe.encoder.source,
        encoder_tokenizer=load_tokenizer(recipe.encoder.source),
        decoder_tokenizer=load_tokenizer(str(recipe.decoder.source)),
        chunk_size_chars=recipe.chunking.chunk_size_chars,
        chunk_kind=recipe.chunking.kind,
        num_soft_tokens=recipe.adapter.max_soft_tokens,
    )


def set_chunking(processor: E2LLMProcessor, recipe: Recipe) -> None:
    """Set the chunking of a processor to that of a recipe."""
    processor.chunk_size_chars = recipe.chunking.chunk_size_chars
    processor.chunk_kind = recipe.chunking.kind


def hold_base_in(part: Any, dtype: torch.dtype) -> None:
    """Cast a part's base weights to a dtype; LoRA deltas and quantized matrices keep theirs."""
    for name, parameter in part.named_parameters():
        if parameter.is_floating_point() and "lora_" not in name:
            parameter.data = parameter.data.to(dtype)


def join_parts(
    recipe: Recipe, sources: Sequence[Source]
) -> tuple[E2LLMForConditionalGeneration, E2LLMProcessor]:
    """Return a new model of the recipe's parts, and its processor."""
    model = E2LLMForConditionalGeneration.from_parts(
        recipe.encoder.source,
        str(recipe.decoder.source),
        adapter=recipe.adapter.kind,
        finest_rate=recipe.adapter.finest_rate,
        max_soft_tokens=recipe.adapter.max_soft_tokens,
        pooling="cls",
        encoder_kwargs={"dtype": "float32"},
        decoder_kwargs=decoder_options(recipe.decoder),
    )
    processor = open_processor(recipe)
    if recipe.adapter.kind == "pooling" and recipe.adapter.start == "ridge":
        say(str(init_adapter(model, processor, start_texts(recipe, processor, sources))))
    return model, processor


def start_texts(recipe: Recipe, processor: E2LLMProcessor, sources: Sequence[Source]) -> list[str]:
    """Return chunks to fit the linear start on: equally many of each file, from different contexts."""
    rng = random.Random(f"{recipe.seed}/start")
    texts: list[str] = []
    share = -(-START_TEXTS // max(1, len(sources)))
    for source in sources:
        contexts = list({record.context: None for record in source.records})
        chosen = rng.sample(contexts, min(share, len(contexts)))
        texts += [rng.choice(processor.split(context)).text for context in chosen]
    while 0 < len(texts) < START_TEXTS:  # few contexts: more chunks of each
        context = rng.choice(rng.choice(list(sources)).records).context
        texts.append(rng.choice(processor.split(context)).text)
    rng.shuffle(texts)
    return texts[:START_TEXTS]


def decoder_options(section: DecoderSection) -> dict[str, Any]:
    """Return how to load a decoder: its dtype and, in 4 bits, the GPU of this process."""
    options: dict[str, Any] = {"dtype": section.dtype}
    if section.quantization == "nf4":
        options["quantization_config"] = nf4_config()
        if torch.cuda.is_available():
            options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    return options


def set_trainable(model: E2LLMForConditionalGeneration, recipe: Recipe) -> lora.TrainableReport:
    """Freeze each part, add LoRA to it, or train it whole, as the recipe says."""

    def settings(section: LoraSection) -> lora.LoraSettings:
        targets = section.target_modules if isinstance(section, EncoderLoraSection) else ()
        return lora.LoraSettings(section.rank, section.alpha, target_modules=tuple(targets))

    report = lora.set_modes(
        model,
        encoder=recipe.encoder.mode,
        decoder=recipe.decoder.mode,
        adapter=recipe.adapter.mode,
        encoder_lora=settings(recipe.encoder.lora),
        decoder_lora=settings(recipe.decoder.lora),
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            # In half precision small steps would round to nothing; autocast halves the computation alone.
            parameter.data = parameter.data.float()
    if recipe.train.gradient_checkpointing:
        checkpoint_activations(model.language_model)
    return report


def checkpoint_activations(decoder: Any) -> None:
    """Recompute a decoder's activations in the backward pass, by the method of transformers' version."""
    settings = {"use_reentrant": False}
    if hasattr(decoder, "activation_checkpointing_enable"):
        decoder.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:  # older transformers
        decoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
