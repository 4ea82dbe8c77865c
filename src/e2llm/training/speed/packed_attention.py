"""Attention for samples that are packed into one row, each sample by itself.

A row of packed samples needs no mask: the samples lie one after the other, and each attends to itself alone.
PyTorch's own attention is slow here on a CPU: a mask makes it compute the whole square of the row, and its
backward pass in bf16 takes about three times as long as the matrix products that it is made of
(docs/results.md). So short samples in half precision run through plain matrix products, and the others
through PyTorch's function without a mask.

Shapes: N positions of the row, H heads, G key and value heads, d width of a head, l positions of one sample.
"""

from functools import lru_cache, partial
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "e2llm_packed"
_MAX_PRODUCT_LENGTH = 512  # longer samples are faster in PyTorch's function, which skips the masked half

Segment = tuple[int, int]


class _SegmentAttention(torch.autograd.Function):
    """Causal attention within each segment: `[1, H, N, d]`, `[1, G, N, d]` twice -> `[1, N, H, d]`."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, at: list[Segment]
    ) -> torch.Tensor:
        _, heads, length, width = query.shape
        groups = key.shape[1]
        output = query.new_empty(1, length, heads, width)
        weights = []
        for start, end in at:
            own = query[0, :, start:end].reshape(groups, -1, width)
            mask = _causal_mask(end - start, heads // groups, query.dtype)
            scores = torch.baddbmm(mask, own, key[0, :, start:end].transpose(1, 2), alpha=scale)
            weights.append(torch.softmax(scores, dim=-1))
            mixed = torch.bmm(weights[-1], value[0, :, start:end])
            output[0, start:end] = mixed.view(heads, end - start, width).transpose(0, 1)
        ctx.save_for_backward(query, key, value, *weights)
        ctx.scale, ctx.at = scale, at
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        query, key, value, *weights = ctx.saved_tensors
        _, heads, length, width = query.shape
        groups = key.shape[1]
        d_query = query.new_empty(1, length, heads, width)
        d_key, d_value = (query.new_empty(1, length, groups, width) for _ in range(2))
        for (start, end), weight in zip(ctx.at, weights, strict=True):
            own = query[0, :, start:end].reshape(groups, -1, width)
            passed = gradient[0, start:end].transpose(0, 1).reshape(groups, -1, width)
            d_value[0, start:end] = torch.bmm(weight.transpose(1, 2), passed).transpose(0, 1)
            d_weight = torch.bmm(passed, value[0, :, start:end].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weight, weight, -1, weight.dtype).mul_(ctx.scale)
            mixed = torch.bmm(d_scores, key[0, :, start:end])
            d_query[0, start:end] = mixed.view(heads, end - start, width).transpose(0, 1)
            d_key[0, start:end] = torch.bmm(d_scores.transpose(1, 2), own).transpose(0, 1)
        return d_query.transpose(1, 2), d_key.transpose(1, 2), d_value.transpose(1, 2), None, None


@lru_cache(maxsize=1024)
def _causal_mask(length: int, repeats: int, dtype: torch.dtype) -> torch.Tensor:
    """Return `[1, repeats * length, length]`: 0 where a position may look, minus infinity elsewhere."""
    mask = torch.full((length, length), float("-inf"), dtype=dtype).triu(1)
    return mask.repeat(repeats, 1)[None]


def find_segments(position_ids: torch.Tensor) -> list[Segment]:
    """Return start and end of each sample of a row `[1, N]`; a sample begins where positions do not rise."""
    positions = position_ids[0]
    starts = (positions[1:] <= positions[:-1]).nonzero().squeeze(1).add(1).tolist()
    return list(zip([0, *starts], [*starts, len(positions)], strict=True))


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' `sdpa` does; a single row without mask and cache sample by sample.

    Args:
        module: The attention layer.
        query: `[B, H, N, d]`.
        key: `[B, G, M, d]`, M = N where there is no cache.
        value: `[B, G, M, d]`.
        attention_mask: `[B, 1, N, M]`, or None: causal.
        scaling: Factor of the scores; 1 / sqrt(d) by default.
        dropout: Fraction of the weights to drop.
        kwargs: `position_ids` `[1, N]`, by which samples are told apart, and what `sdpa` takes.

    Returns:
        `[B, N, H, d]`, and None for the weights.
    """
    positions = kwargs.get("position_ids")
    has_cache = key.shape[2] != query.shape[2]
    if attention_mask is not None or has_cache or dropout or not _is_row(query, positions):
        output: torch.Tensor = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )[0]
        return output, None
    segments = find_segments(kwargs["position_ids"])
    longest = max(end - start for start, end in segments)
    if query.dtype != torch.float32 and longest <= _MAX_PRODUCT_LENGTH:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return _SegmentAttention.apply(query, key, value, scale, segments), None  # type: ignore[no-untyped-call]
    attend = partial(functional.scaled_dot_product_attention, is_causal=True, scale=scaling, enable_gqa=True)
    pieces = [
        attend(query[:, :, start:end], key[:, :, start:end], value[:, :, start:end])
        for start, end in segments
    ]
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


def _is_row(query: torch.Tensor, positions: torch.Tensor | None) -> bool:
    """Say whether there is one row, and positions for each of its queries."""
    return positions is not None and len(query) == 1 and positions.shape == (1, query.shape[2])


def _mask(
    batch_size: int, q_length: int, kv_length: int, *args: Any, attention_mask: Any = None, **kwargs: Any
) -> Any:
    """Return no mask for a single row of packed samples, else that of `sdpa`."""
    if attention_mask is None and batch_size == 1 and q_length == kv_length:
        return None
    return sdpa_mask(batch_size, q_length, kv_length, *args, attention_mask=attention_mask, **kwargs)


def use_packed_attention(decoder: Any) -> bool:
    """Switch a decoder from `sdpa` to this attention, and say whether it was.

    Only where it has the same result: a Llama-like decoder that looks at all earlier positions.
    """
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    is_plain = config.model_type in ("llama", "qwen2", "qwen3", "mistral") and kinds == {"full_attention"}
    if not is_plain or getattr(config, "sliding_window", None) or config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _mask)
    decoder.set_attn_implementation(NAME)
    return True
