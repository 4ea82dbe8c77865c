"""Open texts, saved contexts and an engine for commands."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from e2llm.cli.printing import echo
from e2llm.errors import E2LLMError

if TYPE_CHECKING:
    from e2llm.documents import Document, LeftOut
    from e2llm.inference.context import Context
    from e2llm.inference.engine import Engine


def check_inputs(paths: list[str], model: str) -> None:
    """Raise if a path or the model cannot be read, before the libraries that take seconds to load.

    Raises:
        FileNotFoundError: Names the path, or the model and similar ones.
        E2LLMError: As `existing_path` and `check_model_name` do.
    """
    from e2llm.documents import existing_path
    from e2llm.model_names import check_model_name

    for path in paths:
        if path != "-":
            existing_path(path)
    check_model_name(model)


def read_source(paths: list[str], left_out: "list[LeftOut] | None" = None) -> "list[Document] | Path":
    """Read the documents at the paths, or return the path of a single saved context (even if damaged).

    What is left out of folders and messages is printed, and added to `left_out`.
    """
    from e2llm.inference.context_file import is_tensor_file

    if len(paths) == 1 and paths[0] != "-" and is_tensor_file(Path(paths[0])):
        return Path(paths[0])
    return read_documents(paths, left_out)


def open_context(engine: "Engine", source: "list[Document] | Path") -> "Context":
    """Read documents into a context, or load a saved context and set the engine to its finest rate."""
    from e2llm.inference.context import Context

    if isinstance(source, Path):
        keep_as_saved(engine, source)
        return Context.load(source, engine)
    return engine.read(source)


def keep_as_saved(engine: "Engine", file: Path) -> None:
    """Set the finest rate of an engine to that of a saved context, so that it can be loaded."""
    from e2llm.inference.context_file import saved_finest_rate

    if (rate := saved_finest_rate(file)) is not None:
        with suppress(E2LLMError):  # the model has no rate: loading the context then raises the clearer error
            engine.model.set_finest_rate(rate)


def read_documents(paths: list[str], left_out: "list[LeftOut] | None" = None) -> "list[Document]":
    """Read files and folders; `-` is standard input. Options are those of `iter_sources`."""
    return list(iter_sources(paths, left_out))


def iter_sources(paths: list[str], left_out: "list[LeftOut] | None" = None) -> "Iterator[Document]":
    """Yield the documents of files and folders as they are read; `-` is standard input.

    Args:
        paths: The files and folders.
        left_out: Takes what is left out of folders and messages, which is printed too.

    Raises:
        E2LLMError: If a file is a saved context, which is not a text.
    """
    from e2llm.documents import iter_documents, read_stream, summarize_left_out
    from e2llm.inference.context_file import is_context_file

    for path in paths:
        found: list[LeftOut] = []
        if path == "-":
            yield from read_stream(sys.stdin.buffer, "standard input", found)
        elif is_context_file(Path(path)):
            raise E2LLMError(f"{path} is a saved context; give it as the only file, or give texts instead")
        else:
            yield from iter_documents([path], found)
        if found:
            echo(f"[left out of {path}: {summarize_left_out(found)}]", err=True)
        if left_out is not None:
            left_out += found


def facts_of(left_out: "list[LeftOut]") -> dict[str, list[dict[str, str]]]:
    """Return what was left out for the output of a command as JSON."""
    return {"left_out_files": [item._asdict() for item in left_out]}


def load_engine(
    model: str,
    device: str | None,
    store: str | None = None,
    finest_rate: int | None = None,
    needs_store: bool = False,
) -> "Engine":
    """Load an engine, with a store if its folder is given; `needs_store` if filling it is the aim."""
    from e2llm.inference.engine import Engine
    from e2llm.store.chunk_store import ChunkStore

    kept = None if store is None else ChunkStore(store, is_required=needs_store)
    return Engine.from_pretrained(model, device=device, store=kept, finest_rate=finest_rate)
