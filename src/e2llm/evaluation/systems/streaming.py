"""Reading a text of any length through a cache of fixed size: first tokens and recent ones (StreamingLLM).

After Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (arXiv 2309.17453): keys and
values of the first few tokens (the sinks) and of the most recent ones stay, those between are dropped.
Positions count within the cache, so keys are turned back when older ones before them are dropped.

Shapes: H key heads, S cached positions, d width of a head.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.evaluation.systems.cache import CacheSystem, ReadCache, reject_sliding_window

NUM_SINKS = 4
_BLOCK_TOKENS = 256
_STATIC_ROTARY = ("default", "linear", "llama3")


class StreamingWindow(ReadCache):
    """A decoder with a cache that never holds more than `size` positions.

    Args:
        decoder: A causal LM with rotary positions over whole heads.
        size: Most cached positions.
        num_sinks: First positions, which are never dropped.

    Raises:
        E2LLMError: If the decoder's positions cannot be turned back, or the cache is too small.
    """

    def __init__(self, decoder: Any, size: int, num_sinks: int = NUM_SINKS) -> None:
        super().__init__(decoder, size)
        if size <= num_sinks + 1:
            raise E2LLMError(f"a streaming cache needs more than {num_sinks + 1} positions, got {size}")
        self.frequencies, self.num_sinks = rotary_frequencies(decoder), num_sinks
        self.block_tokens = max(1, min(_BLOCK_TOKENS, (size - num_sinks) // 2))

    def make_room(self, count: int) -> None:
        """Drop the oldest positions after the sinks until `count` more fit."""
        excess = self.length + count - self.room
        if excess <= 0:
            return
        keep = self.num_sinks + excess
        for layer in self.cache.layers:
            recent = turn_back(layer.keys[:, :, keep:], self.frequencies, excess)
            layer.keys = torch.cat([layer.keys[:, :, : self.num_sinks], recent], dim=2)
            layer.values = torch.cat([layer.values[:, :, : self.num_sinks], layer.values[:, :, keep:]], dim=2)


def rotary_frequencies(decoder: Any) -> torch.Tensor:
    """Return the angle per position of each pair of a decoder's head, `[d / 2]`.

    Raises:
        E2LLMError: If its positions are not rotary, cover part of a head, or depend on the length.
    """
    config, rotary = decoder.config, getattr(decoder.base_model, "rotary_emb", None)
    frequencies = getattr(rotary, "inv_freq", None)
    kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if frequencies is None or kind not in _STATIC_ROTARY or 2 * len(frequencies) != width:
        raise E2LLMError(
            "the streaming system needs a decoder with rotary positions over whole heads that do not depend "
            f"on the length ({', '.join(_STATIC_ROTARY)}); {config.model_type} has others"
        )
    reject_sliding_window(config, "streaming")
    tensor: torch.Tensor = frequencies.float()
    return tensor


def turn_back(keys: torch.Tensor, frequencies: torch.Tensor, distance: int) -> torch.Tensor:
    """Return keys `[1, H, S, d]` as they would be `distance` positions earlier."""
    angles = torch.cat([frequencies, frequencies]) * distance
    cosines, sines = angles.cos(), angles.sin()
    first, second = keys.float().chunk(2, dim=-1)
    turned = torch.cat([second, -first], dim=-1)  # a quarter turn back
    return (keys.float() * cosines + turned * sines).to(keys.dtype)


@dataclass
class StreamingSystem(CacheSystem):
    """The whole text through a cache of the budget's size, which keeps first and recent tokens.

    Attributes:
        sinks: First positions, which are never dropped (paper: 4).
    """

    sinks: Annotated[int, Field(ge=0)] = NUM_SINKS
    name: ClassVar[str] = "streaming"

    def prefill(
        self, context_ids: list[int], question_ids: list[int], max_new_tokens: int
    ) -> StreamingWindow:
        """Read the context through the window; question and answer follow through it, too."""
        size = self.positions
        if size is None:
            raise ContextOverflowError("the decoder states no window; give --budget")
        window = StreamingWindow(self.engine.model.language_model, size, self.sinks)
        window.feed(context_ids)
        return window
