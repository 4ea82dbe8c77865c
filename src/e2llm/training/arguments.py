"""Translate a recipe into transformers' arguments, precision, and learning rates per part."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from e2llm.errors import E2LLMError
from e2llm.training.parallel import keep_losses_in_float32, parallel_arguments
from e2llm.training.recipes.schema import Recipe
from e2llm.training.samples.sample_set import OBJECTIVES

# The order of the parts is that of the optimizer's states in a checkpoint.
_PREFIXES = {"encoder": "chunk_encoder.", "adapter": "adapter.", "decoder": "language_model."}
_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def training_arguments(
    recipe: Recipe, metric: str | None, layer_classes: Sequence[str] = ()
) -> TrainingArguments:
    """Return the arguments of transformers' Trainer.

    Activation checkpointing is left to `e2llm.training.build`; its name here differs between versions.

    Args:
        recipe: The resolved recipe.
        metric: Metric of the best checkpoint; None for a run without evaluation.
        layer_classes: Names of the layer classes that sharding gathers as a whole.
    """
    train = recipe.train
    precision = resolve_precision(train.precision)
    arguments = TrainingArguments(
        output_dir=str(recipe.folder),
        max_steps=train.steps,
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        learning_rate=train.learning_rate,
        lr_scheduler_type=_SCHEDULES[train.schedule],
        # The first step of a warm-up has the learning rate 0: of a single step it would leave nothing.
        warmup_steps=train.warmup_fraction if train.steps > 1 else 0,
        weight_decay=train.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=train.dataloader_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=train.log_every_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if metric else "no",
        eval_steps=train.evaluate_every_steps,
        metric_for_best_model=metric,
        greater_is_better=False if metric else None,
        load_best_model_at_end=metric is not None and train.final == "best",
        save_strategy="steps",
        save_steps=train.save_every_steps,
        save_total_limit=train.keep_checkpoints,
        seed=recipe.seed,
        data_seed=recipe.seed,
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        average_tokens_across_devices=False,
        ddp_find_unused_parameters=False,  # the model uses every parameter, also for a batch without chunks
        **parallel_arguments(train.parallel, layer_classes),
    )
    keep_losses_in_float32(arguments)
    if arguments.n_gpu > 1:
        # Several GPUs in one process would mean DataParallel, which cuts the flat chunks of a batch apart.
        arguments._n_gpu = 1
    return arguments


def best_metric(objectives: Iterable[str]) -> str | None:
    """Return the metric of the best checkpoint: the reasoning loss (paper v2), else the other one."""
    names = [name for name in OBJECTIVES if name in set(objectives)]
    return f"eval_{names[-1]}_loss" if names else None


def resolve_precision(setting: str) -> str:
    """Return the precision; `auto` is bf16 if the device has it natively, else fp16 (GPU) or fp32 (CPU)."""
    if setting == "fp16" and not torch.cuda.is_available():
        raise E2LLMError("train.precision: fp16 needs a GPU and has no effect here; set auto, bf16 or fp32")
    if setting != "auto":
        return setting
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Return whether this CPU multiplies bf16 natively (AVX-512 BF16 or AMX); emulation is slow."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(check() for check in (getattr(torch.cpu, name, None) for name in names) if check is not None)


def has_learning_rates(recipe: Recipe) -> bool:
    """Return whether a part of a recipe has its own learning rate."""
    return any(getattr(recipe, part).learning_rate is not None for part in _PREFIXES)


def parameter_groups(model: nn.Module, recipe: Recipe, decays: set[str]) -> list[dict[str, Any]]:
    """Return the parameters that train, grouped by part and by whether they decay, with learning rates.

    Args:
        model: The composite model, as it is named or under a wrapper's prefix.
        recipe: The resolved recipe.
        decays: Names of the parameters that weight decay is for.
    """
    groups = []
    for part, prefix in _PREFIXES.items():
        learning_rate = getattr(recipe, part).learning_rate or recipe.train.learning_rate
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
                        "lr": learning_rate,
                        "weight_decay": recipe.train.weight_decay if is_decayed else 0.0,
                        "part": part,
                    }
                )
    return groups
