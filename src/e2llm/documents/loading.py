"""Paths, texts and streams become documents, with errors that name them."""

import re
import warnings
from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import BinaryIO

from e2llm.documents.document import Document
from e2llm.documents.faults import MAX_BYTES, check_size
from e2llm.documents.folders import CODE_SUFFIXES, is_code, list_folder
from e2llm.documents.readers import READERS, read_bytes, suffix_of
from e2llm.errors import E2LLMError, E2LLMWarning, MissingExtraError

_MAX_HEADING_CHARS = 120
_MAX_PATH_CHARS = 260
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://\S+")
_PATH_START = re.compile(r"\.{0,2}/|~/|[A-Za-z]:[\\/]|\\\\")
_OTHER_SUFFIXES = frozenset({".doc", ".xls", ".ppt", ".odt", ".log", ".xml", ".yaml", ".yml", ".e2llm"})

Readable = str | PathLike[str] | Document


def documents_of(source: Readable | Sequence[Readable]) -> list[Document]:
    """The documents of a text (`str`), a path, a document, or several of them.

    A `str` of one line that names a file or folder is a path.

    Raises:
        FileNotFoundError: If a path, or a `str` that looks like one, does not exist.
        E2LLMError: If it is something else, or a file cannot be read.
    """
    if source is None or isinstance(source, bytes | int | float):
        raise E2LLMError(f"read takes texts, paths and Documents, got {type(source).__name__}")
    items = [source] if isinstance(source, str | PathLike | Document) else list(source)
    documents = []
    for item in items:
        if isinstance(item, Document):
            documents.append(item)
        elif (path := path_of(item) if isinstance(item, str) else item) is not None:
            documents += load_documents([path])
        else:
            documents.append(Document("text", str(item)))
    return documents


def path_of(text: str) -> Path | None:
    """Return the path that a text names; None if it is any other text.

    Raises:
        FileNotFoundError: If it looks like a path or an address, and there is no such file.
    """
    if not text.strip() or len(text) > _MAX_PATH_CHARS or not text.isprintable():
        return None
    try:
        if (path := Path(text).expanduser()).exists():
            return path
    except (OSError, RuntimeError, ValueError):
        return None
    signs = (
        suffix_of(text) in READERS.keys() | CODE_SUFFIXES | _OTHER_SUFFIXES,
        len(text.split()) == 1,
        _PATH_START.match(text) is not None,
    )
    if _ADDRESS.fullmatch(text) or sum(signs) > 1:
        raise FileNotFoundError(f"{_missing(text)}; Engine.read_text takes a text literally")
    return None


def _missing(path: str) -> str:
    """What is wrong with a path that does not exist."""
    if _ADDRESS.fullmatch(path):
        return f"no such file or folder: {path} (addresses are not opened: save the page as a file)"
    return f"no such file or folder: {path}"


def load_documents(paths: Sequence[str | PathLike[str]]) -> list[Document]:
    """Read files, and all files with text of folders, in the order of their paths.

    Source code is split at its definitions, and each of its chunks is headed by its path, as are the other
    files of a folder that holds source code. `list_folder` says what a folder leaves out.

    Raises:
        FileNotFoundError: If a path is empty or does not exist.
        E2LLMError: If a file cannot be read, or a folder holds no file with text.
        MissingExtraError: If a file needs the extra `documents`, which is not installed.
    """
    return list(iter_documents(paths))


def existing_path(item: str | PathLike[str]) -> Path:
    """Return a path; raise `FileNotFoundError` if it is empty or does not exist."""
    if not fspath(item):  # Path("") is the current folder
        raise FileNotFoundError("the name of a file or folder is empty")
    path = Path(fspath(item))
    if not path.exists():
        raise FileNotFoundError(_missing(fspath(item)))
    return path


def iter_documents(paths: Sequence[str | PathLike[str]]) -> Iterator[Document]:
    """What `load_documents` reads, one document at a time in memory."""
    for path in map(existing_path, paths):
        yield from _iter_folder(path) if path.is_dir() else [read_file(path)]


def read_file(path: Path) -> Document:
    """Read a file.

    Raises:
        E2LLMError: If it is no regular file, or cannot be read.
        MissingExtraError: If its format needs the extra `documents`, which is not installed.
    """
    document = _read(path)
    return _with_heading(path, path.name, document) if is_code(path) else document


def _read(path: Path) -> Document:
    if not path.is_file():
        raise E2LLMError(f"{path}: is a device, a pipe or a socket; name a file, or - for standard input")
    with path.open("rb") as stream:
        data = _read_stream(stream, str(path))
    return read_bytes(data, str(path))


def _read_stream(stream: BinaryIO, name: str) -> bytes:
    """All bytes of a stream; not one more than the most that is read is kept."""
    data = stream.read(MAX_BYTES + 1)
    check_size(len(data), name, MAX_BYTES)
    return data


def read_stream(stream: BinaryIO, name: str) -> Document:
    """Read a stream of bytes to its end, by the rules of files.

    Raises:
        E2LLMError: If it cannot be read, or has no text.
        MissingExtraError: If its format needs the extra `documents`, which is not installed.
    """
    return read_bytes(_read_stream(stream, name), name)


def _iter_folder(folder: Path) -> Iterator[Document]:
    """The documents of a folder; those that cannot be read are left out with a warning."""
    listing = list_folder(folder)
    if not listing.files:
        raise E2LLMError(f"{folder}: the folder contains no text to read ({listing}); name files instead")
    has_code = any(is_code(file) for file in listing.files)
    last_error: Exception | None = None
    count = 0
    for file in listing.files:
        try:
            document = _read(file)
        except (E2LLMError, MissingExtraError) as error:
            warnings.warn(f"left out: {_named(error, file)}", E2LLMWarning, stacklevel=2)
            last_error = error
            continue
        count += 1
        yield _with_heading(file, file.relative_to(folder).as_posix(), document) if has_code else document
    if not count:
        raise E2LLMError(
            f"{folder}: the folder contains no text to read ({listing}, none readable); name files instead"
        ) from last_error


def _named(error: Exception, file: Path) -> str:
    return str(error) if str(file) in str(error) else f"{file}: {error}"


def _with_heading(file: Path, name: str, document: Document) -> Document:
    """A file of source code, or one beside such: each chunk says where it comes from."""
    name = "".join(mark if mark.isprintable() else "?" for mark in name)  # also what is no UTF-8
    if len(name) > _MAX_HEADING_CHARS:
        name = "..." + name[-_MAX_HEADING_CHARS:]
    kind = "code" if is_code(file) else None
    return Document(document.name, document.text, kind, f"# File: {name}\n", document.places)
