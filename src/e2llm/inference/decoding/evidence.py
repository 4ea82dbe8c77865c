"""Measure what an answer rests on: what its likelihood loses if a chunk is hidden from it.

The context is read once. Copies of the question and the answer follow it in one row; each copy sees the
context without its own chunk, and no other copy. So a chunk costs only a copy, not another reading of the
context. What the chunks after a hidden one took over from it stays visible. (Chosen here.)

Shapes: E positions before the question, T of question and answer, A of the answer, K hidden chunks.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache

from e2llm.inference.layout import LaidOut
from e2llm.modeling.model import E2LLMForConditionalGeneration

_PASS_POSITIONS = 2048  # most positions of copies in one pass


def can_hide_chunks(model: E2LLMForConditionalGeneration) -> bool:
    """Return whether the decoder takes a mask for each position, and all its layers see all of them."""
    config = model.language_model.config
    sees_all = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    has_window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    takes_masks = config._attn_implementation in ("sdpa", "eager")
    return bool(model.takes_position_ids and takes_masks and sees_all and not has_window)


@torch.no_grad()
def hide_chunks(
    laid: LaidOut, answer_ids: Sequence[int], places: Sequence[int], cache: DynamicCache | None = None
) -> torch.Tensor:
    """Return what each token of an answer loses without each of some chunks.

    Args:
        laid: The decoder's input.
        answer_ids: A tokens, at least one.
        places: Places of K chunks in the plan.
        cache: Keys and values of the input, of one row, which saves reading it again; more positions may
            follow. It is not changed.

    Returns:
        `[K, A]` nats; negative if the chunk made the token less likely.
    """
    model, spans = laid.model, laid.chunk_spans
    end = spans[-1][1]
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([laid.sample.input_ids[:end]], device=device)
    if cache is None:
        embeds = model.merge(ids, chunk_embeds=laid.soft_tokens)
        cache = model(inputs_embeds=embeds, use_cache=True, **_keep(model, [end - 1])).past_key_values
    layers = [(layer.keys[:, :, :end], layer.values[:, :, :end]) for layer in cache.layers]
    tail = [*laid.sample.input_ids[end:], *answer_ids]
    hidden: list[tuple[int, int] | None] = [None, *(spans[place] for place in places)]
    copies = max(1, _PASS_POSITIONS // len(tail))
    passes = [hidden[start : start + copies] for start in range(0, len(hidden), copies)]
    found = torch.cat([_score(model, layers, tail, len(answer_ids), spans) for spans in passes])
    return found[0] - found[1:]


def _score(
    model: E2LLMForConditionalGeneration,
    layers: list[tuple[torch.Tensor, torch.Tensor]],
    tail: list[int],
    num_answer: int,
    hidden: Sequence[tuple[int, int] | None],
) -> torch.Tensor:
    """Return the log-likelihood `[len(hidden), A]` of the answer's tokens in each copy."""
    end, length, copies = layers[0][0].shape[2], len(tail), len(hidden)
    embeddings = model.get_input_embeddings()
    device = embeddings.weight.device
    ids = torch.tensor([tail * copies], device=device)
    visible = torch.zeros(copies, length, end + copies * length, dtype=torch.bool, device=device)
    visible[:, :, :end] = True
    for copy, span in enumerate(hidden):
        own = slice(end + copy * length, end + (copy + 1) * length)
        visible[copy, :, own] = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        if span is not None:
            visible[copy, :, slice(*span)] = False
    embeds = embeddings(ids)
    mask = torch.zeros(visible.shape, dtype=embeds.dtype, device=device)
    mask.masked_fill_(~visible, torch.finfo(embeds.dtype).min)
    starts = [copy * length + length - num_answer - 1 for copy in range(copies)]
    before = [start + place for start in starts for place in range(num_answer)]
    logits = model.language_model(
        inputs_embeds=embeds,
        attention_mask=mask.reshape(1, 1, copies * length, -1),
        position_ids=torch.arange(end, end + length, device=device).repeat(copies)[None],
        past_key_values=DynamicCache(layers),
        use_cache=True,
        **_keep(model, before),
    ).logits[0]
    if len(logits) != len(before):
        logits = logits[before]
    targets = torch.tensor(tail[-num_answer:] * copies, device=logits.device)
    scores: torch.Tensor = logits.float().log_softmax(dim=-1).gather(1, targets[:, None])
    return scores.reshape(copies, num_answer).cpu()


def _keep(model: E2LLMForConditionalGeneration, places: list[int]) -> dict[str, Any]:
    """Return the argument that computes logits at some places only, if the decoder has one."""
    if not model.takes_logits_to_keep:
        return {}
    return {"logits_to_keep": torch.tensor(places, device=model.get_input_embeddings().weight.device)}
