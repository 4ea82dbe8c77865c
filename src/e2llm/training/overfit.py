"""Train on a few records until they are memorized. A recipe that fails at this learns nothing from many."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from e2llm.errors import E2LLMError
from e2llm.messages import counted
from e2llm.modeling.rates import encoder_tokens
from e2llm.records import Record, read_records, write_records
from e2llm.training.console import only_one_process
from e2llm.training.recipes.schema import FINAL_FOLDER, DataFile, Recipe
from e2llm.training.recipes.start import is_checkpoint
from e2llm.training.run import TrainResult, train
from e2llm.training.samples.sample_set import OBJECTIVES

MAX_STEPS = 400
NEAR_ZERO = 0.1
_STOP_BELOW = 0.02
_NAMES = tuple(f"{name}_loss" for name in OBJECTIVES)


@dataclass(frozen=True)
class OverfitResult:
    """The outcome of the test.

    Attributes:
        run: The run.
        losses: The last training loss of each objective.
        is_learned: Whether all losses are below `NEAR_ZERO`.
    """

    run: TrainResult
    losses: dict[str, float]
    is_learned: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "folder": str(self.run.folder.parent),
            "steps": self.run.steps,
            "first_losses": self.run.first_losses,
            "last_losses": self.losses,
            "is_learned": self.is_learned,
        }

    def line(self) -> str:
        """Return the result as one line."""
        losses = ", ".join(
            f"{name.removesuffix('_loss')} {self.run.first_losses.get(name, value):.3f} -> {value:.4f}"
            for name, value in self.losses.items()
        )
        verdict = "learned by heart" if self.is_learned else "not learned"
        return f"{self.run.folder.parent}: {verdict} in {counted(self.run.steps, 'step')}: {losses}"


class StopWhenLearned(TrainerCallback):  # type: ignore[misc]
    """Ends the run when all losses of a log line are near zero."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Stop the run if the losses are near zero."""
        losses = [value for name, value in (logs or {}).items() if name in _NAMES]
        if losses and max(losses) < _STOP_BELOW:
            control.should_training_stop = True


def overfit(recipe: Recipe, num_records: int, num_steps: int | None = None) -> OverfitResult:
    """Train on a few records alone, the same at every step, until their losses are near zero.

    The recipe's model, objectives and learning rate stay. Everything that differs from step to step is turned
    off: other records, distractors, raw chunks, drawn rates, views and window lengths, weight decay and the
    schedule.

    Args:
        recipe: The resolved recipe, of its last stage if it has several.
        num_records: Records to train on.
        num_steps: Most optimizer steps; by default 400.

    Raises:
        E2LLMError: If fewer records can serve.
    """
    only_one_process("--overfit")
    reasons = recipe.objectives.fractions()["reasoning"] > 0
    records = first_records(recipe.data.train, num_records, needs_question=reasons)
    if len(records) < num_records:
        raise E2LLMError(
            f"--overfit {num_records}: only {counted(len(records), 'usable record')} found; give a smaller "
            "number"
        )
    folder = recipe.folder / f"overfit-{num_records}"
    if folder.exists():
        shutil.rmtree(folder)
    file = folder / "records.jsonl"
    write_records(file, records)
    result = train(overfit_recipe(recipe, file, num_records, num_steps), callbacks=[StopWhenLearned()])
    losses = {name: result.last_losses[name] for name in _NAMES if name in result.last_losses}
    return OverfitResult(result, losses, bool(losses) and max(losses.values()) < NEAR_ZERO)


def first_records(files: list[DataFile], num_records: int, *, needs_question: bool) -> list[Record]:
    """Return the first records of the files, only those with a question if one is needed."""
    records: list[Record] = []
    for file in files:
        if needs_question and "reasoning" not in file.objectives:
            continue
        for record in read_records(file.path):
            if len(records) == num_records:
                return records
            if not (needs_question and record.is_text_only):
                records.append(record)
    return records


def overfit_recipe(recipe: Recipe, file: Path, num_records: int, num_steps: int | None) -> Recipe:
    """Return the recipe of a run that memorizes the records of a file."""
    content = recipe.model_dump()
    num_steps = num_steps or MAX_STEPS
    start = recipe.init_from
    if start is not None and Path(start).name == FINAL_FOLDER and not Path(start).is_dir():
        # The stage before was not trained: what that starts from learns a few records just as well.
        source = recipe.decoder.source
        start = source if source is not None and is_checkpoint(source) else None
    content.update(output=str(file.parent), stage="", init_from=start)
    content["data"] = {
        "train": [{"path": str(file), "objectives": list(OBJECTIVES)}],
        "validation_fraction": 0.0,
    }
    objectives = content["objectives"]
    reasoning = recipe.objectives.reasoning
    if reasoning.context == "text":
        weights = reasoning.text_views
        likeliest = max(weights, key=lambda name: weights[name])
        budgets = reasoning.text_budgets and [max(reasoning.text_budgets)]
        objectives["reasoning"].update(text_views={likeliest: 1.0}, text_budgets=budgets)
    elif recipe.adapter.kind == "pooling":
        finest = min(recipe.objectives.rates, key=encoder_tokens)
        objectives.update(rates=[finest], rate_weights=[], distillation={})
    else:
        objectives["soft_tokens"] = [max(recipe.objectives.soft_tokens)]
    objectives["mixed_fraction"] = 0.0
    objectives["understanding"].update(window_chunks=[1], chunk_sizes_chars=[], continue_fraction=0.0)
    objectives["reasoning"].update(distractor_fraction=0.0, turns=1)
    content["train"].update(
        steps=num_steps, batch_size=num_records, gradient_accumulation=1, schedule="constant",
        weight_decay=0.0, evaluate_every_steps=num_steps, save_every_steps=num_steps,
        log_every_steps=min(10, num_steps),
    )  # fmt: skip
    return Recipe.model_validate(content)
