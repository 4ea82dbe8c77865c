"""`e2llm prepare`: turn a public data set, or your own texts, into a JSONL file of records."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from e2llm.cli.check import run_check
from e2llm.cli.options import AsJson, split_settings
from e2llm.data.prepare import PrepareReport, prepare_records
from e2llm.data.registry import DATASETS


def prepare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATASET",
            help="Name of the data set; --list shows all. After --check: further files to check.",
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder or file of the unpacked data set.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSONL file to write.")] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Which part: train, validation, ...; --list shows them, the first is the default."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many records.")] = None,
    max_per_context: Annotated[
        int | None, typer.Option(min=1, help="Keep at most this many questions of one context.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="Option of the data set.")
    ] = None,
    list_datasets: Annotated[bool, typer.Option("--list", help="Show the data sets and stop.")] = False,
    check: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Check files of records: FILE..., or repeated.")
    ] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="With --check: validation file, whose contexts must not train."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Check against the decoder's window, too; without --check the recipe's own files."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder in which the recipe's relative data paths are looked up.")
    ] = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 for warnings, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a public data set, or your own texts, into a JSONL file of records.

    Nothing is downloaded: --list shows where to get each data set.

    Examples:
        e2llm prepare text --from my_notes/ -o notes.jsonl

        e2llm prepare squad --from dev-v1.1.json --set context=article -o squad.jsonl

        e2llm prepare --check train.jsonl --validation valid.jsonl --recipe recipe.yaml

        e2llm prepare --check records/*.jsonl
    """
    if check or validation or recipe or data or strict:
        has_dataset = any(not check or name in DATASETS for name in names or [])
        if has_dataset or source is not None or output is not None or list_datasets:
            raise typer.BadParameter("--check and its options exclude DATASET, --from, --output and --list")
        files = [*(check or []), *map(Path, names or [])]
        raise typer.Exit(run_check(files, validation or [], recipe, data, strict, as_json))
    if list_datasets:
        typer.echo(json.dumps(_catalogue(), indent=2) if as_json else _catalogue_text())
        return
    if names and len(names) > 1:
        raise typer.BadParameter(f"one DATASET at a time, got {', '.join(names)}")
    dataset = names[0] if names else None
    missing = [
        name
        for name, value in (("DATASET", dataset), ("--from", source), ("--output", output))
        if value is None
    ]
    if dataset is None or source is None or output is None:
        raise typer.BadParameter(f"{', '.join(missing)} missing; e2llm prepare --list shows the data sets")
    options = split_settings(settings)
    with _progress(dataset) as on_record:
        report = prepare_records(dataset, source, output, split, limit, max_per_context, options, on_record)
    typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else _report_text(report))
    if report.is_complete is False:
        typer.echo(
            f"warning: {report.dataset} {report.split} is published with {report.published_count} entries, "
            f"but {report.num_found} were found; is the data set complete?",
            err=True,
        )


def _catalogue() -> list[dict[str, object]]:
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
    for kind in DATASETS.values():
        options = ", ".join(kind.options) or "none"
        blocks.append(
            f"{kind.name}: {kind.description}\n"
            f"  from     {kind.home}\n"
            f"  licence  {kind.licence}\n"
            f"  expects  {kind.layout}\n"
            f"  splits   {', '.join(kind.splits)}\n"
            f"  options  {options}"
        )
    return "\n\n".join(blocks)


def _report_text(report: PrepareReport) -> str:
    contexts, answers = report.context_chars, report.answer_chars
    lines = [
        f"{report.output}: {report.num_records} records of {report.dataset} ({report.split})",
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


@contextmanager
def _progress(dataset: str) -> Iterator[Callable[[int], None] | None]:
    """Show a running count on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{dataset} ...") as status:

        def show(count: int) -> None:
            if count % 500 == 0:
                status.update(f"{dataset}: {count} records")

        yield show
