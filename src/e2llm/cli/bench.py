"""`e2llm bench`: compare time and memory with full context, sentence-transformers and a plain loop."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from e2llm.cli.options import MODEL_HELP, AsJson, parse_lengths
from e2llm.cli.printing import echo, print_json

LEAST_CONTEXT = 64  # decoder tokens
app = typer.Typer(help="Measure time and memory, and compare.", invoke_without_command=True)

Shape = Annotated[
    str, typer.Option(help="Shape of a decoder with random weights: smollm2-135m, qwen2.5-0.5b, llama-2-7b.")
]
OtherModel = Annotated[str | None, typer.Option(help=f"A real model instead of a shape: {MODEL_HELP}")]
Contexts = Annotated[str, typer.Option(help="Lengths of contexts in decoder tokens, such as 4096,128K.")]


@app.callback()
def bench(
    context: typer.Context,
    shape: Shape = "smollm2-135m",
    model: OtherModel = None,
    contexts: Contexts = "4096,16384",
    soft_tokens: Annotated[int, typer.Option(min=1, help="Soft tokens per chunk.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each side, for the median.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Answer from soft tokens and from the full context with the same decoder, and measure both.

    Example:
        e2llm bench --shape smollm2-135m --contexts 4096,16384 --json
    """
    if context.invoked_subcommand is not None:
        return
    from e2llm.bench.speed import format_speed, measure_speed

    lengths = parse_lengths(contexts, "--contexts", LEAST_CONTEXT)
    check_decoder(shape, model)
    rows = measure_speed(
        engine=decoder_settings(shape, model),
        contexts=lengths,
        soft_tokens=soft_tokens,
        repeats=repeats,
        on_progress=show_progress,
    )
    result = {"decoder": model or shape, "soft_tokens": soft_tokens, "rows": rows}
    print_result(result, format_speed(rows), as_json)
    fail_if_all([row["ttft_cold_s"] is None for row in rows], rows)


@app.command()
def read(
    tokens: Annotated[int, typer.Option(min=100, help="Decoder tokens of the text.")] = 50_000,
    as_json: AsJson = False,
) -> None:
    """Encode the same chunks with e2llm and with sentence-transformers; then edit single chunks.

    Example:
        e2llm bench read --json
    """
    from e2llm.bench.decoders import build_engine
    from e2llm.bench.reading import measure_reading

    engine = build_engine(shape="smollm2-135m", model=None, device=None)
    result = measure_reading(engine, tokens, show_progress)
    lines = [
        f"{name}: {f'{value:,.4g}' if isinstance(value, float) else value}" for name, value in result.items()
    ]
    print_result(result, "\n".join(lines), as_json)


@app.command("serve")
def serving(
    text: Annotated[Path, typer.Option(help="The text that all questions are about.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smol",
    clients: Annotated[str, typer.Option(help="Numbers of simultaneous clients.")] = "1,2,4,8,16",
    as_json: AsJson = False,
) -> None:
    """Measure a server on this machine under load, with batching and one answer at a time.

    Example:
        e2llm bench serve --text examples/anne_of_green_gables.txt --clients 1,8
    """
    from e2llm.bench.serving import format_load, measure_serving
    from e2llm.documents import load_documents

    counts = parse_lengths(clients, "--clients", 1)
    result = measure_serving(model, load_documents([text])[0].text, counts, on_progress=show_progress)
    print_result(result, format_load(result), as_json)


def check_decoder(shape: str, model: str | None) -> None:
    """Refuse an unknown shape or an unavailable model before anything is measured."""
    from e2llm.bench.decoders import SHAPES
    from e2llm.model_names import check_model_name
    from e2llm.modeling.processor import E2LLMProcessor

    if shape not in SHAPES:
        raise typer.BadParameter(f"unknown shape {shape!r}; choose one of: {', '.join(SHAPES)}")
    if model is not None:
        check_model_name(model)
        E2LLMProcessor.from_pretrained(model)


def decoder_settings(shape: str, model: str | None) -> dict[str, Any]:
    """Return the arguments for `build_engine`."""
    return {"shape": None if model else shape, "model": model, "device": None}


def show_progress(line: str) -> None:
    """Print a line on a terminal, nothing in a pipe."""
    if sys.stderr.isatty():
        echo(line, err=True)


def print_result(result: dict[str, Any], table: str, as_json: bool) -> None:
    """Print figures as a table, or as JSON with the machine they were taken on."""
    from e2llm.inference.loading import choose_device
    from e2llm.measuring import describe_machine

    if as_json:
        result["machine"] = describe_machine(choose_device(None))
        print_json(result)
    else:
        echo(table)


def fail_if_all(failed: list[bool], rows: list[dict[str, Any]]) -> None:
    """Raise `E2LLMError` if no row could be measured."""
    if all(failed):
        from e2llm.errors import E2LLMError

        raise E2LLMError(f"nothing could be measured: {rows[0]['errors']}")
