"""Engines to measure: decoders of published shapes with random weights, or real checkpoints.

Time and memory do not depend on the values of the weights, so that a decoder's shape is enough.
"""

import random
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from e2llm.errors import E2LLMError
from e2llm.inference.engine import Engine
from e2llm.inference.loading import choose_device, choose_dtype
from e2llm.model_names import MINILM_ID
from e2llm.modeling.checkpoints.parts import load_tokenizer
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.modeling.raw_text import longest_prefix

BENCH_QUESTION = "What did the master of the house say about the garden?"

# The published dimensions; everything else is the default of the type.
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
        "tie_word_embeddings": True, "max_position_embeddings": 8192,
    },
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
        "tie_word_embeddings": True, "max_position_embeddings": 32768,
    },
    "llama-2-7b": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
        "tie_word_embeddings": False, "max_position_embeddings": 4096,
    },
}  # fmt: skip
_WORDS = """
the of and a to in he was that it his her with as had for she not at but be on they have him which
said from all this so one were or there when by an would if who no more out up into them then some
what could time very about two other than little only man good great old any before how like over
such after made first did must never down now where went come house came day night long again might
hand way know think see last water people young small large garden window letter morning evening
country master friend father mother children thought answered together nothing something afternoon
remembered beautiful
"""


def build_engine(
    *,
    shape: str | None,
    model: str | None,
    soft_tokens: int = 1,
    least_window: int = 0,
    device: str | None = None,
) -> Engine:
    """Return an engine of a shape with random weights, or of a checkpoint.

    Args:
        shape: A key of `SHAPES`.
        model: Folder, hub id or embedded name of a checkpoint, instead of a shape.
        soft_tokens: Most soft tokens per chunk of a shape's engine.
        least_window: A smaller window of a shape is raised to this, so that the full context fits.
        device: Such as `cpu` or `cuda`.

    Raises:
        E2LLMError: If the shape is unknown.
    """
    if model is not None:
        return Engine.from_pretrained(model, device=device)
    if shape not in SHAPES:
        raise E2LLMError(f"unknown shape {shape!r}; choose one of: {', '.join(SHAPES)}")
    place = choose_device(device)
    chosen = choose_dtype(place) or torch.float32
    settings = dict(SHAPES[shape])
    settings["max_position_embeddings"] = max(settings["max_position_embeddings"], least_window)
    config = AutoConfig.for_model(**settings, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    torch.manual_seed(0)
    with place:
        decoder = AutoModelForCausalLM.from_config(config, dtype=chosen)
    tokenizer = load_tokenizer(MINILM_ID)  # its ids lie within every shape's vocabulary
    built = E2LLMForConditionalGeneration.from_parts(
        MINILM_ID,
        decoder,
        adapter="attention",
        max_soft_tokens=soft_tokens,
        decoder_tokenizer=tokenizer,
        encoder_kwargs={"dtype": chosen},
    )
    processor = E2LLMProcessor.from_parts(MINILM_ID, decoder_tokenizer=tokenizer)
    return Engine(built.to(place), processor)


def level_options(engine: Engine, soft_tokens: int) -> dict[str, Any]:
    """Return the option of `Engine.ask` that sets the level: the coarsest rate, or the soft tokens."""
    if engine.dial.has_rate:
        return {"rate": engine.dial.rates[-1]}
    return {"soft_tokens": soft_tokens}


def make_text(engine: Engine, num_tokens: int, seed: int = 0) -> str:
    """Return sentences of common words that have `num_tokens` decoder tokens, give or take a few."""
    words = random.Random(seed).choices(_WORDS.split(), k=num_tokens)
    sentences = (" ".join(words[at : at + 12]).capitalize() + "." for at in range(0, num_tokens, 12))
    return longest_prefix(" ".join(sentences), num_tokens, engine.count_tokens)
