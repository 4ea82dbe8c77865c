"""`e2llm train --dry-run`: one real step of every stage with tiny parts, and the memory of the real size.

The step runs through the code of a real run, `prepare` and `finish` of `e2llm.training.run`, in a temporary
folder: data, tokenizers, LoRA targets, objectives, evaluation, checkpoint. Only sizes differ.
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
from torch import nn

from e2llm.errors import E2LLMError
from e2llm.modeling.checkpoints.parts import encoder_build_kwargs
from e2llm.modeling.configuration import E2LLMConfig
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.training.build import set_modes
from e2llm.training.planning.tiny_parts import part_config, shrink
from e2llm.training.recipes.schema import Recipe
from e2llm.training.run import finish, prepare
from e2llm.training.trainer import E2LLMTrainer

# Of the largest logit. With 4 bits on a CPU, bitsandbytes multiplies evaluated weights by another kernel.
_TOLERANCES = {"none": 1e-4, "nf4": 0.05}
_NF4_BYTES = 0.53  # per value, with the constants of double quantization
_GIB = 2**30


@dataclass(frozen=True)
class PartMemory:
    """What one part takes on each device, without activations.

    Attributes:
        part: `encoder`, `adapter` or `decoder`.
        parameters: All of its numbers, LoRA deltas included.
        trained: Those that train.
        weight_bytes: Of the weights, as they are held.
        training_bytes: Of gradients and AdamW's two moments.
    """

    part: str
    parameters: int
    trained: int
    weight_bytes: float
    training_bytes: float


@dataclass(frozen=True)
class StageCheck:
    """What one tiny step of a stage showed, and what its real size takes.

    Attributes:
        name: Of the run and the stage.
        soft_tokens: Shapes that the adapter made, each once.
        tensors_trained: Tensors that a gradient reached: all that train.
        tensors_frozen: Tensors that stayed bit for bit.
        losses: Training loss of each objective of the step.
        seconds: How long it took.
        memory: One row per part; empty if the configuration of a part is not on this machine.
    """

    name: str
    soft_tokens: list[tuple[int, ...]]
    tensors_trained: int
    tensors_frozen: int
    losses: dict[str, float]
    seconds: float
    memory: list[PartMemory]

    def report(self) -> str:
        """Return what a terminal shows."""
        lines = [
            f"{self.name}: a tiny step passed in {self.seconds:.1f} s; gradients reach the "
            f"{self.tensors_trained} tensors that train, {self.tensors_frozen} stay as they were; the model "
            "loads as it was saved"
        ]
        if not self.memory:
            return f"{lines[0]}\n  memory unknown: config.json of encoder or decoder is not on this machine"
        lines.append("  part         parameters     that train  weights GiB  training GiB")
        for row in self.memory:
            lines.append(
                f"  {row.part:8} {row.parameters:14,} {row.trained:14,} {row.weight_bytes / _GIB:12.2f} "
                f"{row.training_bytes / _GIB:13.2f}"
            )
        total = sum(row.weight_bytes + row.training_bytes for row in self.memory) / _GIB
        lines.append(f"  {total:.2f} GiB on each device with train.parallel: ddp; activations come on top")
        return "\n".join(lines)


def dry_run(recipes: Sequence[Recipe]) -> list[StageCheck]:
    """Check a recipe without data, weights or a hub.

    Args:
        recipes: The resolved stages, in order.

    Raises:
        E2LLMError: If something in the recipe does not fit, a gradient does not reach what trains, or a saved
            model is not the one that was trained.
    """
    with tempfile.TemporaryDirectory(prefix="e2llm-dry-run-") as folder:
        tiny = shrink(recipes, Path(folder))
        return [check_stage(*pair) for pair in zip(recipes, tiny, strict=True)]


def check_stage(real: Recipe, recipe: Recipe) -> StageCheck:
    """Run one step of a tiny recipe by the road of a real run, and check what it did."""
    started = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):  # its table of parameters is that of tiny parts
        trainer = prepare(recipe)
    model = trainer.model
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    with watched(model) as (shapes, reached), contextlib.redirect_stderr(io.StringIO()):
        trainer.train()
        result = finish(recipe, trainer)
    name = " ".join(filter(None, (recipe.name, recipe.stage)))
    check_gradients(f"dry run of {name}", model, before, reached)
    check_saved(f"dry run of {name}", recipe, trainer, result.folder)
    frozen = sum(not parameter.requires_grad for parameter in model.parameters())
    seconds = round(time.perf_counter() - started, 2)
    return StageCheck(
        name, sorted(shapes), len(reached), frozen, result.first_losses, seconds, memory_of(real)
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


def memory_of(recipe: Recipe) -> list[PartMemory]:
    """Return the memory of the real model, built without weights on torch's `meta` device."""
    encoder_config = part_config("encoder", recipe.encoder.source)
    decoder_config = part_config("decoder", str(recipe.decoder.source))
    if encoder_config is None or decoder_config is None:
        return []
    from transformers import AutoModel, AutoModelForCausalLM

    dtype = getattr(decoder_config, "dtype", None) or torch.float32
    if recipe.decoder.dtype != "auto":
        dtype = getattr(torch, recipe.decoder.dtype)
    config = E2LLMConfig(
        encoder_config=encoder_config,
        text_config=decoder_config,
        adapter=recipe.adapter.kind,
        encoder_layers=recipe.encoder.layers or None,
        max_soft_tokens=recipe.adapter.max_soft_tokens,
        chunk_token_id=0,
    )
    with torch.device("meta"):
        encoder = AutoModel.from_config(
            encoder_config, dtype=torch.float32, **encoder_build_kwargs(encoder_config)
        )
        decoder = AutoModelForCausalLM.from_config(decoder_config, dtype=dtype)
        model = E2LLMForConditionalGeneration(config, chunk_encoder=encoder, language_model=decoder)
        set_modes(model, recipe)
    packed = quantized(model.language_model) if recipe.decoder.quantization == "nf4" else set()
    parts = {"encoder": model.chunk_encoder, "adapter": model.adapter, "decoder": model.language_model}
    return [memory_of_part(name, part, packed) for name, part in parts.items()]


def quantized(decoder: Any) -> set[int]:
    """Return the ids of the matrices that nf4 holds in 4 bits: not LoRA, not the output head."""
    head = decoder.get_output_embeddings()
    return {
        id(module.weight)
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name and module is not head
    }


def memory_of_part(name: str, part: nn.Module, packed: set[int]) -> PartMemory:
    """Add up one part. What trains has a float32 gradient and two moments of the same size."""
    parameters = list(part.parameters())
    trained = sum(item.numel() for item in parameters if item.requires_grad)
    weights = sum(
        item.numel() * (_NF4_BYTES if id(item) in packed else item.element_size()) for item in parameters
    )
    return PartMemory(name, sum(item.numel() for item in parameters), trained, weights, 12.0 * trained)
