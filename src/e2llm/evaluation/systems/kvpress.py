"""A press of NVIDIA's kvpress on the decoder's cache: the whole text is read, part of the cache stays.

Offered are presses that need no further weights, download nothing and drop the same number of positions in
every head. The package is optional; docs/systems.md says which versions work.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from e2llm.errors import ContextOverflowError, E2LLMError, MissingExtraError
from e2llm.evaluation.systems.cache import CacheSystem, ReadCache, reject_sliding_window

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
    """The whole text is read, and a press keeps as many of its cached positions as the budget leaves.

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
