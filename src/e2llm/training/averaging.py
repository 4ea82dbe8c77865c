"""The mean of two models' weights.

Between a model and what it became in further training, the mean often has the skills of both (model soups,
Wortsman et al., arXiv 2203.05482).
"""

import torch

from e2llm.errors import E2LLMError
from e2llm.modeling.model import E2LLMForConditionalGeneration


@torch.no_grad()
def average_weights(model: E2LLMForConditionalGeneration, other: E2LLMForConditionalGeneration) -> None:
    """Set a model's weights to the mean of its own and another's, in its own dtypes.

    Args:
        model: The model that is changed. What is no floating-point number, such as matrices in 4 bits, stays.
        other: A model of the same shape.

    Raises:
        E2LLMError: If the weights do not have the same names and shapes; nothing is changed then.
    """
    own, others = model.state_dict(), other.state_dict()
    unlike = sorted(
        name
        for name in {*own, *others}
        if name not in own or name not in others or own[name].shape != others[name].shape
    )
    if unlike:
        raise E2LLMError(
            f"only models of one shape can be averaged: {unlike[0]} differs ({len(unlike)} weights in all)"
        )
    means = {
        name: weight.float().lerp(others[name].to(weight.device).float(), 0.5).to(weight.dtype)
        for name, weight in own.items()
        if weight.is_floating_point()
    }
    model.load_state_dict({**own, **means})
