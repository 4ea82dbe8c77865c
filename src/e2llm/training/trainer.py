"""Extend transformers' Trainer with two objectives, rates or soft tokens, and losses per objective."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import rotate_checkpoints

from e2llm.errors import CheckpointError, E2LLMError
from e2llm.measuring import HeapTrimmer
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.prompts import IGNORE_INDEX
from e2llm.training.arguments import has_learning_rates, parameter_groups
from e2llm.training.checkpoints import STAGING_NAME, STATE_NAME, damage, load_weights, publish
from e2llm.training.console import loss_terms
from e2llm.training.cpu_speed import PACKED_ATTENTION
from e2llm.training.distillation import divergence, teacher_logits
from e2llm.training.health import (
    check_disk_space,
    checkpoint_bytes,
    largest_weight,
    peak_memory_bytes,
    save_batches,
)
from e2llm.training.parallel import SHARDED_WEIGHTS, as_saved, flatten_scalars, largest_of_all
from e2llm.training.recipes.schema import Recipe
from e2llm.training.samples.collator import Sample, SampleCollator
from e2llm.training.samples.sample_set import OBJECTIVES, SampleSet

_REASONING = OBJECTIVES.index("reasoning")


_HEAP_SLACK_BYTES = 2**28  # that the process may grow by before freed memory is given back


class E2LLMTrainer(Trainer):  # type: ignore[misc]
    """Trains by a recipe; `loss = sum over objectives of weight * mean token cross-entropy`.

    The means run over the whole optimizer step, so that a batch of 8 equals 8 accumulated batches of 1.
    Samples come in the order of their index; shuffling is part of how `SampleSet` draws them.

    Args:
        model: The model, with what trains set.
        processor: The model's processor.
        recipe: The resolved recipe.
        arguments: `training_arguments(recipe)`.
        train_set: Samples to train on.
        eval_sets: Held-out samples by objective.
    """

    def __init__(
        self,
        model: E2LLMForConditionalGeneration,
        processor: E2LLMProcessor,
        recipe: Recipe,
        arguments: TrainingArguments,
        train_set: Sequence[Sample] | SampleSet,
        eval_sets: dict[str, SampleSet],
    ) -> None:
        self.recipe = recipe
        self.processor = processor
        self._save_folder: str | None = None
        self.step_batches: list[dict[str, Any]] = []
        self._trim_heap = HeapTrimmer()
        self.loss_terms = loss_terms(recipe)
        self.objective_weights = torch.tensor([self.loss_terms[name] for name in OBJECTIVES])
        self.sums: dict[str, float] = defaultdict(float)
        self.level_counts: dict[str, int] = defaultdict(int, model.config.trained_on or {})
        self.window_started = time.perf_counter()
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=train_set,
            eval_dataset=eval_sets,
            data_collator=SampleCollator(
                processor,
                recipe.train.packing,
                model.language_model.config._attn_implementation == PACKED_ATTENTION,
            ),
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True
        self.scalars = flatten_scalars(model) if recipe.train.parallel != "ddp" else frozenset()
        shards = recipe.train.parallel in SHARDED_WEIGHTS and arguments.world_size > 1
        model.agree_on_passes = largest_of_all if shards else None

    def create_optimizer(self, model: Any = None) -> Any:
        """Return AdamW, with a learning rate for each part if the recipe gives them."""
        if self.optimizer is None and has_learning_rates(self.recipe):
            decays = set(self.get_decay_parameter_names(self.model))
            groups = parameter_groups(self.model, self.recipe, decays)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer: Any = kind(groups, **options)
        return super().create_optimizer(*(() if model is None else (model,)))

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor | None]:
        """Collect an optimizer step's batches and count their labelled positions per objective, `[2]`."""
        batches: list[Any] = []
        for _ in range(num_batches):
            try:
                batches.append(next(epoch_iterator))
            except StopIteration:
                break
        counts = torch.zeros(len(OBJECTIVES), dtype=torch.long, device=device)  # of positions to predict
        for batch in batches:
            labelled = batch["labels"][:, 1:].ne(IGNORE_INDEX)
            of_token = batch["objectives"][:, 1:][labelled].to(device)
            counts += torch.bincount(of_token, minlength=len(OBJECTIVES))
        self.step_batches = batches
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
        """Return the weighted sum of token losses, each objective over its count in the optimizer step."""
        self._trim_heap(_HEAP_SLACK_BYTES)
        inputs = dict(inputs)
        objectives = inputs.pop("objectives")
        teacher, levels = inputs.pop("teacher", None), inputs.pop("levels", {})
        wanted = None if teacher is None else teacher_logits(self.accelerator.unwrap_model(model), teacher)
        outputs = model(**inputs, only_label_logits=True, use_cache=False)
        labelled = inputs["labels"][:, 1:].ne(IGNORE_INDEX)
        of_token = objectives[:, 1:][labelled]
        sums = torch.zeros(len(OBJECTIVES), device=outputs.token_losses.device)
        sums = sums.index_add(0, of_token, outputs.token_losses)
        counts = torch.bincount(of_token, minlength=len(OBJECTIVES))
        far = None if wanted is None else divergence(outputs.logits[of_token == _REASONING], wanted)
        if model.training:
            self._count(sums.detach(), counts, inputs, far)
            for name, count in levels.items():
                self.level_counts[name] += count
        divisors = counts if num_items_in_batch is None else num_items_in_batch
        if self.recipe.objectives.reduction == "sum":
            divisors = torch.ones_like(divisors)
        weights = self.objective_weights.to(sums.device)
        loss = (weights * sums / divisors.clamp(min=1)).sum()
        if far is not None:
            loss = loss + self.loss_terms["distillation"] * far / divisors[_REASONING].clamp(min=1)
        if model.training:
            self._stop_unless_finite("loss", loss.item())
        if num_items_in_batch is not None and self.args.world_size > 1:
            loss = loss * self.args.world_size  # the gradients of the processes are averaged
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the gradient norm; raise if it is not finite, except in fp16, which skips such steps."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not self.args.fp16:
            self._stop_unless_finite("gradient norm", float(norm))
        return norm

    def _stop_unless_finite(self, name: str, value: float) -> None:
        if math.isfinite(value):
            return
        step = self.state.global_step + 1
        several = self.args.world_size > 1
        saved = save_batches(
            Path(self.args.output_dir),
            step,
            self.step_batches,
            self.processor,
            f"rank-{self.args.process_index}-" if several else "",
        )
        raise E2LLMError(
            f"the {name} is {value} at step {step} of {self.state.max_steps}. Earlier checkpoints are kept, "
            f"and the batches of this step are saved in {saved}. {self._advice()}"
        )

    def _stop_unless_sound(self, name: str, value: float) -> None:
        """Raise after a step with a value that is not finite, so that its weights are not saved."""
        if not math.isfinite(value):
            raise E2LLMError(
                f"the {name} is {value} after step {self.state.global_step} of {self.state.max_steps}. These "
                f"weights are not saved; earlier checkpoints are kept. {self._advice()}"
            )

    def _advice(self) -> str:
        train = self.recipe.train
        return (
            f"Lower train.learning_rate ({train.learning_rate:g}), raise train.warmup_fraction "
            f"({train.warmup_fraction:g}) or set train.precision: fp32"
        )

    def _count(
        self, sums: torch.Tensor, counts: torch.Tensor, inputs: dict[str, Any], far: torch.Tensor | None
    ) -> None:
        """Add a batch to the sums that the next log line shows."""
        if far is not None:
            self.sums["distillation_loss"] += far.item()
        for name, total, count in zip(OBJECTIVES, sums.tolist(), counts.tolist(), strict=True):
            self.sums[f"{name}_loss"] += total
            self.sums[f"{name}_count"] += count
        mask = inputs.get("attention_mask")
        self.sums["tokens"] += inputs["input_ids"].numel() if mask is None else int(mask.sum())
        if "chunk_attention_mask" in inputs:
            self.sums["tokens"] += int(inputs["chunk_attention_mask"].sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the mean loss of each objective and the speed since the last line.

        `loss` becomes the weighted sum of these means, except where the run's loss is a sum over tokens.
        """
        if "loss" in logs:
            sums = self._sums_of_all_processes()
            for name in OBJECTIVES:
                if count := sums[f"{name}_count"]:
                    logs[f"{name}_loss"] = sums[f"{name}_loss"] / count
            if far := sums["distillation_loss"]:
                logs["distillation_loss"] = far / max(1, sums["reasoning_count"])
            if self.recipe.objectives.reduction == "mean":
                parts = {name: logs.get(f"{name}_loss", 0.0) for name in self.loss_terms}
                logs["loss"] = sum(weight * parts[name] for name, weight in self.loss_terms.items())
            elapsed = time.perf_counter() - self.window_started
            logs["tokens_per_second"] = round(sums["tokens"] / max(elapsed, 1e-9), 1)
            logs["peak_memory_mb"] = round(peak_memory_bytes() / 1e6, 1)
            self.sums.clear()
            self.window_started = time.perf_counter()
        super().log(logs, start_time)

    def _sums_of_all_processes(self) -> dict[str, float]:
        names = [*(f"{name}_{what}" for name in OBJECTIVES for what in ("loss", "count")), "tokens"]
        names.append("distillation_loss")
        values = torch.tensor([self.sums[name] for name in names], dtype=torch.float64)
        if self.args.world_size > 1:
            values = self.accelerator.reduce(values.to(self.args.device), "sum")
        return dict(zip(names, values.tolist(), strict=True))

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> Any:
        """Return the mean token loss of each objective on its held-out samples: `eval_{objective}_loss`."""
        started = time.perf_counter()
        metrics: dict[str, float] = {}
        for name, samples in (eval_dataset or self.eval_dataset).items():
            metrics[f"{metric_key_prefix}_{name}_loss"] = self._held_out_loss(samples)
        self.log(dict(metrics))
        for name, value in metrics.items():
            self._stop_unless_sound(f"held-out {name.removeprefix(f'{metric_key_prefix}_')}", value)
        handler: Any = self.callback_handler
        self.control: Any = handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.window_started += time.perf_counter() - started  # the training speed is without evaluation
        return metrics

    @torch.no_grad()
    def _held_out_loss(self, samples: SampleSet) -> float:
        """Return the mean loss of the labelled tokens of all samples, over all processes."""
        self.model.eval()
        total, count = 0.0, 0
        for batch in self.get_eval_dataloader(samples):
            inputs = self._prepare_inputs(batch)
            with self.compute_loss_context_manager(), self.accelerator.autocast():
                _, outputs = self.compute_loss(self.model, inputs, return_outputs=True)
            losses = self.accelerator.gather(outputs.token_losses.sum()[None])
            length = torch.tensor([len(outputs.token_losses)], device=losses.device)
            total += losses.sum().item()
            count += int(self.accelerator.gather(length).sum())
        return total / max(count, 1)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the model as a checkpoint that `from_pretrained` loads; `state_dict` if it is sharded."""
        if not self.args.should_save:  # in newer transformers every process comes here
            return
        folder = output_dir or self.args.output_dir
        model = self.accelerator.unwrap_model(self.model)
        model.config.trained_on = dict(self.level_counts) or None
        state_dict = state_dict and as_saved(model, state_dict, self.scalars)
        model.save_pretrained(folder, state_dict=state_dict)
        self.processor.save_pretrained(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint beside its place, sync and rename it: it is complete or absent."""
        folder, step = Path(self.args.output_dir), self.state.global_step
        self._stop_unless_sound("largest weight", largest_weight(self.model))
        check_disk_space(folder, checkpoint_bytes(self.accelerator.unwrap_model(self.model)), "a checkpoint")
        place = folder / f"checkpoint-{step}"
        self._save_folder = str(folder / STAGING_NAME)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._save_folder = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            staged = folder / STAGING_NAME / place.name
            if self.state.best_global_step == step:
                self.state.best_model_checkpoint = str(place)
                self.state.save_to_json(str(staged / STATE_NAME))
            publish(staged, place)
            staged.parent.rmdir()
            rotate_checkpoints(
                str(folder), self.args.save_total_limit, self.state.best_model_checkpoint, use_mtime=True
            )
        elif self.state.best_global_step == step:
            self.state.best_model_checkpoint = str(place)
        self.accelerator.wait_for_everyone()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Return whether an evaluation is the best so far; then its weights are saved at any step."""
        is_best = bool(super()._determine_best_metric(metrics, trial))
        if is_best:
            self.control.should_save = True
        return is_best

    def _get_output_dir(self, trial: Any) -> str:
        return self._save_folder or str(super()._get_output_dir(trial))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the trained tensors of a checkpoint into the model."""
        model = self.accelerator.unwrap_model(model or self.model)
        load_weights(model, resume_from_checkpoint)
        saved = model.config_class.from_pretrained(resume_from_checkpoint).trained_on
        self.level_counts = defaultdict(int, saved or {})

    def _load_best_model(self) -> None:
        """Load the weights of the best evaluation; raise if their checkpoint has been damaged."""
        best = Path(self.state.best_model_checkpoint)
        if problem := damage(best):
            raise CheckpointError(
                f"{best}, which has the weights of the best evaluation, is damaged ({problem}); restore it "
                f"from a copy and use --resume, or load another checkpoint of {best.parent} as a model"
            )
        if self.is_deepspeed_enabled:  # it saves and loads weights with its optimizer's
            super()._load_best_model()
            return
        load_weights(self.model, self.state.best_model_checkpoint)
