"""`e2llm prepare`: turn a public data set or your own texts into records, and check records."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from e2llm.cli.options import AsJson, split_settings
from e2llm.cli.printing import echo, print_json, print_result
from e2llm.data.check import DataCheck, Part
from e2llm.data.prepare import PrepareReport, prepare_records
from e2llm.data.registry import DATASETS
from e2llm.messages import counted

if TYPE_CHECKING:
    from e2llm.modeling.processor import E2LLMProcessor
    from e2llm.training.recipes.schema import Recipe

Checked = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help="Check these files of records instead: FILE...")
]
Validation = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="With --check: report contexts that are also in this validation file."),
]
RecipeFile = Annotated[
    Path | None,
    typer.Option(help="Check against the decoder's window too; without --check, check its files."),
]
Split = Annotated[
    str | None,
    typer.Option(help="Part of the data set, such as train; --list shows them, the default first."),
]


def prepare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATASET",
            help="Name of a data set from --list. With --check: more files to check.",
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder or file of the unpacked data set.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSONL file to write.")] = None,
    split: Split = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many records.")] = None,
    max_per_context: Annotated[
        int | None, typer.Option(min=1, help="Keep at most this many questions of one context.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="Option of the data set.")
    ] = None,
    list_datasets: Annotated[bool, typer.Option("--list", help="Show the data sets and stop.")] = False,
    check: Checked = None,
    validation: Validation = None,
    recipe: RecipeFile = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the recipe's relative data paths.")] = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 for warnings too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a public data set or your own texts into a JSONL file of records, or check such files.

    This command downloads nothing: --list says where to get each data set.

    Examples:
        e2llm prepare text --from my_notes/ -o notes.jsonl

        e2llm prepare squad --from dev-v1.1.json --set context=article -o squad.jsonl

        e2llm prepare --check train.jsonl --validation valid.jsonl --recipe recipe.yaml

        e2llm prepare --check records/*.jsonl
    """
    if check or validation or recipe or data or strict:
        if source or output or list_datasets or any(not check or name in DATASETS for name in names or []):
            raise typer.BadParameter(
                "--check, --validation, --recipe, --data and --strict check records; leave out DATASET, "
                "--from, --output and --list"
            )
        files = [*(check or []), *map(Path, names or [])]
        raise typer.Exit(run_check(files, validation or [], recipe, data, strict, as_json))
    if list_datasets:
        print_result(_catalogue(), _catalogue_text(), as_json)
        return
    dataset, source, output = required(names or [], source, output)
    options = split_settings(settings)
    with tqdm(unit=" records", desc=dataset, leave=False, disable=None) as bar:  # on a terminal only

        def show(count: int) -> None:
            bar.update(count - bar.n)

        report = prepare_records(dataset, source, output, split, limit, max_per_context, options, show)
    show_report(report, as_json)


def required(names: list[str], source: Path | None, output: Path | None) -> tuple[str, Path, Path]:
    """Return the data set, its source and the output; raise `typer.BadParameter` if one is missing."""
    if len(names) > 1:
        raise typer.BadParameter(f"got several data sets, {', '.join(names)}; give one DATASET at a time")
    if not names or source is None or output is None:
        given = {"DATASET": names, "--from": source, "--output": output}
        missing = ", ".join(name for name, value in given.items() if not value)
        raise typer.BadParameter(f"missing: {missing}; e2llm prepare --list shows the data sets")
    return names[0], source, output


def show_report(report: PrepareReport, as_json: bool) -> None:
    """Print a report, and a warning if the data set is incomplete."""
    print_result(report.to_dict(), _report_text(report), as_json)
    if report.is_complete is False:
        echo(
            f"warning: {report.dataset} {report.split} was published with {report.published_count} records, "
            f"but {report.num_found} were found; check that the data set is complete",
            err=True,
        )


def _catalogue() -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "description": kind.description,
            "licence": kind.licence,
            "home": kind.home,
            "layout": kind.layout,
            "splits": list(kind.splits),
            "options": list(kind.options),
        }
        for name, kind in DATASETS.items()
    ]


def _catalogue_text() -> str:
    blocks = []
    for entry in _catalogue():
        lines = [f"{entry.pop('name')}: {entry.pop('description')}"]
        for name, value in entry.items():
            words = ", ".join(value) or "none" if isinstance(value, list) else value
            lines.append(f"  {name:<8} {words}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _report_text(report: PrepareReport) -> str:
    contexts, answers = report.context_chars, report.answer_chars
    lines = [
        f"{report.output}: {counted(report.num_records, 'record')} of {report.dataset} ({report.split})",
        f"  contexts   {report.num_contexts}, characters min {contexts.min}, median {contexts.median}, "
        f"max {contexts.max}",
        f"  answers    {report.num_answers}, characters min {answers.min}, median {answers.median}, "
        f"max {answers.max}; further references {report.num_references}; "
        f"with evidence {report.num_with_evidence}",
        f"  text only  {report.num_text_only}",
    ]
    lines += [f"  left out   {count}: {reason}" for reason, count in sorted(report.skipped.items())]
    if report.published_count is not None:
        num_left_out = report.num_found - report.num_records
        lines.append(
            f"  published  {report.published_count}, found {report.num_found} "
            f"({report.num_records} written, {num_left_out} left out)"
        )
    return "\n".join(lines)


# --- checking records ---------------------------------------------------------------------------------------


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
        files: Training files; without any, those of the recipe are checked.
        validation: Validation files.
        recipe: Recipe whose objectives and parts decide what fits the decoder's window.
        data: Folder of the recipe's own files.
        strict: Whether warnings count.
        as_json: Print JSON: one object, or with a recipe a list of one per stage.

    Returns:
        1 if there are errors, or warnings with `strict`; else 0.
    """
    if not files and (recipe is None or validation):
        raise typer.BadParameter(
            "there is nothing to check; give --check FILE, or --recipe alone to check its files"
        )
    if data is not None and recipe is None:
        raise typer.BadParameter("--data needs --recipe, whose files are in that folder; add --recipe")
    if recipe is None:
        checks = {"": check_files(files, validation)}
    else:
        checks = check_by_recipe(files, validation, recipe, data)
    if as_json:
        reports = [{"stage": stage, **check.to_dict()} for stage, check in checks.items()]
        print_json(reports if recipe is not None else checks[""].to_dict())
    for stage, check in checks.items():
        if not as_json:
            echo("\n".join([*([f"stage {stage}:"] if stage else []), *check.lines()]))
    failed = any(check.errors or (strict and check.warnings) for check in checks.values())
    return 1 if failed else 0


def check_files(files: list[Path], validation: list[Path]) -> DataCheck:
    """Check files line by line, without a recipe."""
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
    """Return a recipe with other data files, for understanding and reasoning."""
    from e2llm.training.recipes.schema import DataFile, DataSection

    section = DataSection(
        train=[DataFile(path=str(file)) for file in files],
        validation=[DataFile(path=str(file)) for file in validation],
    )
    return recipe.model_copy(update={"data": section})


def parts_of(
    recipe: "Recipe", before: "tuple[E2LLMProcessor, int | None] | None"
) -> "tuple[E2LLMProcessor, int | None] | None":
    """Return the processor and window of a stage, or else of the one before; warn if there are none."""
    from e2llm.training.build import set_chunking
    from e2llm.training.samples.data_check import open_parts

    try:
        return open_parts(recipe)
    except (ValueError, OSError) as error:
        if before is None:
            echo(f"warning: the decoder's window is not checked: {error}", err=True)
            return None
    set_chunking(before[0], recipe)
    return before
