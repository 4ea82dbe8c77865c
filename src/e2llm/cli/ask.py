"""`e2llm ask`: answer a question about files of any length."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2llm.cli.dial import FinestRateOption, RateOption, keep_as_saved, take_rate
from e2llm.errors import E2LLMError

if TYPE_CHECKING:
    from e2llm.inference.answer import Answer
    from e2llm.inference.context import Context
    from e2llm.inference.documents import Document
    from e2llm.inference.engine import Engine

MODEL_HELP = "Folder, hub id, or 'smol', the embedded model."
DEVICE_HELP = "cpu, cuda, cuda:1, ...; by default a GPU if there is one."
STORE_HELP = "Folder that keeps what was read, so that it is not read again; made if need be."
FILES_HELP = "Files or folders ('-' reads stdin), or one saved context"


def ask(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="FILE... QUESTION", help=f"{FILES_HELP}; then the question."),
    ],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smol",
    soft_tokens: Annotated[
        int | None, typer.Option(min=1, help="Soft tokens per chunk; by default as many as the window takes.")
    ] = None,
    rate: RateOption = None,
    finest_rate: FinestRateOption = None,
    expand: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Give the raw text of so many chunks that the question points at; by default one, if the "
            "window has room. 0: soft tokens alone.",
        ),
    ] = None,
    expand_tokens: Annotated[
        int | None,
        typer.Option(min=0, help="Most tokens of these chunks, in place of a number or beside it."),
    ] = None,
    select: Annotated[str, typer.Option(help="How they are chosen: bm25 or encoder.")] = "bm25",
    fit: Annotated[
        bool, typer.Option("--fit", help="Choose soft tokens and raw chunks so that they fill the window.")
    ] = False,
    raw_below: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Give chunks raw whose fidelity score is below this (slow: once)."),
    ] = None,
    overflow: Annotated[
        str, typer.Option(help="What does not fit the window: error, or select (leave chunks out).")
    ] = "error",
    chunk_size: Annotated[
        int | None, typer.Option(min=16, help="Longest chunk, in characters; by default the model's.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    store: Annotated[str | None, typer.Option(help=STORE_HELP)] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    insert: Annotated[
        str | None, typer.Option(help="Put this sentence into the text first, to see whether it is found.")
    ] = None,
    insert_at: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Where: 0 for the beginning, 1 for the end; by default 0.5."),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Measure the same decoder on the raw text too, and show both.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print answer, usage and timing as JSON.")] = False,
) -> None:
    """Answer a question about files of any length.

    Examples:
        e2llm ask examples/anne_of_green_gables.txt "Who is Anne's best friend?"

        e2llm ask src/ "Where is the store opened?" --expand 3 --store ~/.cache/e2llm

        e2llm ask book.txt --insert "The code of the safe is 4817." "What is the code of the safe?"

        cat notes.txt | e2llm ask - "What is due on Friday?" --json
    """
    from e2llm.inference.options import AskRequest

    if len(arguments) < 2:
        raise typer.BadParameter("give at least one file and, last, the question")
    *paths, question = arguments
    if os.path.exists(question):
        kind = "folder" if os.path.isdir(question) else "file"
        raise typer.BadParameter(f"{question!r} is a {kind}; give the question last")
    if insert_at is not None and insert is None:
        raise typer.BadParameter("--insert-at says where --insert puts its sentence; give --insert too")
    if fit and any(item is not None for item in (soft_tokens, rate, expand, expand_tokens)):
        raise typer.BadParameter("--fit chooses --soft-tokens or --rate, and --expand; leave them out")
    options: dict[str, Any] = {
        "soft_tokens": soft_tokens,
        "rate": take_rate(rate),
        "expand": expand,
        "expand_tokens": expand_tokens,
        "select": select,
        "raw_below": raw_below,
        "overflow": overflow,
        "max_new_tokens": max_new_tokens,
    }
    request = AskRequest.take(question, dict(options))
    options["on_piece"] = None if as_json else print_piece
    source = read_source(paths)
    if insert is not None:
        source = insert_into(source, insert, 0.5 if insert_at is None else insert_at)
    engine = load_engine(model, device, store, finest_rate)
    if not isinstance(source, Path):
        engine.check_room(source, request, chunk_size)
    comparison = None
    if compare:
        from e2llm.bench.comparison import compare_with_full_context, format_comparison

        if isinstance(source, Path) or fit:
            raise typer.BadParameter(
                "--compare measures reading: give texts, not a saved context, and no --fit"
            )
        comparison = compare_with_full_context(
            engine, source, question, chunk_size_chars=chunk_size, **options
        )
        answer = comparison.e2llm.answer
    else:
        context = open_context(engine, source, chunk_size, finest_rate)
        if fit:
            plan = engine.fit(
                context, question=question, max_new_tokens=max_new_tokens, select=select, overflow=overflow
            )
            options.update(plan.options)
            if not as_json:
                typer.echo(f"[{plan}]", err=True)
        answer = engine.ask(context, question, **options)
    if as_json:
        result = dataclasses.asdict(answer)
        if comparison is not None:
            result["peak_extra_bytes"] = comparison.e2llm.peak_extra_bytes
            result["full_context"] = comparison.full_context.to_dict()
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    typer.echo()
    typer.echo(cost_line(answer, read_earlier=isinstance(source, Path)), err=True)
    if comparison is not None:
        typer.echo(format_comparison(comparison))
    if not answer.text.strip():
        raise E2LLMError("the model gave no answer; give it more chunks as text with --expand")


def read_source(paths: list[str]) -> "list[Document] | Path":
    """The documents that paths name, or the path of a saved context, a damaged one too."""
    from e2llm.inference.context_file import is_tensor_file

    if len(paths) == 1 and paths[0] != "-" and is_tensor_file(Path(paths[0])):
        return Path(paths[0])
    return read_documents(paths)


def insert_into(source: "list[Document] | Path", sentence: str, depth: float) -> "list[Document]":
    """Put a sentence into documents, and say on stderr where."""
    from e2llm.inference.documents import insert_sentence

    if isinstance(source, Path):
        raise typer.BadParameter("--insert goes with texts, not with a saved context")
    insertion = insert_sentence(source, sentence, depth)
    typer.echo(f"[inserted at character {insertion.start:,} of {insertion.name}]", err=True)
    return insertion.documents


def open_context(
    engine: "Engine",
    source: "list[Document] | Path",
    chunk_size_chars: int | None = None,
    finest_rate: int | None = None,
) -> "Context":
    """Read documents, or load a saved context, whose finest rate the engine takes over.

    Raises:
        E2LLMError: If a chunk size or a finest rate is given with a saved context, which has its own.
    """
    from e2llm.inference.context import Context

    if isinstance(source, Path):
        if chunk_size_chars is not None:
            raise E2LLMError(f"{source} is a saved context and split already; leave --chunk-size out")
        if finest_rate is not None:
            raise E2LLMError(f"{source} is a saved context and read already; leave --finest-rate out")
        keep_as_saved(engine, source)
        return Context.load(source, engine)
    return engine.read(source, chunk_size_chars=chunk_size_chars)


def read_documents(paths: list[str]) -> "list[Document]":
    """Read files and folders; `-` is standard input."""
    return list(iter_sources(paths))


def iter_sources(paths: list[str]) -> "Iterator[Document]":
    """Read files and folders one document after the other; `-` is standard input.

    Raises:
        E2LLMError: If a file is a saved context, whose bytes would be told as those of some binary file.
    """
    from e2llm.inference.context_file import is_context_file
    from e2llm.inference.documents import iter_documents, read_stream
    from e2llm.inference.folders import list_folder

    for path in paths:
        if path == "-":
            yield read_stream(sys.stdin.buffer, "standard input")
        elif is_context_file(Path(path)):
            raise E2LLMError(f"{path} is a saved context, not a text; give it alone, or the texts it holds")
        else:
            yield from iter_documents([path])
            if os.path.isdir(path) and sys.stderr.isatty():
                typer.echo(f"{path}: {list_folder(Path(path))}", err=True)


def load_engine(
    model: str, device: str | None, store: str | None = None, finest_rate: int | None = None
) -> "Engine":
    """Load an engine, with a store if its folder is given."""
    from e2llm.inference.engine import Engine
    from e2llm.store.chunk_store import ChunkStore

    kept = None if store is None else ChunkStore(store)
    return Engine.from_pretrained(model, device=device, store=kept, finest_rate=finest_rate)


def print_piece(piece: str) -> None:
    """Show a piece of an answer at once."""
    typer.echo(piece, nl=False)


def count_chunks(number: int) -> str:
    """Such as `1 chunk` or `1,234 chunks`."""
    return "1 chunk" if number == 1 else f"{number:,} chunks"


def cost_line(answer: "Answer", read_earlier: bool = False) -> str:
    """One line of what an answer took; of a saved context the reading was done before."""
    usage, timing = answer.usage, answer.timing
    first = "" if timing.first_token_seconds is None else f", first token {timing.first_token_seconds:.2f} s"
    read = f"read {'earlier in ' if read_earlier else ''}{timing.read_seconds:.1f} s"
    seconds = f"{read}{first}, answer {timing.total_seconds:.2f} s"
    chunks = count_chunks(usage.chunks)
    raw = f" and {count_chunks(len(answer.expanded))} as text" if answer.expanded else ""
    left_out = f", {count_chunks(answer.left_out)} left out" if answer.left_out else ""
    rate = "" if usage.rate is None or not usage.soft_tokens else f" (rate {usage.rate})"
    return (
        f"[{usage.context_tokens:,} tokens in {chunks} as {usage.soft_tokens:,} soft tokens{rate}"
        f"{raw}{left_out} ({usage.compression:g}x); {seconds}]"
    )
