"""A recipe in transformers' words, and in which precision a device computes."""

from collections.abc import Iterable, Sequence

import torch
from transformers import TrainingArguments

from e2llm.errors import E2LLMError
from e2llm.training.parallel import keep_losses_in_float32, parallel_arguments
from e2llm.training.recipes.schema import Recipe
from e2llm.training.samples.sample_set import OBJECTIVES

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def training_arguments(
    recipe: Recipe, metric: str | None, layer_classes: Sequence[str] = ()
) -> TrainingArguments:
    """The arguments of transformers' Trainer.

    Activation checkpointing is left to `e2llm.training.build`; its name here differs between versions.

    Args:
        recipe: The resolved recipe.
        metric: What the best checkpoint is chosen by; None for a run without evaluation.
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
    """What the best checkpoint is chosen by: the reasoning loss (paper v2), else the last one there is."""
    names = [name for name in OBJECTIVES if name in set(objectives)]
    return f"eval_{names[-1]}_loss" if names else None


def resolve_precision(setting: str) -> str:
    """`auto` to `bf16` where the device multiplies it natively, else `fp16` on a GPU and `fp32` on a CPU."""
    if setting == "fp16" and not torch.cuda.is_available():
        raise E2LLMError("train.precision: fp16 needs a GPU and has no effect here; set auto, bf16 or fp32")
    if setting != "auto":
        return setting
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 natively (AVX-512 BF16 or AMX); elsewhere it is emulated, slowly."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(check() for check in (getattr(torch.cpu, name, None) for name in names) if check is not None)
