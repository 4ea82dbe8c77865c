"""A press of NVIDIA's kvpress on the decoder's cache: the whole text is read, part of the cache stays.

Only presses that need no further weights, download nothing and drop the same number of positions in every
head are offered. The package is optional; docs/systems.md says which versions work.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from e2llm.errors import ContextOverflowError, E2LLMError, MissingExtraError
from e2llm.evaluation.cache_systems import CacheSystem, reject_sliding_window

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


def load_kvpress() -> Any:
    """The package kvpress, without its hold on transformers' attention.

    On import it wraps every attention function of transformers, for presses that are not offered here; the
    functions are put back, so that whatever else runs in the process runs as without it.

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


class PressedCache:
    """A decoder whose cache was pressed after it had read a context.

    Positions are those of the whole text: what follows counts on from its end.

    Args:
        decoder: A causal LM of a family that kvpress supports.
        ids: The context.
        room: Positions that may stay of it; all do where they fit.
        press: The press, made for so many.
    """

    def __init__(self, decoder: Any, ids: Sequence[int], room: int, press: Any) -> None:
        self.decoder, self.room, self.press = decoder, room, press
        self.cache = DynamicCache(config=decoder.config)
        self.position = 0
        self.most = 0
        with pressing(decoder, press):
            self.feed(ids)

    @property
    def length(self) -> int:
        """Cached positions."""
        return int(self.cache.get_seq_length())

    @torch.no_grad()
    def feed(self, ids: Sequence[int], *, all_logits: bool = False) -> torch.Tensor:
        """Read tokens; returns the logits behind the last one `[1, V]`, or behind each `[len(ids), V]`."""
        device = self.decoder.get_input_embeddings().weight.device
        positions = torch.arange(self.position, self.position + len(ids), device=device)
        output = self.decoder(
            input_ids=torch.tensor([list(ids)], device=device),
            position_ids=positions[None],
            cache_position=positions,  # kvpress looks for it; transformers no longer makes it
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=0 if all_logits else 1,
        )
        self.position += len(ids)
        self.most = max(self.most, self.length)
        logits: torch.Tensor = output.logits[0].float()
        return logits


@contextmanager
def pressing(decoder: Any, press: Any) -> Iterator[None]:
    """Press what the decoder reads; without a press nothing is done."""
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
    """The whole text is read, and a press keeps as many of its cached positions as the budget leaves.

    The press does not know the question. The text must fit the decoder's window.

    Attributes:
        press: Which one.
    """

    press: PressName = "expected-attention"
    name: ClassVar[str] = "kvpress"

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is read.

        Raises:
            MissingExtraError: If kvpress is not installed.
            E2LLMError: If the press is unknown, or kvpress does not support the decoder.
        """
        self._kvpress = load_kvpress()
        if self.press not in get_args(PressName):
            raise E2LLMError(f"press must be one of {', '.join(get_args(PressName))}, got {self.press!r}")
        decoder = self.engine.model.language_model
        if not isinstance(decoder, self._kvpress.SUPPORTED_MODELS):
            names = ", ".join(kind.__name__ for kind in self._kvpress.SUPPORTED_MODELS)
            raise E2LLMError(f"kvpress supports {names}; the decoder is a {type(decoder).__name__}")
        reject_sliding_window(decoder.config, "kvpress")

    def prefill(self, context_ids: list[int], question_ids: list[int], max_new_tokens: int) -> PressedCache:
        """Read the context and press it."""
        after, window, budget = len(question_ids) + max_new_tokens, self.engine.window, self.positions
        needed = len(context_ids) + after
        if window is not None and needed > window:
            raise ContextOverflowError(
                f"context, question and answer need {needed:,} positions, the decoder's window has "
                f"{window:,}; kvpress reads the whole text before it presses"
            )
        room = len(context_ids) if budget is None else budget - after
        if room < min(_LEAST_KEPT, len(context_ids)):
            raise ContextOverflowError(
                f"question and answer need {after} of {budget} positions, and a press keeps {_LEAST_KEPT} or "
                "more of the context; raise --budget"
            )
        press = self._press(room, len(context_ids)) if room < len(context_ids) else None
        return PressedCache(self.engine.model.language_model, context_ids, room, press)

    def _press(self, kept: int, count: int) -> Any:
        """A press that keeps so many of `count` positions."""
        options: dict[str, Any] = {"compression_ratio": 1 - (kept + 0.5) / count}  # it rounds down
        if self.press == "snapkv":
            options["window_size"] = min(_SNAPKV_WINDOW, kept // 2)
        return getattr(self._kvpress, _CLASSES[self.press])(**options)
