"""`e2llm eval`: measure a model."""

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write.")],
    records: Annotated[
        list[str],
        typer.Option(metavar="TASK=FILE", help="Records to measure on: recall=FILE, restatement=FILE or answers=FILE."),
    ],
    model: Annotated[str, typer.Option(help="Folder, hub id, or 'mini'.")] = "mini",
    soft_tokens: Annotated[list[int] | None, typer.Option(min=1, help="Numbers of soft tokens per chunk.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Records per task.")] = 100,
    max_chunks: Annotated[
        int | None, typer.Option(min=1, help="Leave out records whose context has more chunks.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Measure a model, beside the same decoder without soft tokens.

    Example:
        e2llm eval --records answers=fairytaleqa-validation.jsonl -o scores.json
    """
    from e2llm.evaluation.measures import MEASURES, measure_model
    from e2llm.inference.engine import Engine

    tasks = []
    for item in records:
        task, equals, file = item.partition("=")
        if not equals or task not in MEASURES:
            raise typer.BadParameter(f"--records takes TASK=FILE with TASK one of {', '.join(MEASURES)}, got {item!r}")
        tasks.append((task, file))
    engine = Engine.from_pretrained(model)
    scores = measure_model(engine, model, tasks, soft_tokens or [], limit, max_chunks, output)
    if as_json:
        typer.echo(json.dumps(scores, indent=2))
        return
    for row in scores["scores"]:
        values = ", ".join(f"{key} {value:.3f}" for key, value in row["values"].items())
        typer.echo(f"{row['task']:>12}  {row['system']:>14}  n={row['num_records']}  {values}")
