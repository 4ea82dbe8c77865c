"""Faster training of LoRA layers on a CPU: the same parameters, names and files, fewer passes over memory.

peft's layer computes the deltas in the LoRA parameters' dtype: a bf16 model with fp32 LoRA casts every input
and output. `speed_up` gives each plain layer one function that computes in the dtype of the frozen weight,
adds the delta inside the matrix product, and does the same for the gradients. The LoRA parameters stay as
they are, fp32 masters, cast at each use: they are small.

Shapes: M positions of the batch, I inputs and O outputs of the layer, r rank.
"""

from contextlib import nullcontext
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import nn

from e2llm.training.speed.packed_attention import use_packed_attention


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
    """Make training of a decoder's LoRA layers faster, on a CPU; elsewhere nothing changes.

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
