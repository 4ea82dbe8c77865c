"""Speed up LoRA and packed samples on CPU; numbers, parameters and files stay the same.

peft's layer computes the deltas in the LoRA parameters' dtype: a bf16 model with fp32 LoRA casts every input
and output. `speed_up` gives each plain layer one function that computes in the dtype of the frozen weight,
adds the delta inside the matrix product, and does the same for the gradients. The LoRA parameters stay fp32
and are cast at each use: they are small.

A row of packed samples needs no mask: the samples follow each other, and each attends to itself alone.
PyTorch's attention is slow here on a CPU: a mask makes it compute the whole square of the row, and its
backward pass in bf16 takes about three times as long as its matrix products (docs/results.md). So short
samples in half precision run through plain matrix products, and the others through PyTorch's function without
a mask.

Shapes: M positions of the batch, I inputs and O outputs of a layer, r rank; N positions of a row, H heads, G
key and value heads, d width of a head, l positions of one sample.
"""

from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_ATTENTION = "e2llm_packed"
_MAX_PRODUCT_LENGTH = 512  # longer samples are faster in PyTorch's function, which skips the masked half

Segment = tuple[int, int]


class _LoraProduct(torch.autograd.Function):
    """`x W' + x A' (s B)'` for a frozen W, in the dtype of W; gradients of x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        dtype = weight.dtype
        x = inputs.reshape(-1, inputs.shape[-1]).to(dtype)
        down, up = lora_a.to(dtype), (lora_b * scale).to(dtype)
        reduced = x @ down.t()
        output = x @ weight.t() if bias is None else torch.addmm(bias.to(dtype), x, weight.t())
        output.addmm_(reduced, up.t())
        ctx.save_for_backward(x, reduced, weight, down, up)
        ctx.scale, ctx.shape, ctx.input_dtype = scale, inputs.shape, inputs.dtype
        ctx.dtypes = lora_a.dtype, lora_b.dtype
        return output.view(*inputs.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, reduced, weight, down, up = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        of_reduced = gradient @ up
        d_inputs = None
        if ctx.needs_input_grad[0]:
            d_inputs = (gradient @ weight).addmm_(of_reduced, down).view(ctx.shape).to(ctx.input_dtype)
        d_a = (of_reduced.t() @ x).to(ctx.dtypes[0])
        d_b = (gradient.t() @ reduced).to(ctx.dtypes[1]).mul_(ctx.scale)
        return d_inputs, None, None, d_a, d_b, None


class FastLoraLinear(PeftLinear):  # type: ignore[misc]
    """peft's LoRA layer with a faster forward where it is plain LoRA; otherwise peft's own."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the layer's output `[..., O]` of `x` `[..., I]`."""
        name = self._plain_adapter()
        weight = self.base_layer.weight
        autocast = torch.is_autocast_enabled(x.device.type)
        if args or kwargs or name is None or not (autocast or x.dtype == weight.dtype):
            of_peft: torch.Tensor = super().forward(x, *args, **kwargs)
            return of_peft
        if autocast:
            weight = weight.to(torch.get_autocast_dtype(x.device.type))
        lora_a, lora_b = self.lora_A[name].weight, self.lora_B[name].weight
        with torch.autocast(x.device.type, enabled=False) if autocast else nullcontext():
            output: torch.Tensor = _LoraProduct.apply(  # type: ignore[no-untyped-call]
                x, weight, self.base_layer.bias, lora_a, lora_b, self.scaling[name]
            )
        return output

    def _plain_adapter(self) -> str | None:
        """Name the one adapter that is in use; None where peft does more than plain LoRA."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        if len(names) != 1 or self.disable_adapters or self.merged or self.lora_variant:
            return None
        name: str = names[0]
        drops = self.training and not isinstance(self.lora_dropout[name], nn.Identity)
        return None if drops or self.lora_B[name].bias is not None else name


def speed_up(decoder: Any) -> int:
    """Speed up the training of a decoder's LoRA layers on a CPU; elsewhere nothing changes.

    Parameters, their names, saving, loading and merging stay peft's. Packed rows are attended to sample by
    sample (`packed_attention`).

    Args:
        decoder: The decoder with LoRA layers, such as a composite model's `language_model`.

    Returns:
        The number of layers that take the faster way.
    """
    count = 0
    for layer in decoder.modules():
        base = getattr(layer, "base_layer", None)
        if type(layer) is not PeftLinear or type(base) is not nn.Linear:
            continue
        frozen = not any(item.requires_grad for item in base.parameters())
        if frozen and base.weight.device.type == "cpu" and base.weight.is_floating_point():
            layer.__class__ = FastLoraLinear
            count += 1
    if count:
        use_packed_attention(decoder)
    return count


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
    """Return whether there is one row, and a position for each of its queries."""
    return positions is not None and len(query) == 1 and positions.shape == (1, query.shape[2])


def _mask(
    batch_size: int, q_length: int, kv_length: int, *args: Any, attention_mask: Any = None, **kwargs: Any
) -> Any:
    """Return no mask for a single row of packed samples, else that of `sdpa`."""
    if attention_mask is None and batch_size == 1 and q_length == kv_length:
        return None
    return sdpa_mask(batch_size, q_length, kv_length, *args, attention_mask=attention_mask, **kwargs)


def use_packed_attention(decoder: Any) -> bool:
    """Switch a decoder from `sdpa` to this attention, and return whether it was switched.

    Only where it has the same result: a Llama-like decoder that looks at all earlier positions.
    """
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    is_plain = config.model_type in ("llama", "qwen2", "qwen3", "mistral") and kinds == {"full_attention"}
    if not is_plain or getattr(config, "sliding_window", None) or config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, _mask)
    decoder.set_attn_implementation(PACKED_ATTENTION)
    return True
