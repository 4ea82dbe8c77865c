"""`e2llm read`: read files once, and save the context or fill a store."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2llm.cli.opening import check_inputs, facts_of, iter_sources, load_engine, read_documents
from e2llm.cli.options import AsJson, ChunkSize, Device, FinestRate, Model, Store
from e2llm.cli.printing import echo, print_json
from e2llm.messages import counted

if TYPE_CHECKING:
    from e2llm.documents import LeftOut
    from e2llm.inference.context import Context


def read(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files or folders; '-' reads stdin.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the context here, such as book.e2llm.")
    ] = None,
    model: Model = "smol",
    chunk_size: ChunkSize = None,
    finest_rate: FinestRate = None,
    store: Store = None,
    device: Device = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Fill the store with N Ray workers; 0: one per GPU, or per 4 cores."),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Ray cluster for --workers: host:port, or auto; by default this machine."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read files once to ask later: save a context (-o), fill a store (--store), or both.

    Examples:
        e2llm read examples/anne_of_green_gables.txt -o anne.e2llm

        e2llm ask anne.e2llm "Who is Anne's best friend?"

        e2llm read library/ --store library.store --workers 8
    """
    if output is None and store is None:
        raise typer.BadParameter("no place for the result; give -o FILE, --store DIR, or both")
    if output is not None and output.is_dir():
        raise typer.BadParameter(f"{output} is a folder; name a file such as {output / 'book.e2llm'}")
    check_inputs(files, model)
    refuse_other_file(output)
    left_out: list[LeftOut] = []
    if workers is not None:
        check_ray_options(store, device, finest_rate)
        facts, line = read_on_ray(
            files, output, model, str(store), workers, ray_address, device, chunk_size, left_out
        )
    elif ray_address is not None:
        raise typer.BadParameter("--ray-address needs --workers; add --workers N (0: chosen for you)")
    else:
        documents = read_documents(files, left_out)
        engine = load_engine(model, device, store, finest_rate, needs_store=True)
        context = engine.read(documents, chunk_size_chars=chunk_size)
        if output is not None:
            context.save(output)
        facts, line = describe(context)
    size = None if output is None else output.stat().st_size
    if as_json:
        facts |= {"saved_to": None if output is None else str(output), "bytes": size} | facts_of(left_out)
        print_json(facts)
    else:
        echo(line if size is None else f"{line}; saved to {output} ({size / 1e6:,.1f} MB)")


def describe(context: "Context") -> tuple[dict[str, Any], str]:
    """Return the counts of a reading as a dictionary, and as a line of text."""
    facts = {
        "documents": len(context.documents),
        "chunks": len(context),
        "chunks_encoded": context.content.num_encoded,
        "unknown_fraction": context.content.unknown_fraction,
        "context_tokens": context.num_tokens,
        "read_seconds": context.read_seconds,
    }
    line = (
        f"read {counted(len(context.documents), 'document')}, {counted(context.num_tokens, 'token')} in "
        f"{counted(len(context), 'chunk')} ({context.content.num_encoded:,} encoded now) in "
        f"{context.read_seconds:.1f} s"
    )
    return facts, line


def check_ray_options(store: str | None, device: str | None, finest_rate: int | None) -> None:
    """Refuse options that do not work with `--workers`."""
    if store is None:
        raise typer.BadParameter("--workers needs a store to fill; add --store DIR")
    if device not in (None, "cpu", "cuda"):
        raise typer.BadParameter(
            f"--device {device} does not work with --workers; use cpu, or cuda for one GPU per worker"
        )
    if finest_rate is not None:
        raise typer.BadParameter("--finest-rate does not work with --workers; leave it out")


def read_on_ray(
    files: list[str],
    output: Path | None,
    model: str,
    store: str,
    workers: int,
    ray_address: str | None,
    device: str | None,
    chunk_size: int | None,
    left_out: "list[LeftOut]",
) -> tuple[dict[str, Any], str]:
    """Fill a store with many workers, save a context if `output` is given, and return counts and a line."""
    from e2llm.scale.corpus_reading import read_corpus
    from e2llm.store.chunk_store import ChunkStore

    documents = None if output is None else read_documents(files, left_out)
    with ChunkStore(store) as kept:
        report = read_corpus(
            iter_sources(files, left_out) if documents is None else documents,
            model,
            kept,
            num_workers=workers or None,
            address=ray_address,
            device=device,
            chunk_size_chars=chunk_size,
        )
    if output is not None and documents is not None:
        load_engine(model, device, store).read(documents, chunk_size_chars=chunk_size).save(output)
    line = (
        f"read {counted(report.documents, 'document')}, {counted(report.chunks, 'chunk')}, "
        f"{report.distinct_chunks:,} different ({report.already_there:,} were there, {report.read:,} read by "
        f"{counted(report.workers, 'worker')}), in {report.seconds:.1f} s"
    )
    return dataclasses.asdict(report), line


def refuse_other_file(file: Path | None) -> None:
    """Refuse to overwrite a file that is not a saved context, such as the text itself."""
    from e2llm.inference.context_file import is_context_file

    if file is not None and file.is_file() and file.stat().st_size and not is_context_file(file):
        raise typer.BadParameter(f"{file} exists and is not a saved context; choose another file")
