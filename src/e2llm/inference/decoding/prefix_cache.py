"""Keep keys and values of recent prompts, so that a new prompt can reuse an equal beginning.

Questions about one context begin with the same soft tokens. Prompts are compared by their embeddings, bit for
bit, so that soft tokens count like words.

Shapes: L decoder tokens, D decoder width, H heads, W width of a head.
"""

from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache

MIN_TOKENS = 64  # reading a shorter beginning is faster than finding it


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of a prompt.

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
        """Return the length of the beginning that `[L, D]` embeddings share with this prompt."""
        length = min(len(embeds), len(self.embeds))
        differs = (embeds[:length] != self.embeds[:length]).any(dim=1)
        return int(differs.int().argmax()) if bool(differs.any()) else length

    def cache(self, length: int) -> DynamicCache:
        """Return a cache of the first positions."""
        pairs = [(keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers]
        return DynamicCache(pairs)


class PrefixCache:
    """Recent prompts; the least recently used are dropped first.

    Args:
        max_bytes: Most bytes of all prompts; 0 to keep none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._prefixes: list[Prefix] = []  # most recently used last

    def find(self, embeds: torch.Tensor) -> tuple[DynamicCache, int] | None:
        """Find the earlier prompt that shares the longest beginning with a prompt `[L, D]`.

        Returns:
            A cache and the number of positions in it, fewer than L; None if too few are known.
        """
        shared = [min(prefix.shared_with(embeds), len(embeds) - 1) for prefix in self._prefixes]
        longest = max(shared, default=0)
        if longest < MIN_TOKENS:
            return None
        best = self._prefixes.pop(shared.index(longest))
        self._prefixes.append(best)
        return best.cache(longest), longest

    def keep(self, embeds: torch.Tensor, cache: DynamicCache, row: int) -> None:
        """Keep the keys and values of a prompt, unless nearly all of them are known.

        Args:
            embeds: `[L, D]`.
            cache: Has its keys and values at the last L positions of a row.
            row: Index of the row.
        """
        length = len(embeds)
        shared = [prefix.shared_with(embeds) for prefix in self._prefixes]
        if not self._max_bytes or length < MIN_TOKENS or max(shared, default=0) >= length - MIN_TOKENS:
            return
        layers = [
            (layer.keys[row : row + 1, :, -length:].clone(), layer.values[row : row + 1, :, -length:].clone())
            for layer in cache.layers
        ]
        new = Prefix(embeds, layers)
        if new.num_bytes > self._max_bytes:
            return
        pairs = zip(self._prefixes, shared, strict=True)
        self._prefixes = [*(prefix for prefix, count in pairs if count < len(prefix.embeds)), new]
        while sum(prefix.num_bytes for prefix in self._prefixes) > self._max_bytes:
            self._prefixes.pop(0)
