"""`e2llm read`: read files once and save the context."""

import json
from pathlib import Path
from typing import Annotated

import typer

from e2llm.cli.ask import DEVICE_HELP, MODEL_HELP, STORE_HELP, load_engine, read_documents


def read(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files or folders; '-' reads stdin.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the context here, such as book.e2llm.")
    ] = None,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "mini",
    chunk_size: Annotated[
        int | None, typer.Option(min=16, help="Longest chunk, in characters; by default the model's.")
    ] = None,
    store: Annotated[str | None, typer.Option(help=STORE_HELP)] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Read files once, to be asked later: as a saved context (-o), into a store (--store), or both.

    Example:
        e2llm read examples/anne_of_green_gables.txt -o anne.e2llm

        e2llm ask anne.e2llm "Who is Anne's best friend?"
    """
    if output is None and store is None:
        raise typer.BadParameter("say where to keep what is read: -o FILE, --store DIR, or both")
    if output is not None and output.is_dir():
        raise typer.BadParameter(f"{output} is a folder; name a file such as {output / 'book.e2llm'}")
    refuse_other_file(output)
    documents = read_documents(files)
    engine = load_engine(model, device, store)
    context = engine.read(documents, chunk_size_chars=chunk_size)
    if output is not None:
        context.save(output)
    facts = {
        "documents": len(context.documents),
        "chunks": len(context),
        "chunks_encoded": context.content.num_encoded,
        "context_tokens": context.num_tokens,
        "read_seconds": context.read_seconds,
        "saved_to": None if output is None else str(output),
        "bytes": None if output is None else output.stat().st_size,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    where = "" if output is None else f"; saved to {output} ({output.stat().st_size / 1e6:,.1f} MB)"
    typer.echo(
        f"read {len(context.documents)} document(s), {context.num_tokens:,} tokens in {len(context):,} "
        f"chunks ({context.content.num_encoded:,} encoded now) in {context.read_seconds:.1f} s{where}"
    )


def refuse_other_file(file: Path | None) -> None:
    """Refuse to write a context over a file that holds anything else, such as the text itself."""
    from e2llm.inference.context_file import is_context_file

    if file is not None and file.is_file() and file.stat().st_size and not is_context_file(file):
        raise typer.BadParameter(f"{file} exists and is no saved context; name another file")
