"""Systems that read the whole text into a cache of keys and values, and answer from what the cache keeps.

Streaming after Xiao et al., "Efficient Streaming Language Models with Attention Sinks" (arXiv 2309.17453):
keys and values of the first few tokens (the sinks) and of the most recent ones stay, others are dropped.
Positions count within the cache, so keys are turned back when older ones before them are dropped.

Presses are those of NVIDIA's kvpress that need no further weights, download nothing and drop the same number
of positions in every head. The package is optional; docs/systems.md says which versions work.

Shapes: V vocabulary, H key heads, S cached positions, d width of a head.
"""

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from e2llm.errors import ContextOverflowError, E2LLMError, MissingExtraError
from e2llm.evaluation.items import Item
from e2llm.evaluation.systems.base import Cost, Output, System, View, raw_view
from e2llm.inference.decoding.likelihood import Likelihood, answer_ids, likelihood_of
from e2llm.measuring import PeakMemory
from e2llm.modeling.raw_text import RawText

NUM_SINKS = 4
_BLOCK_TOKENS = 256
_STATIC_ROTARY = ("default", "linear", "llama3")

PressName = Literal["expected-attention", "keydiff", "knorm", "snapkv", "tova"]
_LEAST_KEPT = 8  # presses keep a few first or last positions in any case
_SNAPKV_WINDOW = 64
_CLASSES = {
    "expected-attention": "ExpectedAttentionPress",
    "keydiff": "KeyDiffPress",
    "knorm": "KnormPress",
    "snapkv": "SnapKVPress",
    "tova": "TOVAPress",
}


class ReadCache:
    """A decoder with a cache.

    Args:
        decoder: A causal LM.
        room: Positions of the cache that may be of the context.

    Attributes:
        max_length: The most positions that the cache held at a time, between two calls.
    """

    block_tokens: int | None = None
    """Tokens that are read in one pass; None for all."""

    def __init__(self, decoder: Any, room: int) -> None:
        self.decoder, self.room = decoder, room
        self.device = decoder.get_input_embeddings().weight.device
        self.cache = DynamicCache(config=decoder.config)
        self.max_length = 0

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return int(self.cache.get_seq_length())

    def positions(self, count: int) -> dict[str, torch.Tensor]:
        """Return the positions of the next tokens, as arguments of the decoder."""
        return {"position_ids": torch.arange(self.length, self.length + count, device=self.device)[None]}

    def make_room(self, count: int) -> None:
        """Prepare the cache for further positions."""

    @torch.no_grad()
    def feed(self, ids: Sequence[int], *, all_logits: bool = False) -> torch.Tensor:
        """Read tokens; returns the logits after the last one `[1, V]`, or after each `[len(ids), V]`."""
        logits: list[torch.Tensor] = []
        step = self.block_tokens or max(1, len(ids))
        for start in range(0, len(ids), step):
            block = torch.tensor([list(ids[start : start + step])], device=self.device)
            self.make_room(block.shape[1])
            output = self.decoder(
                input_ids=block,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=0 if all_logits else 1,
                **self.positions(block.shape[1]),
            )
            self.max_length = max(self.max_length, self.length)
            logits = [*(logits if all_logits else []), output.logits[0].float()]
        return torch.cat(logits)


@dataclass
class CacheSystem(System):
    """The whole text is read, and the cache decides what of it stays; answers are greedy."""

    gives_text: ClassVar[bool] = True

    @abstractmethod
    def prefill(self, context_ids: list[int], question_ids: list[int], max_new_tokens: int) -> ReadCache:
        """Read a context.

        Args:
            context_ids: Ids up to the end of the context.
            question_ids: Ids from there to the answer, which will be read next.
            max_new_tokens: Longest answer.

        Raises:
            ContextOverflowError: If the system refuses it.
        """

    def view(self, item: Item, max_new_tokens: int) -> View:
        """Give the whole text."""
        return raw_view(RawText.whole(item.context))

    def answer(self, item: Item, max_new_tokens: int) -> Output:
        """Answer greedily after reading everything."""
        started = time.perf_counter()
        ends = self.engine.model.generation_config.eos_token_id
        with PeakMemory(self.engine.device) as memory:
            cache, logits, read_seconds = self._read(item, max_new_tokens)
            ids = [self._choose(logits)]
            first = time.perf_counter() - started
            while len(ids) < max_new_tokens and ids[-1] not in (ends if isinstance(ends, list) else [ends]):
                ids.append(self._choose(cache.feed(ids[-1:])[-1]))
            rest = time.perf_counter() - started - first
        tokens = self.readings.count_tokens(item.context)
        cost = Cost(
            decoder_positions=cache.max_length,
            context_tokens=min(tokens, cache.room),
            context_fraction=min(1.0, cache.room / max(1, tokens)),
            read_seconds=read_seconds,
            first_token_seconds=first - read_seconds,
            ms_per_token=1000 * rest / (len(ids) - 1) if len(ids) > 1 else None,
            peak_extra_bytes=memory.extra_bytes,
            new_tokens=len(ids),
        )
        given = {"soft_tokens_per_chunk": 0, "raw_spans": [[0, len(item.context)]], "left_out": 0}
        return Output(self.engine.processor.decode_answer(ids), cost, given)

    def score(self, item: Item, texts: Sequence[str]) -> list[Likelihood]:
        """Score each text after reading everything; the context is read again for each."""
        rows = [answer_ids(self.engine.processor, text) for text in texts]
        longest = max(map(len, rows))
        results = []
        for targets in rows:
            cache, logits, _ = self._read(item, longest)
            steps = [logits[None]]
            if len(targets) > 1:
                steps.append(cache.feed(targets[:-1], all_logits=True))
            results.append(likelihood_of(torch.cat(steps), targets))
        return results

    def _read(self, item: Item, max_new_tokens: int) -> tuple[ReadCache, torch.Tensor, float]:
        """Read up to the answer; returns the cache, the next logits `[V]`, and the context's seconds."""
        before = self.engine.processor.template.before_context
        context = self.readings.token_ids(item.context) if item.context.strip() else []
        question = self.readings.question_ids(item.prompt)[len(before) :]
        started = time.perf_counter()
        cache = self.prefill([*before, *context], question, max_new_tokens)
        read_seconds = time.perf_counter() - started
        return cache, cache.feed(question)[-1], read_seconds

    def _choose(self, logits: torch.Tensor) -> int:
        """Return the likeliest token that is no placeholder."""
        logits = logits.clone()
        logits[self.engine.processor.chunk_token_id] = -torch.inf
        return int(logits.argmax())


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
            raise E2LLMError(
                f"a streaming cache needs more than {num_sinks + 1} positions, got {size}; raise --budget"
            )
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
            f"on the length ({', '.join(_STATIC_ROTARY)}); those of {config.model_type} differ"
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
    """The whole text through a cache of the budget's size, which keeps the first and the recent tokens.

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


def reject_sliding_window(config: Any, user: str) -> None:
    """Raise `E2LLMError` for a decoder whose attention drops old positions."""
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise E2LLMError(f"{config.model_type} has a sliding window; {user} needs full attention")


def load_kvpress() -> Any:
    """Import the package kvpress, and restore the attention functions that it wraps on import.

    It wraps every attention function of transformers, for presses that are not offered here.

    Raises:
        MissingExtraError: If it is not installed.
    """
    functions = dict(ALL_ATTENTION_FUNCTIONS.items())
    try:
        import kvpress
    except ImportError as error:
        raise MissingExtraError("kvpress", "kvpress") from error
    for name, function in functions.items():
        ALL_ATTENTION_FUNCTIONS[name] = function
    return kvpress


class PressedCache(ReadCache):
    """A decoder whose cache was pressed after it had read a context.

    Positions are those of the whole text: further tokens count on from its end.

    Args:
        decoder: A causal LM of a family that kvpress supports.
        ids: Ids of the context.
        room: Positions of the context to keep; all are kept where they fit.
        press: The press made for that number; None keeps all.
    """

    def __init__(self, decoder: Any, ids: Sequence[int], room: int, press: Any) -> None:
        super().__init__(decoder, room)
        self._position = 0
        with pressing(decoder, press):
            self.feed(ids)

    def positions(self, count: int) -> dict[str, torch.Tensor]:
        """Return the positions in the whole text."""
        start, self._position = self._position, self._position + count
        found = torch.arange(start, self._position, device=self.device)
        return {"position_ids": found[None], "cache_position": found}  # kvpress looks for the latter


@contextmanager
def pressing(decoder: Any, press: Any) -> Iterator[None]:
    """Press what the decoder reads, unless the press is None."""
    if press is None:
        yield
        return
    layers = [layer.self_attn for layer in decoder.model.layers]
    own = [hasattr(layer, "rotary_emb") for layer in layers]
    try:
        with press(decoder):
            yield
    finally:
        for layer, had in zip(layers, own, strict=True):
            if not had and hasattr(layer, "rotary_emb"):  # set by kvpress, and left behind
                del layer.rotary_emb


@dataclass
class KvPressSystem(CacheSystem):
    """The whole text, of whose cached positions a press keeps as many as the budget allows.

    The press does not know the question. The text must fit the decoder's window.

    Attributes:
        press: Name of the press.
    """

    press: PressName = "expected-attention"
    name: ClassVar[str] = "kvpress"

    def __post_init__(self) -> None:
        """Refuse a decoder that cannot work before any text is read.

        Raises:
            MissingExtraError: If kvpress is not installed.
            E2LLMError: If kvpress does not support the decoder.
        """
        self._kvpress = load_kvpress()
        decoder = self.engine.model.language_model
        if not isinstance(decoder, self._kvpress.SUPPORTED_MODELS):
            names = ", ".join(kind.__name__ for kind in self._kvpress.SUPPORTED_MODELS)
            raise E2LLMError(f"kvpress supports {names}, but the decoder is a {type(decoder).__name__}")
        reject_sliding_window(decoder.config, "kvpress")

    def prefill(self, context_ids: list[int], question_ids: list[int], max_new_tokens: int) -> PressedCache:
        """Read the context and press it."""
        after, window, budget = len(question_ids) + max_new_tokens, self.engine.window, self.positions
        needed = len(context_ids) + after
        if window is not None and needed > window:
            raise ContextOverflowError(
                f"context, question and answer need {needed:,} positions, but the decoder's window has "
                f"{window:,}; kvpress reads the whole text before it presses"
            )
        room = len(context_ids) if budget is None else budget - after
        if room < min(_LEAST_KEPT, len(context_ids)):
            raise ContextOverflowError(
                f"question and answer need {after} of {budget} positions, and a press keeps at least "
                f"{_LEAST_KEPT} of the context; raise --budget"
            )
        press = self._press(room, len(context_ids)) if room < len(context_ids) else None
        return PressedCache(self.engine.model.language_model, context_ids, room, press)

    def _press(self, kept: int, count: int) -> Any:
        """Return a press that keeps `kept` of `count` positions."""
        options: dict[str, Any] = {"compression_ratio": 1 - (kept + 0.5) / count}  # it rounds down
        if self.press == "snapkv":
            options["window_size"] = min(_SNAPKV_WINDOW, kept // 2)
        return getattr(self._kvpress, _CLASSES[self.press])(**options)
