"""`e2llm train --dry-run`: one real step of every stage with tiny parts, and the real size on paper.

The step runs through the code of a real run, `prepare` and `finish` of `e2llm.training.run`, in a temporary
folder: data, tokenizers, LoRA targets, objectives, evaluation, checkpoint. What differs is size alone.
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from e2llm.errors import E2LLMError
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.training.estimate import Estimate, estimate
from e2llm.training.run import finish, prepare
from e2llm.training.sample_sizes import Assumptions
from e2llm.training.schema import Recipe
from e2llm.training.tiny_parts import shrink
from e2llm.training.trainer import E2LLMTrainer

# Of the largest logit. With 4 bits on a CPU, bitsandbytes multiplies evaluated weights by another kernel.
_TOLERANCES = {"none": 1e-4, "nf4": 0.05}


@dataclass(frozen=True)
class StageCheck:
    """What one tiny step of a stage showed.

    Attributes:
        stage: Its name; empty where there is only one.
        soft_tokens: `[C, K, D]` of the passes of the adapter, each shape once.
        tensors_trained: Tensors that a gradient reached: all that train.
        tensors_frozen: Tensors that stayed bit for bit.
        losses: Training loss of each objective of the step.
        seconds: How long it took.
    """

    stage: str
    soft_tokens: list[tuple[int, ...]]
    tensors_trained: int
    tensors_frozen: int
    losses: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class DryRun:
    """One stage: the tiny step, and the real size on paper."""

    recipe: Recipe
    check: StageCheck
    estimate: Estimate


def dry_run(
    recipes: Sequence[Recipe], guess: Assumptions | None = None, *, num_devices: int = 1
) -> list[DryRun]:
    """Check a recipe without data, weights or a hub.

    Args:
        recipes: The resolved stages, in order.
        guess: What the estimate takes for granted.
        num_devices: Devices to estimate for.

    Raises:
        E2LLMError: If the dimensions of a part are not known, something in the recipe does not fit, a
            gradient does not reach what trains, or a saved model is not the one that was trained.
    """
    estimates = [estimate(recipe, guess, num_devices=num_devices) for recipe in recipes]
    checks = []
    with tempfile.TemporaryDirectory(prefix="e2llm-dry-run-") as folder:
        for recipe in shrink(recipes, Path(folder)):
            checks.append(check_stage(recipe))
    return [DryRun(*row) for row in zip(recipes, checks, estimates, strict=True)]


def check_stage(recipe: Recipe) -> StageCheck:
    """Run one step of a tiny recipe by the road of a real run, and look at what it did."""
    started = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):  # its table of parameters is that of tiny parts
        trainer = prepare(recipe)
    model = trainer.model
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    with watched(model) as (shapes, reached), contextlib.redirect_stderr(io.StringIO()):
        trainer.train()
        result = finish(recipe, trainer)
    subject = f"dry run of {recipe.stage or recipe.name}"
    check_shapes(subject, recipe, model, shapes)
    check_gradients(subject, model, before, reached)
    check_saved(subject, recipe, trainer, result.folder)
    frozen = sum(not parameter.requires_grad for parameter in model.parameters())
    return StageCheck(
        recipe.stage,
        sorted(shapes),
        len(reached),
        frozen,
        result.first_losses,
        round(time.perf_counter() - started, 2),
    )


@contextlib.contextmanager
def watched(model: Any) -> Iterator[tuple[set[tuple[int, ...]], set[str]]]:
    """Collect the shapes that the adapter makes, and the names of the parameters that gradients reach."""
    shapes: set[tuple[int, ...]] = set()
    reached: set[str] = set()

    def hook_of(name: str) -> Any:
        return lambda parameter: reached.add(name)

    handles = [
        parameter.register_post_accumulate_grad_hook(hook_of(name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    handles.append(
        model.adapter.register_forward_hook(lambda module, given, made: shapes.add(tuple(made.shape)))
    )
    try:
        yield shapes, reached
    finally:
        for handle in handles:
            handle.remove()


def check_shapes(
    subject: str, recipe: Recipe, model: E2LLMForConditionalGeneration, shapes: set[tuple[int, ...]]
) -> None:
    """Raise unless every pass of the adapter made `[C, K, D]` with a K of the recipe's."""
    width = model.get_input_embeddings().weight.shape[1]
    if model.adapter.dial == "rate":  # what is kept depends on the lengths of the chunks
        return
    rates = {*recipe.objectives.soft_tokens, recipe.adapter.max_soft_tokens}
    wrong = [shape for shape in shapes if len(shape) != 3 or shape[1] not in rates or shape[2] != width]
    if wrong:
        raise E2LLMError(
            f"{subject}: soft tokens of shape {wrong[0]}, expected [C, {sorted(rates)}, {width}]"
        )


def check_gradients(subject: str, model: Any, before: dict[str, torch.Tensor], reached: set[str]) -> None:
    """Raise unless gradients reached all that trains, and nothing else has changed."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in reached:
            raise E2LLMError(f"{subject}: no gradient reaches {name}, which trains")
        if parameter.requires_grad or not parameter.is_floating_point():
            continue
        if parameter.grad is not None or not torch.equal(parameter.cpu(), before[name].cpu()):
            raise E2LLMError(f"{subject}: {name} has changed, although it does not train")


@torch.no_grad()
def check_saved(subject: str, recipe: Recipe, trainer: E2LLMTrainer, folder: Path) -> None:
    """Raise unless the saved model gives the logits of the trained one."""
    trained: Any = trainer.accelerator.unwrap_model(trainer.model).cpu().eval()
    samples: Any = trainer.train_dataset
    batch = trainer.data_collator([samples[0]])
    for name in ("objectives", "levels", "teacher"):
        batch.pop(name, None)
    loaded = E2LLMForConditionalGeneration.from_pretrained(folder).eval()
    expected, found = trained(**batch).logits.float(), loaded(**batch).logits.float()
    difference = ((expected - found).abs().max() / expected.abs().max()).item()
    if not difference <= _TOLERANCES[recipe.decoder.quantization]:
        raise E2LLMError(
            f"{subject}: the saved model's logits differ from the trained one's by {difference:.2%}"
        )
