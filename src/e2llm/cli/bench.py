"""`e2llm bench`: time and memory beside full context and beside sentence-transformers, in one run."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2llm.cli.ask import DEVICE_HELP, MODEL_HELP
from e2llm.cli.dial import RateOption, level_name, take_rate
from e2llm.cli.lists import parse_lengths

if TYPE_CHECKING:
    from e2llm.inference.engine import Engine

LEAST_CONTEXT = 64  # decoder tokens
app = typer.Typer(help="Measure time and memory, side by side in one run.", invoke_without_command=True)

Shape = Annotated[
    str, typer.Option(help="Decoder with random weights: smollm2-135m, qwen2.5-0.5b or llama-2-7b.")
]
Model = Annotated[str | None, typer.Option(help=f"A real model in place of a shape: {MODEL_HELP}")]
SoftTokens = Annotated[int, typer.Option(min=1, help="Soft tokens per chunk.")]
Encoder = Annotated[
    str | None, typer.Option(help="Folder or hub id of a shape's encoder; MiniLM by default.")
]
Repeats = Annotated[int, typer.Option(min=1, help="Measurements of each side; medians are shown.")]
Text = Annotated[Path | None, typer.Option(help="Text to read, cut to length, in place of one made up.")]
Device = Annotated[str | None, typer.Option(help=DEVICE_HELP)]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; by default half on a GPU.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@app.callback()
def bench(
    context: typer.Context,
    shape: Shape = "smollm2-135m",
    model: Model = None,
    contexts: Annotated[
        str, typer.Option(help="Lengths in decoder tokens, such as 4096,128K.")
    ] = "4096,16384",
    soft_tokens: SoftTokens = 1,
    rate: RateOption = None,
    encoder: Encoder = None,
    text: Text = None,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each answer.")] = 16,
    repeats: Repeats = 3,
    device: Device = None,
    dtype: Dtype = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for bench.json and bench.png.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer by soft tokens and by the full context, with the same decoder, and measure both.

    Example:
        e2llm bench --shape smollm2-135m --contexts 4096,16384 --json
    """
    if context.invoked_subcommand is not None:
        return
    from e2llm.bench.speed import format_rows, measure_speed
    from e2llm.inference.loading import choose_device
    from e2llm.inference.machine import describe_machine

    lengths = parse_lengths(contexts, "--contexts", LEAST_CONTEXT)
    check_shape(shape)
    if model is not None and encoder is not None:
        raise typer.BadParameter("--encoder goes with --shape; a --model has its own")
    if output is not None:
        from e2llm.bench.plot import check_drawing

        check_drawing()
        if output.is_file():
            raise typer.BadParameter(f"{output} is a file; name a folder")
    wanted_rate = take_rate(rate)
    if wanted_rate is not None and model is None:
        raise typer.BadParameter("a shape is measured at --soft-tokens; --rate goes with a --model")
    if model is not None:
        check_model(model)
    settings = {"shape": None if model else shape, "model": model, "device": device, "dtype": dtype}
    rows = measure_speed(
        engine=settings if encoder is None else {**settings, "encoder": encoder},
        text=read_text(text),
        contexts=lengths,
        soft_tokens=soft_tokens,
        rate=wanted_rate,
        new_tokens=new_tokens,
        repeats=repeats,
        on_progress=show_progress,
    )
    decoder = model or shape
    result = {
        "decoder": decoder,
        "soft_tokens": soft_tokens,
        "rate": wanted_rate,
        "rows": rows,
        "machine": describe_machine(choose_device(device)),
    }
    if output is not None:
        from e2llm.bench.plot import draw_speed
        from e2llm.files import write_atomically

        write_atomically(output / "bench.json", (json.dumps(result, indent=2) + "\n").encode())
        draw_speed(rows, output / "bench.png", f"{decoder}, {level_name(soft_tokens, wanted_rate)}")
    typer.echo(json.dumps(result, indent=2) if as_json else format_rows(rows))
    if all(row["ttft_cold_s"] is None for row in rows):
        from e2llm.errors import E2LLMError

        raise E2LLMError(f"nothing could be measured: {rows[0]['errors']}")


@app.command()
def read(
    tokens: Annotated[int, typer.Option(min=100, help="Decoder tokens of the text.")] = 50_000,
    text: Text = None,
    repeats: Repeats = 5,
    soft_tokens: SoftTokens = 1,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Read the same chunks with the same encoder by this library and by sentence-transformers.

    Example:
        e2llm bench read --json
    """
    from e2llm.bench.reading import compare_reading

    engine = new_engine("smollm2-135m", None, soft_tokens, device, dtype)
    result = compare_reading(
        engine, num_tokens=tokens, repeats=repeats, text=read_text(text), on_progress=show_progress
    )
    print_result(result, engine, as_json)


@app.command("long")
def long_contexts(
    contexts: Annotated[
        str, typer.Option(help="Lengths in decoder tokens, such as 4096,128K.")
    ] = "100000,1000000",
    shape: Shape = "smollm2-135m",
    model: Model = None,
    soft_tokens: SoftTokens = 1,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Read and ask contexts far beyond the window: does time grow with length, and memory stay?

    Example:
        e2llm bench long --contexts 100000,1000000
    """
    from e2llm.bench.reading import measure_lengths

    lengths = parse_lengths(contexts, "--contexts", LEAST_CONTEXT)
    engine = new_engine(shape, model, soft_tokens, device, dtype)
    print_result(measure_lengths(engine, lengths, show_progress), engine, as_json)


@app.command()
def edit(
    tokens: Annotated[int, typer.Option(min=100, help="Decoder tokens of the text.")] = 100_000,
    text: Text = None,
    edits: Annotated[int, typer.Option(min=1, help="Chunks to replace, one after the other.")] = 21,
    shape: Shape = "smollm2-135m",
    model: Model = None,
    soft_tokens: SoftTokens = 1,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Replace single chunks of a context, against reading it.

    Example:
        e2llm bench edit --text examples/anne_of_green_gables.txt
    """
    from e2llm.bench.reading import measure_edits

    engine = new_engine(shape, model, soft_tokens, device, dtype)
    print_result(measure_edits(engine, tokens, edits, read_text(text)), engine, as_json)


@app.command()
def train(
    contexts: Annotated[str, typer.Option(help="Lengths in decoder tokens, such as 4096,128K.")] = "8192",
    shape: Shape = "smollm2-135m",
    model: Model = None,
    soft_tokens: SoftTokens = 1,
    questions: Annotated[int, typer.Option(min=1, help="Questions of each context.")] = 4,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of a step.")] = 8,
    steps: Annotated[int, typer.Option(min=2, help="Steps; the first is not timed.")] = 4,
    encoder_mode: Annotated[str, typer.Option(help="frozen, lora or full.")] = "frozen",
    decoder_mode: Annotated[str, typer.Option(help="frozen, lora or full.")] = "lora",
    ways: Annotated[str, typer.Option(help="Of plain and e2llm.")] = "plain,e2llm",
    checkpointing: Annotated[bool, typer.Option(help="Recompute the decoder's activations.")] = False,
    unchecked_tokens: Annotated[
        int,
        typer.Option(min=0, help="Encoder tokens whose activations are kept; see encoder.unchecked_tokens."),
    ] = 0,
    text: Text = None,
    data: Annotated[Path | None, typer.Option(help="Records, in place of contexts cut from a text.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: AsJson = False,
) -> None:
    """Train by this library's trainer and by a plain loop over the same samples, each in its own process.

    Example:
        e2llm bench train --contexts 8192 --json
    """
    from e2llm.bench.training import WAYS, format_training, measure_training
    from e2llm.inference.loading import choose_device
    from e2llm.inference.machine import describe_machine

    check_shape(shape)
    modes = ("frozen", "lora", "full")
    if encoder_mode not in modes or decoder_mode not in modes:
        raise typer.BadParameter(f"modes are {', '.join(modes)}; got {encoder_mode!r} and {decoder_mode!r}")
    chosen = ways.split(",")
    if unknown := [way for way in chosen if way not in WAYS]:
        raise typer.BadParameter(f"--ways {', '.join(unknown)}: known are {', '.join(WAYS)}")
    settings = {
        "engine": {"shape": None if model else shape, "model": model, "device": device, "dtype": dtype},
        "soft_tokens": soft_tokens, "questions": questions, "batch_size": batch_size, "steps": steps,
        "encoder_mode": encoder_mode, "decoder_mode": decoder_mode, "checkpointing": checkpointing,
        "unchecked_tokens": unchecked_tokens, "text": read_text(text),
        "data": None if data is None else str(data),
    }  # fmt: skip
    rows = [
        row
        for length in parse_lengths(contexts, "--contexts", LEAST_CONTEXT)
        for row in measure_training({**settings, "context_tokens": length}, chosen, show_progress)
    ]
    if as_json:
        machine = describe_machine(choose_device(device))
        typer.echo(json.dumps({"decoder": model or shape, "rows": rows, "machine": machine}, indent=2))
    else:
        typer.echo(format_training(rows))
    if all("error" in row for row in rows):
        from e2llm.errors import E2LLMError

        raise E2LLMError(f"nothing could be measured: {rows[0]['error']}")


def check_shape(shape: str) -> None:
    """Refuse an unknown shape before anything is built."""
    from e2llm.bench.decoders import SHAPES

    if shape not in SHAPES:
        raise typer.BadParameter(f"unknown shape {shape!r}; choose one of: {', '.join(SHAPES)}")


def check_model(model: str) -> None:
    """Refuse a model that cannot be had, once, before every measurement tries."""
    from e2llm.inference.loading import check_model_name
    from e2llm.modeling.processor import E2LLMProcessor

    check_model_name(model)
    E2LLMProcessor.from_pretrained(model)


def new_engine(
    shape: str, model: str | None, soft_tokens: int, device: str | None, dtype: str | None
) -> "Engine":
    """The engine to measure in this process."""
    from e2llm.bench.decoders import build_engine

    check_shape(shape)
    return build_engine(
        shape=None if model else shape, model=model, soft_tokens=soft_tokens, device=device, dtype=dtype
    )


@app.command("serve")
def serving(
    text: Annotated[Path, typer.Option(help="What all questions are about.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smol",
    clients: Annotated[str, typer.Option(help="Numbers of clients that ask at once.")] = "1,2,4,8,16",
    requests: Annotated[int, typer.Option(min=1, help="Questions of each client.")] = 8,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 64,
    soft_tokens: Annotated[int | None, typer.Option(min=1, help="Soft tokens per chunk.")] = None,
    rate: RateOption = None,
    as_json: AsJson = False,
) -> None:
    """Have clients ask a server of ours on this machine, in batches and one answer at a time.

    Example:
        e2llm bench serve --text examples/anne_of_green_gables.txt --clients 1,8
    """
    from e2llm.bench.serving import format_load, measure_serving
    from e2llm.inference.loading import choose_device
    from e2llm.inference.machine import describe_machine

    result = measure_serving(
        model,
        str(read_text(text)),
        clients=parse_lengths(clients, "--clients", 1),
        requests_per_client=requests,
        new_tokens=new_tokens,
        soft_tokens=soft_tokens,
        rate=take_rate(rate),
        on_progress=show_progress,
    )
    result["machine"] = describe_machine(choose_device(None))
    typer.echo(json.dumps(result, indent=2) if as_json else format_load(result))


def read_text(file: Path | None) -> str | None:
    """The text of a file, if one is named."""
    if file is None:
        return None
    from e2llm.inference.documents import load_documents

    return load_documents([file])[0].text


def show_progress(line: str) -> None:
    """A line on a terminal, nothing in a pipe."""
    if sys.stderr.isatty():
        typer.echo(line, err=True)


def print_result(result: dict[str, Any], engine: "Engine", as_json: bool) -> None:
    """Print figures with the machine they were taken on."""
    from e2llm.inference.machine import describe_machine

    result["machine"] = describe_machine(engine.device)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        if isinstance(value, list):
            for row in value:
                typer.echo("  ".join(f"{key} {show(item)}" for key, item in row.items()))
        elif isinstance(value, dict):
            typer.echo(f"{name}: " + ", ".join(f"{key} {show(item)}" for key, item in value.items()))
        else:
            typer.echo(f"{name}: {show(value)}")


def show(value: Any) -> str:
    """A value with four digits that count."""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
