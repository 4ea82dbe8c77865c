"""`e2llm train`: train a model as a recipe says."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from e2llm.cli.options import AsJson
from e2llm.cli.printing import echo, print_json, print_result
from e2llm.errors import E2LLMError
from e2llm.messages import counted

if TYPE_CHECKING:
    from e2llm.training.recipes.schema import Recipe
    from e2llm.training.run import TrainResult


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the recipe's data; by default the recipe's own.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a key of the recipe, such as train.steps=100; STAGE:KEY for one stage.",
        ),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Run this stage only.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Continue from the newest checkpoint; skip finished stages.")
    ] = False,
    overfit: Annotated[
        int | None,
        typer.Option(min=1, help="Only test: learn N records by heart, and fail if their losses stay high."),
    ] = None,
    as_json: AsJson = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only test: train one step with tiny parts, and print the memory of the real size.",
        ),
    ] = False,
) -> None:
    """Train a model as a recipe says, stage after stage.

    Examples:
        e2llm train recipes/smoke.yaml

        e2llm train recipes/paper-v2.yaml --data records/ --set train.batch_size=2 --resume

        e2llm train recipes/smoke.yaml --overfit 4

        e2llm train recipes/qlora.yaml --dry-run
    """
    from e2llm.training.recipe import load_recipe

    if data is not None and not dry_run and not data.is_dir():
        raise E2LLMError(f"--data {data}: no such folder")
    refuse_together(resume, overfit is not None, dry_run)
    stages = load_recipe(recipe, settings or [], data)
    if stage is not None:
        known = ", ".join(item.stage for item in stages if item.stage) or "none"
        stages = [item for item in stages if item.stage == stage]
        if not stages:
            raise E2LLMError(f"{recipe} has no stage {stage!r}; its stages: {known}")
    if dry_run:
        check_stages(stages, as_json)
    elif overfit is not None:
        has_steps = any(setting.partition("=")[0].endswith("train.steps") for setting in settings or [])
        learn_by_heart(stages[-1], overfit, stages[-1].train.steps if has_steps else None, as_json)
    else:
        train_stages(stages, resume, as_json)


def refuse_together(resume: bool, overfit: bool, dry_run: bool) -> None:
    """Raise `E2LLMError` for options that exclude each other."""
    if dry_run and (resume or overfit):
        other = "--resume" if resume else "--overfit"
        raise E2LLMError(f"{other} does not work with --dry-run, which saves nothing; leave one out")
    if overfit and resume:
        raise E2LLMError("--resume does not work with --overfit, which always starts from scratch")


def train_stages(stages: list["Recipe"], resume: bool, as_json: bool) -> None:
    """Train stage after stage, and print the result of each."""
    from e2llm.training.console import is_first_process, say
    from e2llm.training.run import train as train_stage

    results = []
    for stage in stages:
        label = " ".join(filter(None, (stage.name, stage.stage)))
        say(f"{label}: {counted(stage.train.steps, 'step')} into {stage.folder}")
        result = train_stage(stage, resume=resume)
        results.append(result.model_dump(mode="json"))
        if not as_json and is_first_process():
            echo(result_line(result))
    if as_json and is_first_process():
        print_json(results)


def learn_by_heart(recipe: "Recipe", count: int, steps: int | None, as_json: bool) -> None:
    """Train on a few records alone; an error unless their losses come near zero."""
    from e2llm.training.console import is_first_process
    from e2llm.training.overfit import NEAR_ZERO, overfit

    result = overfit(recipe, count, steps)
    if is_first_process():
        print_result(result.to_dict(), result.line(), as_json)
    if not result.is_learned:
        raise E2LLMError(
            f"the losses of {counted(count, 'record')} did not fall below {NEAR_ZERO} in "
            f"{counted(result.run.steps, 'step')}; raise train.learning_rate or "
            "train.steps, train more of the model, or check the records"
        )


def check_stages(stages: list["Recipe"], as_json: bool) -> None:
    """Train one step of each stage with tiny parts, and print the memory of the real size."""
    from e2llm.training.dry_run import dry_run

    checks = dry_run(stages)
    if as_json:
        print_json([dataclasses.asdict(item) for item in checks])
        return
    for item in checks:
        echo(item.report())


def result_line(result: "TrainResult") -> str:
    """Return one line: the model's folder, and the first, last and held-out losses."""
    losses = ", ".join(
        f"{name.removesuffix('_loss')} {value:.3f} -> {result.last_losses.get(name, value):.3f}"
        for name, value in result.first_losses.items()
    )
    held_out = ", ".join(
        f"{name.removesuffix('_loss')} {value:.3f}" for name, value in result.eval_losses.items()
    )
    return (
        f"{result.folder}: {counted(result.steps, 'step')}; loss {losses or 'not logged'}; "
        f"held out {held_out or 'none'}"
    )
