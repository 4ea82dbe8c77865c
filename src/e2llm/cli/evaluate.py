"""`e2llm eval`: measure a model."""

import json
from pathlib import Path
from typing import Annotated

import typer

from e2llm.cli.ask import DEVICE_HELP, MODEL_HELP, load_engine


def evaluate(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write.")],
    records: Annotated[
        list[str],
        typer.Option(
            metavar="TASK=FILE",
            help="Measure and its records: recall=FILE, restatement=FILE or answers=FILE.",
        ),
    ],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "mini",
    soft_tokens: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Soft tokens per chunk; may be given several times. Default: the model's most."
        ),
    ] = None,
    chunk_size: Annotated[
        int | None, typer.Option(min=16, help="Longest chunk, in characters; by default the model's.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Records per task.")] = 100,
    max_chunks: Annotated[
        int | None, typer.Option(min=1, help="Leave out records whose context has more chunks.")
    ] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Measure a model, beside the same decoder without soft tokens.

    Example:
        e2llm eval --records answers=fairytaleqa-validation.jsonl -o scores.json
    """
    from e2llm.evaluation.measures import MEASURES, measure_model

    tasks = []
    for item in records:
        task, equals, file = item.partition("=")
        if not equals or task not in MEASURES:
            names = ", ".join(MEASURES)
            raise typer.BadParameter(f"--records takes TASK=FILE with TASK one of {names}, got {item!r}")
        if not Path(file).is_file():
            raise FileNotFoundError(f"no such records file: {file}; make one with 'e2llm prepare'")
        tasks.append((task, file))
    engine = load_engine(model, device)
    if chunk_size is not None:
        engine.processor.chunk_size_chars = chunk_size
    scores = measure_model(engine, model, tasks, soft_tokens or [], limit, max_chunks, output)
    if as_json:
        typer.echo(json.dumps(scores, indent=2))
        return
    for row in scores["scores"]:
        values = ", ".join(f"{key} {value:.3f}" for key, value in row["values"].items())
        typer.echo(f"{row['task']:>12}  {row['system']:>14}  n={row['num_records']}  {values}")
