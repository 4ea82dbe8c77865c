"""Keys and values of prompts read lately: what a new prompt begins with like one of them is not read again.

Questions about one context begin with the same soft tokens. Prompts are compared by their embeddings, bit for
bit, so that soft tokens count like words.

Shapes: L decoder tokens, D decoder width, H heads, W width of a head.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache

MIN_TOKENS = 64  # shorter beginnings are read faster than found


@dataclass(frozen=True, eq=False)
class Prefix:
    """What a prompt left.

    Attributes:
        embeds: `[L, D]`.
        layers: For each layer `[1, H, L, W]` keys and values.
    """

    embeds: torch.Tensor
    layers: list[tuple[torch.Tensor, torch.Tensor]]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        pairs = (tensor.nbytes for pair in self.layers for tensor in pair)
        return self.embeds.nbytes + sum(pairs)

    def shared_with(self, embeds: torch.Tensor) -> int:
        """Positions at the beginning of `[L, D]` embeddings that are equal to these."""
        length = min(len(embeds), len(self.embeds))
        differs = (embeds[:length] != self.embeds[:length]).any(dim=1)
        return int(differs.int().argmax()) if bool(differs.any()) else length

    def cache(self, length: int) -> DynamicCache:
        """A cache that holds the first positions."""
        pairs = [(keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers]
        return DynamicCache(pairs)


class PrefixCache:
    """Prompts read lately, the longest unused ones given up first.

    Args:
        max_bytes: Most bytes of them all; 0 to keep none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._prefixes: OrderedDict[int, Prefix] = OrderedDict()
        self._num_bytes = 0
        self._count = 0

    def find(self, embeds: torch.Tensor) -> tuple[DynamicCache, int] | None:
        """What is known of the beginning of a prompt.

        Args:
            embeds: `[L, D]`.

        Returns:
            A cache and the positions that it holds, fewer than L; None if too few are known.
        """
        best, longest = None, MIN_TOKENS - 1
        for key, prefix in self._prefixes.items():
            length = min(prefix.shared_with(embeds), len(embeds) - 1)
            if length > longest:
                best, longest = key, length
        if best is None:
            return None
        self._prefixes.move_to_end(best)
        return self._prefixes[best].cache(longest), longest

    def keep(self, embeds: torch.Tensor, cache: DynamicCache, row: int) -> None:
        """Keep what a prompt left.

        Args:
            embeds: `[L, D]`.
            cache: Holds its keys and values at the last L positions of a row.
            row: Which one.
        """
        length = len(embeds)
        if length < MIN_TOKENS or not self._max_bytes:
            return
        for key, other in list(self._prefixes.items()):
            shared = other.shared_with(embeds)
            if shared >= length - MIN_TOKENS:  # what is new is not worth its room
                return
            if shared == len(other.embeds):  # the new one holds all of it
                self._remove(key)
        layers = [
            (layer.keys[row : row + 1, :, -length:].clone(), layer.values[row : row + 1, :, -length:].clone())
            for layer in cache.layers
        ]
        prefix = Prefix(embeds, layers)
        if prefix.num_bytes > self._max_bytes:
            return
        self._count += 1
        self._prefixes[self._count] = prefix
        self._num_bytes += prefix.num_bytes
        while self._num_bytes > self._max_bytes:
            self._remove(next(iter(self._prefixes)))

    def _remove(self, key: int) -> None:
        self._num_bytes -= self._prefixes.pop(key).num_bytes
