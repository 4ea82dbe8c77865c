"""The model and the processor that a run starts with, and what of them trains."""

import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from e2llm.errors import E2LLMError
from e2llm.modeling import lora
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.parts import load_tokenizer
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.quantization import is_quantized, nf4_config
from e2llm.modeling.ridge import init_adapter
from e2llm.training.averaging import average_weights
from e2llm.training.console import say
from e2llm.training.part_sections import DecoderSection, LoraSection, NewDecoder
from e2llm.training.schema import FINAL_FOLDER, Recipe
from e2llm.training.sources import Source
from e2llm.training.tokenizer import train_tokenizer


def build(recipe: Recipe, sources: Sequence[Source]) -> tuple[E2LLMForConditionalGeneration, E2LLMProcessor]:
    """Load the checkpoint of `init_from`, or join an encoder and a decoder by a new adapter.

    Args:
        recipe: The resolved recipe.
        sources: The training records, from which a decoder from scratch learns its tokenizer.

    Raises:
        E2LLMError: If a part cannot be loaded.
    """
    model, processor = load_start(recipe) if recipe.init_from else join_parts(recipe, sources)
    if recipe.encoder.batch_tokens is not None:
        model.config.encoder_batch_tokens = recipe.encoder.batch_tokens
    model.unchecked_encoder_tokens = recipe.encoder.unchecked_tokens
    return model, processor


def load_start(recipe: Recipe) -> tuple[E2LLMForConditionalGeneration, E2LLMProcessor]:
    """The model and processor of `init_from`, with the recipe's chunking."""
    start = existing(recipe.init_from, "init_from")
    options = decoder_options(recipe.decoder)
    dtype = options.pop("dtype")
    options.setdefault("quantization_config", None)
    # Each tensor as it was stored: the decoder's dtype would round what trains, which is held in float32.
    model = E2LLMForConditionalGeneration.from_pretrained(start, dtype="auto", **options)
    if options["quantization_config"] is not None and not is_quantized(model.language_model):
        raise E2LLMError(
            f"init_from: {start} holds the decoder's weights itself, and only a base that a checkpoint "
            "refers to can be quantized; set decoder.quantization: none"
        )
    if recipe.decoder.source and dtype != "auto":
        hold_base_in(model.language_model, getattr(torch, dtype))
    if recipe.average_with is not None:
        other = existing(recipe.average_with, "average_with")
        average_weights(model, E2LLMForConditionalGeneration.from_pretrained(other, dtype="auto", **options))
    if recipe.decoder.keep_layers:
        keep_layers(model, recipe.decoder.keep_layers)
    if recipe.adapter.reset:
        model.reset_adapter()
    return model, open_processor(recipe)


def keep_layers(model: E2LLMForConditionalGeneration, kept: Sequence[int]) -> None:
    """Leave out all other layers of the decoder: a shallower one that starts with what a deeper one knows.

    Args:
        model: A model whose decoder has a list of layers of one kind, as Llama's has.
        kept: Places of the layers that stay, counted from 0, in ascending order.

    Raises:
        E2LLMError: If the decoder holds no such list, or a place is not in it.
    """
    body = model.language_model.base_model
    layers = getattr(body, "layers", None)
    if not isinstance(layers, nn.ModuleList) or getattr(body.config, "layer_types", None):
        raise E2LLMError("decoder.keep_layers: the decoder has no list of layers of one kind; leave it out")
    if not set(kept) <= set(range(len(layers))):
        raise E2LLMError(
            f"decoder.keep_layers: the decoder has layers 0 to {len(layers) - 1}, got {list(kept)}"
        )
    body.layers = nn.ModuleList([layers[place] for place in kept])
    for place, layer in enumerate(body.layers):
        layer.self_attn.layer_idx = place  # its place in the cache
    for config in (body.config, model.language_model.config, model.config.text_config):
        config.num_hidden_layers = len(kept)


def existing(checkpoint: str | None, key: str) -> str:
    """The checkpoint that a key names; raises `E2LLMError` for that of a stage which has not been trained."""
    name = str(checkpoint)
    if Path(name).name == FINAL_FOLDER and not Path(name).is_dir():
        raise E2LLMError(f"{key}: {name} does not exist yet; train the stage before this one first")
    return name


def open_processor(recipe: Recipe, decoder_tokenizer: Any = None) -> E2LLMProcessor:
    """The processor of `init_from` or of the recipe's parts, with the recipe's chunking; no weights.

    Args:
        recipe: The resolved recipe.
        decoder_tokenizer: The tokenizer of a decoder from scratch.
    """
    if recipe.init_from is None:
        encoder, decoder = recipe.encoder, recipe.decoder
        if decoder_tokenizer is None:
            decoder_tokenizer = load_tokenizer(str(decoder.source), {"revision": decoder.revision})
        return E2LLMProcessor.from_parts(
            encoder.source,
            encoder_tokenizer=load_tokenizer(encoder.source, {"revision": encoder.revision}),
            decoder_tokenizer=decoder_tokenizer,
            chunk_size_chars=recipe.chunking.chunk_size_chars,
            overlap_chars=recipe.chunking.overlap_chars,
            chunk_kind=recipe.chunking.kind,
            num_soft_tokens=recipe.adapter.max_soft_tokens,
        )
    processor: E2LLMProcessor = E2LLMProcessor.from_pretrained(existing(recipe.init_from, "init_from"))
    set_chunking(processor, recipe)
    return processor


def set_chunking(processor: E2LLMProcessor, recipe: Recipe) -> None:
    """Let a processor split as a recipe says."""
    processor.chunk_size_chars = recipe.chunking.chunk_size_chars
    processor.overlap_chars = recipe.chunking.overlap_chars
    processor.chunk_kind = recipe.chunking.kind


def hold_base_in(part: Any, dtype: torch.dtype) -> None:
    """Hold a part's own weights in a dtype; LoRA deltas and quantized matrices stay as they are."""
    for name, parameter in part.named_parameters():
        if parameter.is_floating_point() and "lora_" not in name:
            parameter.data = parameter.data.to(dtype)


def join_parts(
    recipe: Recipe, sources: Sequence[Source]
) -> tuple[E2LLMForConditionalGeneration, E2LLMProcessor]:
    """A new model of the recipe's parts."""
    encoder = recipe.encoder.source
    encoder_kwargs: dict[str, Any] = {"dtype": "float32"}
    if recipe.encoder.revision:
        encoder_kwargs["revision"] = recipe.encoder.revision
    decoder_tokenizer = None
    decoder: Any
    decoder_kwargs: dict[str, Any] = {}
    if recipe.decoder.new is not None:
        decoder, decoder_tokenizer = new_decoder(recipe.decoder.new, sources)
    else:
        decoder = recipe.decoder.source
        decoder_kwargs = decoder_options(recipe.decoder)
        if recipe.decoder.revision:
            decoder_kwargs["revision"] = recipe.decoder.revision
    model = E2LLMForConditionalGeneration.from_parts(
        encoder,
        decoder,
        adapter=recipe.adapter.kind,
        encoder_layers=recipe.encoder.layers or None,
        encoder_attention=recipe.encoder.attention,
        finest_rate=recipe.adapter.finest_rate,
        max_soft_tokens=recipe.adapter.max_soft_tokens,
        adapter_num_heads=recipe.adapter.num_heads,
        pooling=recipe.adapter.pooling,
        decoder_tokenizer=decoder_tokenizer,
        encoder_kwargs=encoder_kwargs,
        decoder_kwargs=decoder_kwargs,
    )
    model.config.default_rate = recipe.adapter.default_rate
    processor = open_processor(recipe, decoder_tokenizer)
    if recipe.adapter.kind == "pooling" and recipe.adapter.start == "ridge":
        say(str(init_adapter(model, processor, start_texts(recipe, processor, sources))))
    return model, processor


def start_texts(recipe: Recipe, processor: E2LLMProcessor, sources: Sequence[Source]) -> list[str]:
    """Chunks to fit the linear start on: of different contexts, each file its share, as a recipe splits."""
    rng = random.Random(f"{recipe.seed}/start")
    texts: list[str] = []
    share = -(-recipe.adapter.start_texts // max(1, len(sources)))
    for source in sources:
        contexts = list({record.context: None for record in source.records})
        chosen = rng.sample(contexts, min(share, len(contexts)))
        texts += [rng.choice(processor.split(context)).text for context in chosen]
    while 0 < len(texts) < recipe.adapter.start_texts:  # few contexts: more chunks of each
        context = rng.choice(rng.choice(list(sources)).records).context
        texts.append(rng.choice(processor.split(context)).text)
    rng.shuffle(texts)
    return texts[: recipe.adapter.start_texts]


def decoder_options(section: DecoderSection) -> dict[str, Any]:
    """How a pretrained decoder is loaded: its precision, and 4 bits with a place on this process's GPU."""
    options: dict[str, Any] = {"dtype": section.dtype}
    if section.quantization == "nf4":
        options["quantization_config"] = nf4_config()
        if torch.cuda.is_available():
            options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    return options


def new_decoder(shape: NewDecoder, sources: Sequence[Source]) -> tuple[LlamaForCausalLM, Any]:
    """A Llama-shaped decoder with random weights and a tokenizer learned from the sources."""
    tokenizer = learn_tokenizer(shape, sources)
    config = new_decoder_config(shape, len(tokenizer))
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    return LlamaForCausalLM(config), tokenizer


def new_decoder_config(shape: NewDecoder, vocab_size: int) -> LlamaConfig:
    """The configuration of a decoder from scratch."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_heads,
        max_position_embeddings=shape.window,
        attention_dropout=shape.dropout,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )


def learn_tokenizer(shape: NewDecoder, sources: Sequence[Source]) -> Any:
    """The tokenizer of a decoder from scratch."""
    texts: list[str] = []
    room = shape.tokenizer_sample_chars
    for source in sources:
        share = shape.tokenizer_sample_chars // len(sources)
        for text in dict.fromkeys(record.context for record in source.records):
            if share <= 0 or room <= 0:
                break
            texts.append(text[:share])
            share -= len(texts[-1])
            room -= len(texts[-1])
    return train_tokenizer(texts, shape.vocab_size, shape.window)


def set_modes(model: E2LLMForConditionalGeneration, recipe: Recipe) -> lora.TrainableReport:
    """Freeze, adapt or train each part as the recipe says."""

    def settings(section: LoraSection) -> lora.LoraSettings:
        return lora.LoraSettings(section.rank, section.alpha, section.dropout, tuple(section.target_modules))

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
    """Recompute a decoder's activations in the backward pass, by the name that transformers has for it."""
    settings = {"use_reentrant": False}
    if hasattr(decoder, "activation_checkpointing_enable"):
        decoder.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:  # older transformers
        decoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def compile_layers(model: E2LLMForConditionalGeneration, backend: str = "inductor") -> int:
    """Have the layers of encoder and decoder compiled when they first run, each kind once.

    Returns:
        The number of layers.

    Raises:
        E2LLMError: If the parts hold no lists of layers, or there is no C++ compiler where one is needed.
    """
    if model.device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
        raise E2LLMError("train.compile needs a C++ compiler, g++ or clang++; install one or set it to false")
    layers = []
    for part in (model.chunk_encoder, model.language_model):
        names = set(getattr(part, "_no_split_modules", None) or [])
        lists = [module for module in part.modules() if isinstance(module, nn.ModuleList)]
        layers += [layer for item in lists for layer in item if type(layer).__name__ in names]
    if not layers:
        raise E2LLMError("train.compile: the parts name no layers to compile; set it to false")
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    return len(layers)
