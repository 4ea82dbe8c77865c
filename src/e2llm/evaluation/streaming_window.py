"""Reading a text of any length through a cache of fixed size: first tokens and recent ones (StreamingLLM).

After Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (arXiv 2309.17453): keys and
values of the first few tokens (the sinks) and of the most recent ones stay, those between are dropped.
Positions count within the cache, so that keys are turned back when older ones before them go.

Shapes: H key heads, S cached positions, d width of a head.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import DynamicCache

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.evaluation.items import Item
from e2llm.evaluation.systems import Cost, Output, System, View, raw_view
from e2llm.inference.likelihood import Likelihood, answer_ids, likelihood_of
from e2llm.inference.peak_memory import PeakMemory
from e2llm.modeling.raw_text import RawText

NUM_SINKS = 4
_BLOCK_TOKENS = 256
_STATIC_ROTARY = ("default", "linear", "llama3")


class StreamingWindow:
    """A decoder with a cache that never holds more than so many positions.

    Args:
        decoder: A causal LM with rotary positions over whole heads.
        size: Most cached positions.
        num_sinks: First positions that are never dropped.

    Raises:
        E2LLMError: If the decoder's positions cannot be turned back, or the cache is too small.
    """

    def __init__(self, decoder: Any, size: int, num_sinks: int = NUM_SINKS) -> None:
        self.decoder, self.size, self.num_sinks = decoder, size, num_sinks
        self.frequencies = rotary_frequencies(decoder)
        if size <= num_sinks + 1:
            raise E2LLMError(f"a streaming cache needs more than {num_sinks + 1} positions, got {size}")
        self.cache = DynamicCache(config=decoder.config)
        self.most = 0

    @property
    def length(self) -> int:
        """Cached positions."""
        return int(self.cache.get_seq_length())

    @torch.no_grad()
    def feed(self, ids: Sequence[int], *, all_logits: bool = False) -> torch.Tensor:
        """Read tokens; returns the logits behind the last one `[1, V]`, or behind each `[len(ids), V]`."""
        logits: list[torch.Tensor] = []
        step = max(1, min(_BLOCK_TOKENS, (self.size - self.num_sinks) // 2))
        for start in range(0, len(ids), step):
            block = torch.tensor([list(ids[start : start + step])], device=self.frequencies.device)
            self._make_room(block.shape[1])
            positions = torch.arange(self.length, self.length + block.shape[1], device=block.device)[None]
            output = self.decoder(
                input_ids=block,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=0 if all_logits else 1,
            )
            self.most = max(self.most, self.length)
            logits = [*(logits if all_logits else []), output.logits[0].float()]
        return torch.cat(logits)

    def _make_room(self, count: int) -> None:
        """Drop the oldest positions after the sinks until so many more fit."""
        excess = self.length + count - self.size
        if excess <= 0:
            return
        keep = self.num_sinks + excess
        for layer in self.cache.layers:
            recent = turn_back(layer.keys[:, :, keep:], self.frequencies, excess)
            layer.keys = torch.cat([layer.keys[:, :, : self.num_sinks], recent], dim=2)
            layer.values = torch.cat([layer.values[:, :, : self.num_sinks], layer.values[:, :, keep:]], dim=2)


def rotary_frequencies(decoder: Any) -> torch.Tensor:
    """Angle per position of each pair of a decoder's head, `[d / 2]`.

    Raises:
        E2LLMError: If its positions are no rotary ones, cover part of a head, or depend on the length.
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
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise E2LLMError(
            f"{config.model_type} has a sliding window of its own; streaming needs full attention"
        )
    tensor: torch.Tensor = frequencies.float()
    return tensor


def turn_back(keys: torch.Tensor, frequencies: torch.Tensor, distance: int) -> torch.Tensor:
    """Keys `[1, H, S, d]` as they would be `distance` positions earlier."""
    angles = torch.cat([frequencies, frequencies]) * distance
    cosines, sines = angles.cos(), angles.sin()
    first, second = keys.float().chunk(2, dim=-1)
    turned = torch.cat([second, -first], dim=-1)  # a quarter turn back
    return (keys.float() * cosines + turned * sines).to(keys.dtype)


@dataclass
class StreamingSystem(System):
    """The whole text through a cache of the budget's size.

    Attributes:
        sinks: First positions that are never dropped (paper: 4).
    """

    sinks: int = NUM_SINKS
    name: ClassVar[str] = "streaming"

    def view(self, item: Item, max_new_tokens: int) -> View:
        """The whole text; the cache decides what of it stays."""
        return raw_view(RawText.whole(item.context))

    def answer(self, item: Item, max_new_tokens: int) -> Output:
        """Answer greedily after reading everything."""
        started = time.perf_counter()
        with PeakMemory(self.engine.device) as memory:
            window, logits, read_seconds = self._read(item)
            ids = [self._choose(logits)]
            first = time.perf_counter() - started
            while len(ids) < max_new_tokens and ids[-1] not in self._ends:
                ids.append(self._choose(window.feed(ids[-1:])[-1]))
        rest = time.perf_counter() - started - first
        tokens = self.readings.count_tokens(item.context)
        cost = Cost(
            decoder_positions=window.most,
            context_tokens=min(tokens, window.size),
            context_fraction=min(1.0, window.size / max(1, tokens)),
            read_seconds=read_seconds,
            first_token_seconds=first - read_seconds,
            ms_per_token=1000 * rest / (len(ids) - 1) if len(ids) > 1 else None,
            peak_extra_bytes=memory.extra_bytes,
            new_tokens=len(ids),
        )
        given = {"soft_tokens_per_chunk": 0, "raw_spans": [[0, len(item.context)]], "left_out": 0}
        return Output(self.engine.processor.decode_answer(ids), cost, given)

    def score(self, item: Item, texts: Sequence[str]) -> list[Likelihood]:
        """Score each text after reading everything; the text is read anew for each."""
        results = []
        for text in texts:
            window, logits, _ = self._read(item)
            targets = answer_ids(self.engine.processor, text)
            steps = [logits[None]]
            if len(targets) > 1:
                steps.append(window.feed(targets[:-1], all_logits=True))
            results.append(likelihood_of(torch.cat(steps), targets))
        return results

    def _read(self, item: Item) -> tuple[StreamingWindow, torch.Tensor, float]:
        """Read up to the answer: the window, the next token's logits `[V]`, and the context's seconds."""
        started = time.perf_counter()
        size = self.positions
        if size is None:
            raise ContextOverflowError("the decoder states no window; give --budget")
        window = StreamingWindow(self.engine.model.language_model, size, self.sinks)
        processor = self.engine.processor
        chunks = [item.context] if item.context.strip() else []
        whole = processor.lay_out(chunks, item.prompt, expand=range(len(chunks))).input_ids
        question = self.overhead(item) - len(processor.template.before_context)
        window.feed(whole[: len(whole) - question])
        read_seconds = time.perf_counter() - started
        return window, window.feed(whole[len(whole) - question :])[-1], read_seconds

    @property
    def _ends(self) -> set[int]:
        ends = self.engine.model.generation_config.eos_token_id
        return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)

    def _choose(self, logits: torch.Tensor) -> int:
        """The likeliest token that is no placeholder."""
        logits = logits.clone()
        logits[self.engine.processor.chunk_token_id] = -torch.inf
        return int(logits.argmax())
