"""`e2llm prepare --check`: what is wrong with files of records, and what they hold."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from e2llm.data.check import DataCheck, Part

if TYPE_CHECKING:
    from e2llm.modeling.processor import E2LLMProcessor
    from e2llm.training.recipes.schema import Recipe


def run_check(
    files: list[Path],
    validation: list[Path],
    recipe: Path | None,
    data: Path | None,
    strict: bool,
    as_json: bool,
) -> int:
    """Check files and print the report.

    Args:
        files: Training files; with a recipe and none given, those of the recipe are checked.
        validation: Validation files.
        recipe: Recipe whose objectives and parts say what fits the decoder's window.
        data: Folder of the recipe's own files.
        strict: Whether warnings count.
        as_json: Print JSON: one object, or with a recipe a list of one per stage.

    Returns:
        1 if there are errors, or warnings with `strict`; else 0.
    """
    if not files and (recipe is None or validation):
        raise typer.BadParameter(
            "--check FILE missing: the records to check, or --recipe with the files it names"
        )
    if data is not None and recipe is None:
        raise typer.BadParameter("--data says where a recipe's files lie; give --recipe, too")
    if recipe is None:
        checks = {"": check_files(files, validation)}
    else:
        checks = check_by_recipe(files, validation, recipe, data)
    if as_json:
        reports = [{"stage": stage, **check.to_dict()} for stage, check in checks.items()]
        typer.echo(json.dumps(reports if recipe is not None else checks[""].to_dict(), indent=2))
    for stage, check in checks.items():
        if not as_json:
            typer.echo("\n".join([*([f"stage {stage}:"] if stage else []), *check.lines()]))
    failed = any(check.errors or (strict and check.warnings) for check in checks.values())
    return 1 if failed else 0


def check_files(files: list[Path], validation: list[Path]) -> DataCheck:
    """Check files as they are; none of them is held in memory."""
    check = DataCheck()
    parts: list[tuple[Part, list[Path]]] = [("validation", validation), ("train", files)]
    for part, paths in parts:
        for path in paths:
            for _ in check.read(path, part):
                pass
    return check


def check_by_recipe(
    files: list[Path], validation: list[Path], recipe: Path, data: Path | None
) -> dict[str, DataCheck]:
    """Check files with the parts of a recipe, stage by stage."""
    from e2llm.training.recipe import load_recipe
    from e2llm.training.samples.data_check import read_data

    checks: dict[str, DataCheck] = {}
    parts: tuple[E2LLMProcessor, int | None] | None = None
    for stage in load_recipe(recipe, data=data):
        if files:
            stage = with_files(stage, files, validation)
        run_data = read_data(stage)
        parts = parts_of(stage, parts)
        if parts is not None:
            run_data.check_window(*parts)
        checks[stage.stage] = run_data.check
    return checks


def with_files(recipe: "Recipe", files: list[Path], validation: list[Path]) -> "Recipe":
    """A recipe with other data files, which serve understanding and reasoning."""
    from e2llm.training.recipes.schema import DataFile, DataSection

    section = DataSection(
        train=[DataFile(path=str(file)) for file in files],
        validation=[DataFile(path=str(file)) for file in validation],
    )
    return recipe.model_copy(update={"data": section})


def parts_of(
    recipe: "Recipe", before: "tuple[E2LLMProcessor, int | None] | None"
) -> "tuple[E2LLMProcessor, int | None] | None":
    """The processor and window of a stage: its own, else those of the stage before, else None and a note."""
    from e2llm.training.build import set_chunking
    from e2llm.training.samples.data_check import open_parts

    try:
        return open_parts(recipe)
    except (ValueError, OSError) as error:
        if before is None:
            typer.echo(f"warning: the decoder's window is not checked: {error}", err=True)
            return None
    set_chunking(before[0], recipe)
    return before
