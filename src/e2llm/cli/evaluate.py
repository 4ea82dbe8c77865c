"""`e2llm eval`: compare systems on tasks, or compare two runs."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from e2llm.cli.options import AsJson, Device, Model, parse_lengths, split_names
from e2llm.cli.printing import echo, print_json, print_result
from e2llm.errors import E2LLMError

if TYPE_CHECKING:
    from e2llm.evaluation.runner import RunRequest


def evaluate_command(
    tasks: Annotated[str | None, typer.Option(help="Tasks, separated by commas; --list shows them.")] = None,
    systems: Annotated[
        str, typer.Option(help="Systems, separated by commas, with options: e2llm:rate=4:expand=2,bm25.")
    ] = "e2llm,truncate,bm25",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; an existing run is resumed. Default: runs/eval-TIME."),
    ] = None,
    model: Model = "smol",
    limit: Annotated[int, typer.Option(min=1, help="Items per task; for generated tasks, per length.")] = 50,
    lengths: Annotated[
        str, typer.Option(help="Lengths of generated contexts in decoder tokens, such as 4096,128K,1M.")
    ] = "4096",
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Decoder positions of input and answer together; by default the window."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes every draw.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Folder with data sets; by default the shipped samples.")
    ] = None,
    device: Device = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A B", help="Only print what changed from run A to run B."),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List tasks and systems, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare systems on tasks, with one decoder and the same number of positions.

    Examples:
        e2llm eval --tasks niah_single_1,fairytaleqa --systems e2llm,truncate,bm25 --limit 20 -o runs/mine

        e2llm eval --compare runs/before runs/after
    """
    if show_list:
        return list_choices(as_json)
    if compare is not None:
        return compare_folders(*compare, as_json)
    if not tasks:
        raise typer.BadParameter("no tasks; give --tasks such as fairytaleqa,vt (--list shows them all)")
    sizes = parse_lengths(lengths, "--lengths")
    from e2llm.evaluation.runner import RunRequest

    names = split_names(tasks), split_names(systems)
    command = shlex.join(["e2llm", *sys.argv[1:]])
    request = RunRequest(*names, model, limit, sizes, seed, budget, data, command)
    run_into(output, request, device, as_json)


def run_into(output: Path | None, request: "RunRequest", device: str | None, as_json: bool) -> None:
    """Run an evaluation into a folder and print its scores.

    Raises:
        E2LLMError: If every item was refused.
    """
    from e2llm.evaluation.report.tables import format_scores
    from e2llm.evaluation.runner import Engines, evaluate

    folder = output or Path("runs") / time.strftime("eval-%Y%m%d-%H%M%S")
    if output is None:
        echo(f"[writing to {folder}]", err=True)
    try:
        scores = evaluate(request, folder, Engines(request.model, device))
    except KeyboardInterrupt:
        echo(
            f"[stopped; the answers so far are in {folder}: resume with the same command and -o {folder}]",
            err=True,
        )
        raise
    if as_json:
        print_json({"folder": str(folder), **scores})
    else:
        echo(format_scores(scores))
        echo(f"Report: {folder / 'report.html'}")
    if all(row["num_refused"] == row["num_items"] for row in scores["rows"]):
        raise E2LLMError(
            f"the systems refused every item (see {folder / 'report.html'}); raise --budget, shorten "
            "--lengths, or use systems that cut the text"
        )


def list_choices(as_json: bool) -> None:
    """Print all tasks and systems with their descriptions."""
    from e2llm.evaluation.systems import SYSTEMS
    from e2llm.evaluation.tasks import FILE_TASKS, TASKS

    tasks = {name: task.description for name, task in TASKS.items()}
    tasks |= {f"{name}=FILE": task.description for name, task in FILE_TASKS.items()}
    systems = {name: (system.__doc__ or "").strip().splitlines()[0] for name, system in SYSTEMS.items()}
    if as_json:
        print_json({"tasks": tasks, "systems": systems})
        return
    for title, choices in (("Tasks", tasks), ("Systems", systems)):
        echo(f"{title}:")
        width = max(map(len, choices))
        for name, text in choices.items():
            echo(f"  {name.ljust(width)}  {text}")


def compare_folders(before: Path, after: Path, as_json: bool) -> None:
    """Print what changed from one run to another."""
    from e2llm.evaluation.report.run_changes import compare_runs, format_changes

    changes = compare_runs(before, after)
    print_result(changes.as_json(), format_changes(changes).rstrip("\n"), as_json)
