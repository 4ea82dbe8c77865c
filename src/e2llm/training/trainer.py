"""The trainer: transformers' Trainer with two objectives, the compression dial and losses per objective."""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.training.curves import write_curves
from e2llm.training.recipe import Recipe
from e2llm.training.samples import OBJECTIVES, SampleSet, collate_samples
from e2llm.training.state_cache import EncoderStateCache


class E2LLMTrainer(Trainer):  # type: ignore[misc]
    """Trains by a recipe; `loss = sum over objectives of weight * mean token cross-entropy`.

    The means run over the whole optimizer step, so that a batch of 8 equals 8 accumulated batches of 1. Samples come in
    the order of their index; shuffling is part of how `SampleSet` draws them.
    """

    def __init__(
        self,
        model: E2LLMForConditionalGeneration,
        processor: E2LLMProcessor,
        recipe: Recipe,
        train_set: SampleSet,
        eval_sets: dict[str, SampleSet],
        **kwargs: Any,
    ) -> None:
        self.recipe = recipe
        self.processor = processor
        self.state_cache: EncoderStateCache | None = None
        if recipe.train.cache_encoder_states_mb:
            limit = recipe.train.cache_encoder_states_mb * 2**20
            self.state_cache = EncoderStateCache(model, processor, limit)
        weights = {
            "language": recipe.objectives.language.weight,
            "understanding": recipe.objectives.understanding.weight,
            "reasoning": 1.0,
        }
        self.objective_weights = torch.tensor([weights[name] for name in OBJECTIVES])
        self.sums: dict[str, float] = defaultdict(float)
        self.window_started = time.perf_counter()
        super().__init__(
            model=model,
            args=training_arguments(recipe, best_metric(eval_sets)),
            train_dataset=train_set,
            eval_dataset=eval_sets,
            data_collator=lambda samples: collate_samples(
                processor, samples, keep_texts=self.state_cache is not None
            ),
            **kwargs,
        )
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """Collect the batches of an optimizer step and count their labelled positions per objective, `[3]`."""
        batches: list[Any] = []
        for _ in range(num_batches):
            try:
                batches.append(next(epoch_iterator))
            except StopIteration:
                break
        counts = torch.zeros(len(OBJECTIVES), dtype=torch.long, device=device)
        for batch in batches:
            labelled = batch["labels"][:, 1:].ne(-100).sum(dim=1).to(device)
            counts.index_add_(0, batch["objectives"].to(device), labelled)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, "sum")
        return batches, counts

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Weighted sum of the objectives' token losses, each divided by its count in the optimizer step."""
        inputs = dict(inputs)
        objectives = inputs.pop("objectives")
        texts = inputs.pop("chunk_texts", None)
        if texts and self.state_cache is not None:
            with self.accelerator.autocast():
                inputs["chunk_states"], inputs["chunk_attention_mask"] = self.state_cache(texts)
        outputs = model(**inputs, only_label_logits=True, use_cache=False)
        labelled = inputs["labels"][:, 1:].ne(-100)
        of_token = objectives[:, None].expand_as(labelled)[labelled]
        sums = torch.zeros(len(OBJECTIVES), device=outputs.token_losses.device)
        sums = sums.index_add(0, of_token, outputs.token_losses)
        counts = torch.bincount(of_token, minlength=len(OBJECTIVES))
        if model.training:
            self._count(sums.detach(), counts, inputs)
        divisors = counts if num_items_in_batch is None else num_items_in_batch
        if self.recipe.objectives.reduction == "sum":
            divisors = torch.ones_like(divisors)
        weights = self.objective_weights.to(sums.device)
        loss = (weights * sums / divisors.clamp(min=1)).sum()
        if num_items_in_batch is not None and self.args.world_size > 1:
            loss = loss * self.args.world_size  # the gradients of the processes are averaged
        return (loss, outputs) if return_outputs else loss

    def _count(self, sums: torch.Tensor, counts: torch.Tensor, inputs: dict[str, Any]) -> None:
        """Add a batch to the sums that the next log line shows."""
        for name, total, count in zip(OBJECTIVES, sums.tolist(), counts.tolist(), strict=True):
            self.sums[f"{name}_loss"] += total
            self.sums[f"{name}_count"] += count
        self.sums["tokens"] += int(inputs["attention_mask"].sum())
        if "chunk_attention_mask" in inputs:
            self.sums["tokens"] += int(inputs["chunk_attention_mask"].sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the mean training loss of each objective and the speed since the last line."""
        if "loss" in logs:
            for name in OBJECTIVES:
                if count := self.sums[f"{name}_count"]:
                    logs[f"{name}_loss"] = self.sums[f"{name}_loss"] / count
            elapsed = time.perf_counter() - self.window_started
            logs["tokens_per_second"] = round(self.sums["tokens"] / max(elapsed, 1e-9), 1)
            self.sums.clear()
            self.window_started = time.perf_counter()
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Mean token loss of each objective on its held-out samples: `eval_{objective}_loss`."""
        model = self.model
        model.eval()
        metrics: dict[str, float] = {}
        for name, samples in (eval_dataset or self.eval_dataset).items():
            total, count = 0.0, 0
            for batch in self.get_eval_dataloader(samples):
                inputs = self._prepare_inputs(batch)
                with self.compute_loss_context_manager(), self.accelerator.autocast():
                    _, outputs = self.compute_loss(model, inputs, return_outputs=True)
                losses = self.accelerator.gather_for_metrics(outputs.token_losses.sum()[None])
                counts = self.accelerator.gather_for_metrics(torch.tensor([len(outputs.token_losses)], device=losses.device))
                total, count = total + losses.sum().item(), count + int(counts.sum())
            metrics[f"{metric_key_prefix}_{name}_loss"] = total / max(count, 1)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.window_started = time.perf_counter()
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the model as a checkpoint that `from_pretrained` loads."""
        folder = output_dir or self.args.output_dir
        self.accelerator.unwrap_model(self.model).save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the trained tensors of a checkpoint into the model."""
        load_weights(model or self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        load_weights(self.model, self.state.best_model_checkpoint)


class CurveCallback(TrainerCallback):  # type: ignore[misc]
    """Writes the loss curves at every save and at the end."""

    def __init__(self, folder: Path, title: str) -> None:
        self.folder, self.title = folder, title

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what there is."""
        if state.is_world_process_zero:
            write_curves(state.log_history, self.folder, self.title)

    on_train_end = on_save


def load_weights(model: E2LLMForConditionalGeneration, folder: str) -> None:
    """Copy the weights of a checkpoint of the same shape into a model that is being trained."""
    loaded = E2LLMForConditionalGeneration.from_pretrained(folder, dtype=model.dtype)
    model.load_state_dict(loaded.state_dict())


def resolve_precision(setting: str) -> str:
    """`auto` to `bf16` where the device multiplies bf16 natively, else `fp32`."""
    if setting != "auto":
        return setting
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 natively (AVX-512 BF16 or AMX)."""
    capability = getattr(torch.cpu, "_is_avx512_bf16_supported", None) or getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(capability and capability())


def best_metric(eval_sets: dict[str, SampleSet]) -> str | None:
    """What the best checkpoint is chosen by: the reasoning loss (paper), else the last objective there is."""
    names = [name for name in reversed(OBJECTIVES) if name in eval_sets]
    return f"eval_{names[0]}_loss" if names else None


def training_arguments(recipe: Recipe, metric: str | None) -> TrainingArguments:
    """The recipe in transformers' words."""
    train = recipe.train
    precision = resolve_precision(train.precision)
    return TrainingArguments(
        output_dir=str(recipe.folder),
        max_steps=train.steps,
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.schedule,
        warmup_steps=train.warmup_fraction,
        weight_decay=train.weight_decay,
        adam_beta2=train.adam_beta2,
        max_grad_norm=train.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=train.dataloader_workers,
        logging_steps=train.log_every_steps,
        eval_strategy="steps" if metric else "no",
        metric_for_best_model=metric,
        greater_is_better=False if metric else None,
        load_best_model_at_end=metric is not None,
        eval_steps=train.evaluate_every_steps,
        save_strategy="steps",
        save_steps=train.save_every_steps,
        save_total_limit=train.keep_checkpoints,
        seed=recipe.seed,
        data_seed=recipe.seed,
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=not os.isatty(2),
        dataloader_pin_memory=torch.cuda.is_available(),
        average_tokens_across_devices=False,
    )


def last_checkpoint(recipe: Recipe) -> str | None:
    """The newest whole checkpoint of a run; one that a kill cut short lacks the trainer's state, written last."""
    found = [folder for folder in recipe.folder.glob("checkpoint-*") if (folder / "trainer_state.json").is_file()]
    return str(max(found, key=lambda folder: int(folder.name.rpartition("-")[2]))) if found else None
