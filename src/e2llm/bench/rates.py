"""How fast the machine multiplies matrices, and how many operations reading takes."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from e2llm.modeling.model import E2LLMForConditionalGeneration


def gemm_rate(model: E2LLMForConditionalGeneration) -> float:
    """Return operations per second of matrix products, by all threads, in the encoder's precision.

    It is the larger of a square product's and of one of the encoder's shape, each the median of 15 runs.
    """
    weight = next(item.weight for item in model.chunk_encoder.modules() if isinstance(item, nn.Linear))
    width = model.config.encoder_config.hidden_size
    inner = getattr(model.config.encoder_config, "intermediate_size", 4 * width)
    rates = []
    for rows, inputs, outputs in ((1024, 1024, 1024), (2048, width, inner)):
        a = torch.randn(rows, inputs, device=weight.device, dtype=weight.dtype)
        b = torch.randn(outputs, inputs, device=weight.device, dtype=weight.dtype)
        seconds = median_seconds(partial(nn.functional.linear, a, b), weight.device, repeats=15)
        rates.append(2 * rows * inputs * outputs / seconds)
    return max(rates)


def reading_operations(model: E2LLMForConditionalGeneration, lengths: Sequence[int]) -> int:
    """Operations of encoder and adapter for chunks of so many tokens; padding would not count.

    Two per weight of a linear layer and row, and four per pair of tokens and unit of width in attention.
    """
    encoder, adapter, config = model.chunk_encoder, model.adapter, model.config
    per_token = 2 * sum(item.weight.numel() for item in encoder.modules() if isinstance(item, nn.Linear))
    per_chunk, per_state = 0, 0
    if adapter.dial == "rate":  # the head is no part of reading
        per_state = 2 * sum(item.numel() for item in adapter.reading_state().values() if item.dim() == 2)
    for name, item in [] if adapter.dial == "rate" else adapter.named_modules():
        if isinstance(item, nn.Linear):
            if name in ("key_projection", "value_projection"):
                per_token += 2 * item.weight.numel()
            else:
                per_chunk += 2 * item.weight.numel() * config.max_soft_tokens
    layers = getattr(config.encoder_config, "num_hidden_layers", 0)
    per_pair = 4 * layers * config.encoder_config.hidden_size
    states = sum(-(-length // config.finest_rate) for length in lengths)
    total: int = per_state * states + sum(
        per_token * length + per_pair * length**2 + per_chunk for length in lengths
    )
    return total


def median_seconds(work: Callable[[], Any], device: torch.device, *, repeats: int) -> float:
    """Median time of a piece of work after two runs to warm up."""
    times = []
    for number in range(repeats + 2):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= 2:
            times.append(time.perf_counter() - started)
    return statistics.median(times)
