"""`e2llm store`: inspect, check and shrink a store of encoded chunks."""

import dataclasses
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from e2llm.cli.options import AsJson
from e2llm.cli.printing import echo, print_json
from e2llm.messages import counted

if TYPE_CHECKING:
    from e2llm.store.chunk_store import ChunkStore

app = typer.Typer(help="Inspect, check and shrink a store of encoded chunks.", no_args_is_help=True)

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS.update({"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40})

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The store's folder.")]


@app.command("info")
def show_info(folder: Folder, as_json: AsJson = False) -> None:
    """Show the number of chunks in a store, its size, and when it was used.

    Example:
        e2llm store info ~/.cache/e2llm
    """
    with open_store(folder) as store:
        facts = store.info()
    if as_json:
        print_json(dataclasses.asdict(facts))
        return
    echo(
        f"{counted(facts.num_entries, 'chunk')}, {facts.num_bytes / 1e6:,.1f} MB "
        f"({facts.file_bytes / 1e6:,.1f} MB on disk)"
    )
    if facts.last_used is not None:
        oldest, newest = (time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) for at in facts.last_used)
        echo(f"last used between {oldest} and {newest}")


@app.command()
def verify(
    folder: Folder,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove damaged chunks; they are encoded again when needed.")
    ] = False,
) -> None:
    """Check every chunk of a store; exit with 1 if a damaged chunk remains.

    Example:
        e2llm store verify ~/.cache/e2llm --repair
    """
    with open_store(folder) as store:
        report = store.verify(repair=repair)
    echo(
        f"{counted(report.num_checked, 'chunk')} checked, {report.num_corrupt:,} damaged, "
        f"{report.num_removed:,} removed"
    )
    if report.num_corrupt > report.num_removed:
        from e2llm.errors import E2LLMError

        damaged = counted(report.num_corrupt, "damaged chunk")
        raise E2LLMError(f"{folder} has {damaged}; remove damage with --repair")


@app.command()
def prune(
    folder: Folder,
    max_size: Annotated[
        str | None,
        typer.Option(help="Keep the last used chunks up to this size: 500MB, 2GB, 1.5GiB."),
    ] = None,
    older_than_days: Annotated[
        float | None, typer.Option(min=0, help="Remove chunks that have not been used for N days.")
    ] = None,
) -> None:
    """Remove chunks of a store and free their disk space.

    Example:
        e2llm store prune ~/.cache/e2llm --max-size 2GB
    """
    if max_size is None and older_than_days is None:
        raise typer.BadParameter("nothing to remove; give --max-size or --older-than-days")
    limit = None if max_size is None else parse_size(max_size)
    with open_store(folder) as store:
        removed = store.prune(max_bytes=limit, older_than_days=older_than_days)
        left = store.info()
    echo(
        f"removed {counted(removed, 'chunk')}; {left.num_entries:,} left, {left.num_bytes / 1e6:,.1f} MB "
        f"({left.file_bytes / 1e6:,.1f} MB on disk)"
    )


def open_store(folder: Path) -> "ChunkStore":
    """Open the store in a folder; raise `FileNotFoundError` if there is none."""
    from e2llm.store.chunk_store import ChunkStore
    from e2llm.store.database import FILE_NAME

    if not (folder / FILE_NAME).is_file():
        raise FileNotFoundError(f"no store in {folder}; create one with: e2llm read FILE --store {folder}")
    return ChunkStore(folder)


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `500MB`, `1.5GiB` or `1000`."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not match or match.group(2).lower() not in _UNITS:
        raise typer.BadParameter(f"{text!r} is not a size; write for example 500MB, 2GB or 1.5GiB")
    return int(float(match.group(1)) * _UNITS[match.group(2).lower()])
