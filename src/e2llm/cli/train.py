"""`e2llm train`: run a recipe."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from e2llm.training.run import TrainResult


def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder in which the recipe's relative data paths are looked up.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key, such as train.steps=100; STAGE:KEY for one stage.",
        ),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Run this stage only.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Go on from the newest checkpoint; finished stages are kept.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Train by a recipe, stage after stage.

    Examples:
        e2llm train recipes/smoke.yaml

        e2llm train recipes/paper-v2.yaml --data records/ --set train.batch_size=2 --resume
    """
    from e2llm.errors import E2LLMError
    from e2llm.training.console import is_first_process, say
    from e2llm.training.recipe import load_recipe
    from e2llm.training.run import train as run

    runs = load_recipe(recipe, settings or [], data)
    if stage is not None:
        names = [item.stage for item in runs]
        if stage not in names:
            known = ", ".join(filter(None, names)) or "none"
            raise E2LLMError(f"{recipe} has no stage {stage!r}; it has {known}")
        runs = [item for item in runs if item.stage == stage]
    results = []
    for item in runs:
        label = " ".join(filter(None, (item.name, item.stage)))
        say(f"{label}: {item.train.steps} steps into {item.folder}")
        result = run(item, resume=resume)
        results.append({**dataclasses.asdict(result), "folder": str(result.folder)})
        if not as_json and is_first_process():
            typer.echo(result_line(result))
    if as_json and is_first_process():
        typer.echo(json.dumps(results, indent=2))


def result_line(result: "TrainResult") -> str:
    """One line: where the model is, and the losses at the beginning, at the end and held out."""
    losses = ", ".join(
        f"{name.removesuffix('_loss')} {value:.3f} -> {result.last_losses.get(name, value):.3f}"
        for name, value in result.first_losses.items()
    )
    held_out = ", ".join(
        f"{name.removesuffix('_loss')} {value:.3f}" for name, value in result.eval_losses.items()
    )
    return (
        f"{result.folder}: {result.steps} steps; loss {losses or 'not logged'}; held out {held_out or 'none'}"
    )
