"""Run a recipe: build or load the model, train and evaluate it, save it with its provenance."""

import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ValidationError
from transformers import TrainerCallback, set_seed

from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.messages import counted
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.training.arguments import best_metric, resolve_precision, training_arguments
from e2llm.training.build import build_model, set_trainable
from e2llm.training.checkpoints import held_alone, last_checkpoint, remove_cut_short
from e2llm.training.console import ConsoleCallback, CurveCallback, loss_terms, say
from e2llm.training.cpu_speed import speed_up
from e2llm.training.distillation import attach_teacher
from e2llm.training.health import check_disk_space, checkpoint_bytes
from e2llm.training.parallel import gathered_state_dict, layer_class_names, leave_engines
from e2llm.training.recipe import load_yaml
from e2llm.training.recipes.schema import FINAL_FOLDER, Recipe
from e2llm.training.samples.data_check import open_parts, read_data
from e2llm.training.samples.data_files import Source, pool_of
from e2llm.training.samples.sample_set import SampleSet
from e2llm.training.trainer import E2LLMTrainer
from e2llm.version import __version__, git_commit

RECIPE_NAME, RESULT_NAME = "recipe.yaml", "result.json"


class TrainResult(BaseModel, frozen=True):
    """The outcome of a run.

    Attributes:
        folder: The trained model.
        steps: Optimizer steps done in all.
        first_losses: Mean training loss per objective in the first log line.
        last_losses: The same in the last one.
        eval_losses: Held-out losses of the weights that were saved.
    """

    folder: Path
    steps: int
    first_losses: dict[str, float]
    last_losses: dict[str, float]
    eval_losses: dict[str, float]


def train(recipe: Recipe, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()) -> TrainResult:
    """Train by a recipe into `recipe.folder`; the model is saved in its sub-folder `final`.

    Args:
        recipe: The resolved recipe.
        resume: Continue from the newest checkpoint of the same run, if there is one; a finished run stays.
        callbacks: More of transformers' callbacks.

    Raises:
        E2LLMError: If the folder contains a run and `resume` is not set, or a finished run of fewer steps;
            another process is training into it, the data do not serve the objectives, or the loss becomes
            NaN or infinite.
    """
    finished = finished_result(recipe)
    checkpoint = None if finished else last_checkpoint(recipe.folder)
    if not resume and (checkpoint or finished):
        raise E2LLMError(
            f"{recipe.folder} already contains a run; resume it with --resume, or set another output"
        )
    changes = changes_since_start(recipe) if checkpoint or finished else []
    if finished is not None:
        if recipe.train.steps > finished.steps:
            raise E2LLMError(
                f"{recipe.folder} is finished after {counted(finished.steps, 'step')}, where its learning "
                f"rate ends; to train that model further, start a run from it: --set "
                f"init_from={finished.folder} --set output=OTHER, without --resume"
            )
        if changes:
            say(f"{recipe.folder} is finished; the recipe has changed since: {'; '.join(changes)}")
        return finished
    if changes:
        say(f"the recipe has changed since this run began: {'; '.join(changes)}")
    with held_alone(recipe.folder):
        trainer = make_trainer(recipe)
        for callback in callbacks:
            trainer.add_callback(callback)
        terms = loss_terms(recipe) if recipe.objectives.reduction == "mean" else {}
        console = ConsoleCallback(terms)
        trainer.add_callback(console)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        finally:
            console.close()
        result = finish(recipe, trainer)
    leave_engines()
    return result


def make_trainer(recipe: Recipe) -> E2LLMTrainer:
    """Return the trainer of a recipe, with model, data and callbacks."""
    if recipe.train.num_threads:
        torch.set_num_threads(recipe.train.num_threads)
    if recipe.train.dataloader_workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warn when forked
    set_seed(recipe.seed)
    data = read_data(recipe)
    data.check_window(*open_parts(recipe))  # before the weights are loaded
    data.finish()
    model, processor = build_model(recipe, data.train)
    window = getattr(model.config.text_config, "max_position_embeddings", None)
    report = set_trainable(model, recipe)
    if recipe.objectives.distillation.teacher is not None:
        attach_teacher(model, recipe.objectives.distillation.teacher)
    check_disk_space(recipe.folder, (recipe.train.keep_checkpoints + 2) * checkpoint_bytes(model), "this run")
    if recipe.train.packing and not torch.cuda.is_available():  # the trainer moves the model to a GPU later
        speed_up(model.language_model)
    eval_sets = evaluation_sets(data.validation, recipe, processor, window)
    arguments = training_arguments(recipe, best_metric(eval_sets), layer_class_names(model))
    group = recipe.train.batch_size * recipe.train.gradient_accumulation * arguments.world_size
    train_set = SampleSet(
        data.train, recipe, processor, recipe.train.steps * group, group_size=group, window=window
    )
    trainer = E2LLMTrainer(model, processor, recipe, arguments, train_set, eval_sets)
    if trainer.is_world_process_zero():
        say(str(report))
        remove_cut_short(recipe.folder)
        write_provenance(recipe)
    trainer.add_callback(CurveCallback(recipe.folder, " ".join(filter(None, (recipe.name, recipe.stage)))))
    return trainer


def finish(recipe: Recipe, trainer: E2LLMTrainer) -> TrainResult:
    """Save the trained model, then the result, which marks the run as finished."""
    final = recipe.folder / FINAL_FOLDER
    state = trainer.state
    taken = state.best_global_step if recipe.train.final == "best" else state.global_step
    result = summarize_log(final, state.log_history, state.global_step, taken)
    state_dict = gathered_state_dict(trainer)
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        model.config.trained_on = dict(trainer.level_counts) or None
        model.save_pretrained(final, state_dict=state_dict)
        trainer.processor.save_pretrained(final)
        relative = result.model_copy(update={"folder": Path(final.name)})
        write_atomically(recipe.folder / RESULT_NAME, (relative.model_dump_json(indent=2) + "\n").encode())
    trainer.accelerator.wait_for_everyone()
    return result


def evaluation_sets(
    validation: list[Source], recipe: Recipe, processor: E2LLMProcessor, window: int | None
) -> dict[str, SampleSet]:
    """Return a fixed set of held-out samples for each objective that trains and has records."""
    sets = {}
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    together = recipe.train.batch_size * num_processes if num_processes > 1 else 1
    for name, fraction in recipe.objectives.fractions().items():
        if fraction <= 0:
            continue
        records, _ = pool_of(validation, name)
        if not records:
            say(f"no held-out record serves the {name} objective; it is not evaluated")
            continue
        sets[name] = SampleSet(
            validation,
            recipe,
            processor,
            -(-recipe.train.evaluate_samples // together) * together,  # none is drawn twice
            group_size=recipe.train.batch_size,
            window=window,
            only=name,
            salt="validation",
        )
    return sets


def summarize_log(
    folder: Path, log_history: list[dict[str, Any]], steps: int, taken_step: int | None = None
) -> TrainResult:
    """Return the first and last training losses, and the held-out losses of the saved weights."""

    def losses(entries: list[dict[str, Any]], prefix: str = "") -> dict[str, float]:
        return {
            key.removeprefix("eval_"): value
            for entry in entries
            for key, value in entry.items()
            if key.startswith(prefix)
            and key.endswith("_loss")
            and (prefix or not key.startswith(("eval", "train")))
        }

    logged = [entry for entry in log_history if "loss" in entry]
    evaluated = [entry for entry in log_history if any(key.startswith("eval_") for key in entry)]
    evaluated = [entry for entry in evaluated if taken_step is None or entry.get("step") == taken_step]
    return TrainResult(
        folder=folder,
        steps=steps,
        first_losses=losses(logged[:1]),
        last_losses=losses(logged[-1:]),
        eval_losses=losses(evaluated[-1:], "eval_"),
    )


def finished_result(recipe: Recipe) -> TrainResult | None:
    """Return the result of a finished run, or None.

    Raises:
        E2LLMError: If the result's file is damaged.
    """
    file = recipe.folder / RESULT_NAME
    if not file.is_file():
        return None
    try:
        result = TrainResult.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise E2LLMError(
            f"{file} is not a result of e2llm train; delete it, and --resume finishes the run again "
            "from its last checkpoint"
        ) from error
    return result.model_copy(update={"folder": recipe.folder / result.folder})


def write_provenance(recipe: Recipe) -> None:
    """Save the resolved recipe, versions, seed and device beside the outputs."""
    recipe.folder.mkdir(parents=True, exist_ok=True)
    resolved = yaml.safe_dump(portable(recipe, exclude_none=True), sort_keys=False, allow_unicode=True)
    write_atomically(recipe.folder / RECIPE_NAME, resolved.encode())
    versions = {
        name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "accelerate")
    }
    facts = {
        "e2llm": __version__,
        **versions,
        "commit": git_commit(),
        "seed": recipe.seed,
        "precision": resolve_precision(recipe.train.precision),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "num_threads": torch.get_num_threads(),
    }
    write_atomically(recipe.folder / "provenance.json", (json.dumps(facts, indent=2) + "\n").encode())


def portable(recipe: Recipe, *, exclude_none: bool = False) -> dict[str, Any]:
    """Return the recipe with data paths relative to its folder, as the saved recipe is read again."""
    content = recipe.model_dump(exclude_none=exclude_none)
    for file in [*content["data"]["train"], *content["data"]["validation"]]:
        file["path"] = os.path.relpath(file["path"], recipe.folder)
    return content


def changes_since_start(recipe: Recipe) -> list[str]:
    """Return the differences from the recipe that the folder was started with: `key: before -> now`.

    Raises:
        E2LLMError: If the saved recipe is damaged, with its name.
    """
    file = recipe.folder / RECIPE_NAME
    if not file.is_file():
        return []
    before, now = flattened(load_yaml(file.read_bytes(), str(file))), flattened(portable(recipe))
    # Other keys that are gone are those of older versions.
    keys = [*now, *(key for key in before if key not in now and key.endswith(".path"))]
    return [f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]


def flattened(content: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings and lists as one mapping of dotted keys."""
    if isinstance(content, list) and any(isinstance(item, dict) for item in content):
        content = {str(index): item for index, item in enumerate(content)}
    if not isinstance(content, dict):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat.update(flattened(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
