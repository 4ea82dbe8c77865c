"""`e2llm ask`: answer a question about files of any length."""

import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from e2llm.inference.answer import Answer
    from e2llm.inference.documents import Document
    from e2llm.inference.engine import Engine

MODEL_HELP = "Folder, hub id, or 'mini', the embedded model."
DEVICE_HELP = "cpu, cuda, cuda:1, ...; by default a GPU if there is one."


def ask(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE... QUESTION", help="Files or folders ('-' reads stdin), then the question."
        ),
    ],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "mini",
    soft_tokens: Annotated[
        int | None, typer.Option(min=1, help="Soft tokens per chunk; by default as many as the window takes.")
    ] = None,
    chunk_size: Annotated[
        int | None, typer.Option(min=16, help="Longest chunk, in characters; by default the model's.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Measure the same decoder on the raw text too, and show both.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print answer, usage and timing as JSON.")] = False,
) -> None:
    """Answer a question about files of any length.

    Examples:
        e2llm ask examples/anne_of_green_gables.txt "Who is Anne's best friend?"

        cat notes.txt | e2llm ask - "What is due on Friday?" --json
    """
    if len(arguments) < 2:
        raise typer.BadParameter("give at least one file and, last, the question")
    *paths, question = arguments
    if os.path.isfile(question):
        raise typer.BadParameter(f"{question!r} is a file; give the question last")
    documents = read_documents(paths)
    engine = load_engine(model, device)
    if chunk_size is not None:
        engine.processor.chunk_size_chars = chunk_size
    options: dict[str, Any] = {"soft_tokens": soft_tokens, "max_new_tokens": max_new_tokens}
    options["on_piece"] = None if as_json else print_piece
    comparison = None
    if compare:
        from e2llm.bench import compare_with_full_context, format_comparison

        comparison = compare_with_full_context(engine, documents, question, **options)
        answer = comparison.e2llm.answer
    else:
        answer = engine.ask(engine.read(documents), question, **options)
    if as_json:
        result = dataclasses.asdict(answer)
        if comparison is not None:
            result["peak_extra_bytes"] = comparison.e2llm.peak_extra_bytes
            result["full_context"] = comparison.full_context.to_dict()
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    typer.echo()
    typer.echo(cost_line(answer), err=True)
    if comparison is not None:
        typer.echo(format_comparison(comparison))


def read_documents(paths: list[str]) -> "list[Document]":
    """Read files and folders; `-` is standard input."""
    from e2llm.inference.documents import load_documents, read_stream

    documents = []
    for path in paths:
        if path == "-":
            documents.append(read_stream(sys.stdin.buffer, "standard input"))
        else:
            documents += load_documents([path])
    return documents


def load_engine(model: str, device: str | None) -> "Engine":
    """Load an engine."""
    from e2llm.inference.engine import Engine

    return Engine.from_pretrained(model, device=device)


def print_piece(piece: str) -> None:
    """Show a piece of an answer at once."""
    typer.echo(piece, nl=False)


def cost_line(answer: "Answer") -> str:
    """One line of what an answer took."""
    usage, timing = answer.usage, answer.timing
    first = "" if timing.first_token_seconds is None else f", first token {timing.first_token_seconds:.2f} s"
    seconds = f"read {timing.read_seconds:.1f} s{first}, answer {timing.total_seconds:.2f} s"
    return (
        f"[{usage.context_tokens:,} tokens in {usage.chunks:,} chunks as {usage.soft_tokens:,} soft tokens "
        f"({usage.compression:g}x); {seconds}]"
    )
