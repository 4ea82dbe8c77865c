"""A learning rate and a schedule for each part: what the optimizer steps, and how fast."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from e2llm.training.recipes.parts import PartSection
from e2llm.training.recipes.schema import Recipe

_PREFIXES = {"encoder": "chunk_encoder.", "adapter": "adapter.", "decoder": "language_model."}


def has_own_learning_rates(recipe: Recipe) -> bool:
    """Whether a part of a recipe has a learning rate or a schedule that is not the run's."""
    sections: tuple[PartSection, ...] = (recipe.encoder, recipe.adapter, recipe.decoder)
    return any(item.learning_rate is not None or item.schedule is not None for item in sections)


def parameter_groups(model: nn.Module, recipe: Recipe, decays: set[str]) -> list[dict[str, Any]]:
    """What trains, grouped by part and by whether it decays; each group has its learning rate.

    Args:
        model: The composite model, as it is named or under a wrapper's prefix.
        recipe: The resolved recipe.
        decays: Names of the parameters that weight decay is for.
    """
    groups = []
    for part, prefix in _PREFIXES.items():
        section: PartSection = getattr(recipe, part)
        for is_decayed in (True, False):
            chosen = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
                and name.removeprefix("module.").startswith(prefix)
                and (name in decays) == is_decayed
            ]
            if chosen:
                groups.append(
                    {
                        "params": chosen,
                        "lr": section.learning_rate or recipe.train.learning_rate,
                        "weight_decay": recipe.train.weight_decay if is_decayed else 0.0,
                        "part": part,
                    }
                )
    return groups


def scheduler(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> Any:
    """The learning rates over a run: a linear warm-up of all parts, then each part's schedule."""
    warmup = math.ceil(recipe.train.warmup_fraction * steps) if steps > 1 else 0
    shapes = [
        getattr(recipe, group["part"]).schedule or recipe.train.schedule for group in optimizer.param_groups
    ]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, [_shape(name, warmup, steps) for name in shapes])


def _shape(name: str, warmup: int, steps: int) -> Callable[[int], float]:
    """The share of the peak learning rate at a step."""

    def share(step: int) -> float:
        if step < warmup:
            return step / max(1, warmup)
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        if name == "constant":
            return 1.0
        return 1 - done if name == "linear" else 0.5 * (1 + math.cos(math.pi * done))

    return share
