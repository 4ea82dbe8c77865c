"""`e2llm ask`: answer a question about files of any length."""

import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

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
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print answer, usage and timing as JSON.")] = False,
) -> None:
    """Answer a question about files of any length.

    Example:
        e2llm ask examples/anne_of_green_gables.txt "Who is Anne's best friend?"
    """
    if len(arguments) < 2:
        raise typer.BadParameter("give at least one file and, last, the question")
    *paths, question = arguments
    if os.path.isfile(question):
        raise typer.BadParameter(f"{question!r} is a file; give the question last")
    documents = read_documents(paths)
    engine = load_engine(model, device)
    context = engine.read(documents)
    answer = engine.ask(
        context,
        question,
        soft_tokens=soft_tokens,
        max_new_tokens=max_new_tokens,
        on_piece=None if as_json else print_piece,
    )
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(answer), indent=2, ensure_ascii=False))
        return
    typer.echo()
    typer.echo(cost_line(answer), err=True)


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
