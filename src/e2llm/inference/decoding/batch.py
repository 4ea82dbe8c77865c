"""Decode many answers in one batch that answers can join and leave at any step.

Rows of a batch are padded on the left. Their key-value caches are joined if every layer keeps all of its
keys. With other caches (sliding windows), rows stay with those that they came with, in groups that
take their steps in turn.

Shapes: B rows, L decoder tokens, D decoder width, V vocabulary, P positions in the cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from transformers.cache_utils import DynamicCache, DynamicLayer

from e2llm.inference.decoding.prefix_cache import PrefixCache
from e2llm.inference.decoding.sampling import Sampling, TokenChooser
from e2llm.modeling.model import E2LLMForConditionalGeneration

PREFILL_TOKENS = 1024  # decoder positions of prompts to process between two steps


@dataclass(eq=False)
class DecodingRow:
    """One answer that is being decoded.

    Args:
        input_ids: Decoder ids with placeholders.
        soft_tokens: `[R, D]` of the chunks that the placeholders stand for; None without chunks.
        sampling: How to choose its tokens.

    Attributes:
        new_ids: Tokens of the answer so far, its end token included.
        num_known: Positions of the prompt that were reused from an earlier prompt.
        finish_reason: `stop` after an end token, `length` after the last token allowed, None before.
    """

    input_ids: list[int]
    soft_tokens: torch.Tensor | None
    sampling: Sampling
    new_ids: list[int] = field(default_factory=list)
    num_known: int = 0
    finish_reason: str | None = None
    chooser: TokenChooser = field(init=False)

    def __post_init__(self) -> None:
        self.chooser = TokenChooser(self.sampling)


@dataclass(eq=False)
class _Group:
    """Rows that take steps together.

    Attributes:
        rows: B rows.
        cache: Keys and values of all tokens except the last of each row; None before the first step.
        mask: `[B, P]` nonzero for real positions.
    """

    rows: list[DecodingRow]
    cache: Any
    mask: torch.Tensor


@dataclass(eq=False)
class _Prompts:
    """Prompts that are being processed.

    Attributes:
        group: Their rows, with the mask of the processed positions.
        embeds: `[B, L, D]` of the remaining positions, padded on the left.
        mask: `[B, L]` nonzero for real positions of `embeds`.
        whole: `[L', D]` of each row's whole prompt.
    """

    group: _Group
    embeds: torch.Tensor
    mask: torch.Tensor
    whole: list[torch.Tensor]


class DecodingBatch:
    """A batch of answers, each of which gets one token per step.

    Not thread-safe.

    Args:
        model: In evaluation mode.
        prefix_bytes: Memory for keys and values of earlier prompts, to reuse equal beginnings.
    """

    def __init__(self, model: E2LLMForConditionalGeneration, prefix_bytes: int = 0) -> None:
        self._model = model
        self._waiting: list[DecodingRow] = []
        self._prompts: _Prompts | None = None
        self._groups: list[_Group] = []
        self._prefixes = PrefixCache(prefix_bytes)
        ends = model.generation_config.eos_token_id
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())
        self._pad = next(iter(sorted(self._ends)), 0)

    def add(self, rows: Sequence[DecodingRow]) -> None:
        """Add rows, which take part from the next step."""
        self._waiting += rows

    def __len__(self) -> int:
        groups = [*self._groups, *([] if self._prompts is None else [self._prompts.group])]
        return len(self._waiting) + sum(len(group.rows) for group in groups)

    def remove(self, rows: Sequence[DecodingRow]) -> None:
        """Remove rows whose answers are no longer needed."""
        gone = set(map(id, rows))
        self._waiting = [row for row in self._waiting if id(row) not in gone]
        if self._prompts is not None and all(id(row) in gone for row in self._prompts.group.rows):
            self._prompts = None  # where others are read beside them, they leave after that
        for group in self._groups:
            self._keep(group, [place for place, row in enumerate(group.rows) if id(row) not in gone])
        self._groups = [group for group in self._groups if group.rows]
        for row in rows:
            row.finish_reason = row.finish_reason or "length"

    @torch.inference_mode()
    def step(self) -> list[DecodingRow]:
        """Decode one more token for each row, and process the next piece of waiting prompts.

        Returns:
            The rows that got a token. Those that ended with it have left the batch.
        """
        moved: list[DecodingRow] = []
        for group in self._groups:
            self._advance(group)
            moved += group.rows
        moved += self._read_prompts()
        for group in self._groups:
            self._keep(group, [place for place, row in enumerate(group.rows) if row.finish_reason is None])
        self._groups = [group for group in self._groups if group.rows]
        self._join_groups()
        return moved

    # --- prompts ------------------------------------------------------------------------------------------

    def _read_prompts(self) -> list[DecodingRow]:
        """Process about `PREFILL_TOKENS` positions of prompts; return the rows that got their first token."""
        moved: list[DecodingRow] = []
        room = PREFILL_TOKENS
        while room > 0:
            if self._prompts is None:
                if not self._waiting:
                    break
                self._prompts = self._next_prompts()
            room -= self._prompts.mask[:, :PREFILL_TOKENS].numel()
            moved += self._read_on(self._prompts)
        return moved

    def _next_prompts(self) -> _Prompts:
        """Return the prompt that has waited longest, and others that fit the same pass."""
        taken: list[tuple[DecodingRow, torch.Tensor]] = []
        longest = 0
        while self._waiting:
            row = self._waiting[0]
            longest = max(longest, len(row.input_ids))
            if taken and longest * (len(taken) + 1) > PREFILL_TOKENS:
                break
            embeds = self._embed(row)[0]
            known = self._prefixes.find(embeds)
            if known is not None and taken:
                break  # in a separate pass
            taken.append((row, embeds))
            self._waiting.pop(0)
            if known is not None:
                cache, length = known
                row.num_known = length
                mask = torch.ones(1, len(embeds), dtype=torch.long, device=embeds.device)
                group = _Group([row], cache, mask[:, :length])
                return _Prompts(group, embeds[None, length:], mask[:, length:], [embeds])
        whole = [embeds for _, embeds in taken]
        missing = [max(map(len, whole)) - len(embeds) for embeds in whole]
        padded = [
            functional.pad(embeds, (0, 0, count, 0)) for embeds, count in zip(whole, missing, strict=True)
        ]
        masks = [[0] * count + [1] * len(embeds) for embeds, count in zip(whole, missing, strict=True)]
        mask = torch.tensor(masks, device=padded[0].device)
        group = _Group([row for row, _ in taken], None, mask[:, :0])
        return _Prompts(group, torch.stack(padded), mask, whole)

    def _read_on(self, prompts: _Prompts) -> list[DecodingRow]:
        """Process the next piece of prompts; after the last piece, return their rows."""
        group = prompts.group
        group.mask = torch.cat([group.mask, prompts.mask[:, :PREFILL_TOKENS]], dim=1)
        logits = self._forward(group, inputs_embeds=prompts.embeds[:, :PREFILL_TOKENS])
        prompts.embeds, prompts.mask = prompts.embeds[:, PREFILL_TOKENS:], prompts.mask[:, PREFILL_TOKENS:]
        if prompts.mask.shape[1]:
            return []
        self._prompts = None
        if _keeps_all(group.cache):
            for place, embeds in enumerate(prompts.whole):
                self._prefixes.keep(embeds, group.cache, place)
        under_way = [place for place, row in enumerate(group.rows) if row.finish_reason is None]
        self._choose(group, logits)
        self._groups.append(group)
        return [group.rows[place] for place in under_way]

    def _embed(self, row: DecodingRow) -> torch.Tensor:
        """Return the embeddings `[1, L, D]` of a row's prompt, with soft tokens in place of placeholders."""
        device = self._model.get_input_embeddings().weight.device
        ids = torch.tensor([row.input_ids], device=device)
        soft = None if row.soft_tokens is None else row.soft_tokens.to(device)
        return self._model.merge(ids, chunk_embeds=soft)

    # --- steps --------------------------------------------------------------------------------------------

    def _advance(self, group: _Group) -> None:
        last = torch.tensor([[row.new_ids[-1]] for row in group.rows], device=group.mask.device)
        group.mask = functional.pad(group.mask, (0, 1), value=1)
        self._choose(group, self._forward(group, input_ids=last))

    def _forward(self, group: _Group, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits `[B, V]` of the next token, and add the inputs to the group's cache."""
        keep = {"logits_to_keep": 1} if self._model.takes_logits_to_keep else {}
        output = self._model(
            **inputs, attention_mask=group.mask, past_key_values=group.cache, use_cache=True, **keep
        )
        group.cache = output.past_key_values
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _choose(self, group: _Group, logits: torch.Tensor) -> None:
        logits[:, self._model.config.chunk_token_id] = -torch.inf
        for scores, row in zip(logits, group.rows, strict=True):
            if self._ends and len(row.new_ids) < row.sampling.min_new_tokens:
                scores[list(self._ends)] = -torch.inf
        likeliest = logits.argmax(dim=-1).tolist()
        for row, first, scores in zip(group.rows, likeliest, logits, strict=True):
            token = first if row.chooser.takes_most_likely else row.chooser.choose(scores)
            row.new_ids.append(token)
            if token in self._ends:
                row.finish_reason = "stop"
            elif len(row.new_ids) >= row.sampling.max_new_tokens:
                row.finish_reason = "length"

    # --- rows come and go ---------------------------------------------------------------------------------

    def _keep(self, group: _Group, places: list[int]) -> None:
        if len(places) == len(group.rows):
            return
        group.rows = [group.rows[place] for place in places]
        if not places:
            return
        chosen = torch.tensor(places, device=group.mask.device)
        group.mask = group.mask[chosen]
        group.cache.batch_select_indices(chosen)
        padding = int(group.mask.argmax(dim=1).min())
        if padding and _keeps_all(group.cache):
            group.mask = group.mask[:, padding:]
            for layer in group.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, padding:], layer.values[:, :, padding:]

    def _join_groups(self) -> None:
        """Join the groups whose caches can be joined."""
        joinable = [group for group in self._groups if _keeps_all(group.cache)]
        if len(joinable) < 2:
            return
        longest = max(group.mask.shape[1] for group in joinable)
        first = joinable[0]
        caches = [group.cache.layers for group in joinable]
        missing = [longest - group.mask.shape[1] for group in joinable]
        for place, layer in enumerate(first.cache.layers):
            for name in ("keys", "values"):
                tensors = [getattr(layers[place], name) for layers in caches]
                padded = [
                    functional.pad(tensor, (0, 0, count, 0))
                    for tensor, count in zip(tensors, missing, strict=True)
                ]
                setattr(layer, name, torch.cat(padded))
        masks = [functional.pad(group.mask, (n, 0)) for group, n in zip(joinable, missing, strict=True)]
        first.mask = torch.cat(masks)
        first.rows = [row for group in joinable for row in group.rows]
        others = set(map(id, joinable[1:]))
        self._groups = [group for group in self._groups if id(group) not in others]


def _keeps_all(cache: Any) -> bool:
    """Return whether every layer keeps the keys and values of all positions in order."""
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)
