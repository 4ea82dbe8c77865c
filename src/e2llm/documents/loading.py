"""Paths, texts and streams become documents, with errors that name them."""

import re
import warnings
from collections.abc import Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import BinaryIO

from e2llm.documents.document import Document, named_apart
from e2llm.documents.faults import LeftOut, max_bytes, summarize_left_out
from e2llm.documents.folders import CODE_SUFFIXES, is_code, list_folder
from e2llm.documents.readers import READERS, left_out_by, read_documents, suffix_of
from e2llm.errors import E2LLMError, E2LLMWarning, MissingExtraError
from e2llm.file_bytes import open_file, special_file
from e2llm.surrogates import check_text

_MAX_HEADING_CHARS = 120
_MAX_PATH_CHARS = 260
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)(\S+)")
_PATH_START = re.compile(r"\.{0,2}/|~/|[A-Za-z]:[\\/]|\\\\")
_OTHER_SUFFIXES = frozenset({".doc", ".xls", ".ppt", ".odt", ".log", ".xml", ".yaml", ".yml", ".e2llm"})

Readable = str | PathLike[str] | Document


def documents_of(source: Readable | Sequence[Readable], num_before: int = 0) -> list[Document]:
    """The documents of a text (`str`), a path, a document, or several of them.

    A `str` of one line that names a file or folder is a path. Several texts are named `text 1`, `text 2`,
    ..., and documents of equal names get a number.

    Args:
        source: The text, path or document, or several.
        num_before: Number of documents that these follow.

    Raises:
        FileNotFoundError: If a path, or a `str` that looks like one, does not exist.
        E2LLMError: If it is something else, a file cannot be read, or a text has NUL or a lone surrogate.
    """
    if source is None or isinstance(source, bytes | int | float):
        raise E2LLMError(f"read takes texts, paths and Documents, got {type(source).__name__}")
    items = [source] if isinstance(source, str | PathLike | Document) else list(source)
    documents: list[Document] = []
    for item in items:
        if isinstance(item, Document):
            documents.append(item)
        elif (path := path_of(item) if isinstance(item, str) else item) is not None:
            documents += load_documents([path])
        else:
            number = num_before + len(documents) + 1
            documents.append(Document("text" if number == len(items) == 1 else f"text {number}", str(item)))
    for document in documents:
        check_text(document.text, document.name)
    return named_apart(documents)


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
    if ("://" in text and _ADDRESS.fullmatch(text)) or sum(signs) > 1:
        raise FileNotFoundError(f"{missing_path(text)}; Engine.read_text takes a text literally")
    return None


def missing_path(path: str) -> str:
    """Return what is wrong with a path that does not exist."""
    if address := _ADDRESS.fullmatch(path):  # a `Path` has one slash less
        whole = f"{address[1]}://{address[3]}"
        return f"no such file or folder: {whole} (addresses are not fetched: save the page as a file)"
    return f"no such file or folder: {path}"


def load_documents(paths: Sequence[str | PathLike[str]]) -> list[Document]:
    """Read files, and all files with text of folders, in the order of their paths.

    Source code is split at its definitions, and each of its chunks is headed by its path, as are the other
    files of a folder that holds source code. `list_folder` says what a folder leaves out. Attachments of
    e-mail are further documents.

    Raises:
        FileNotFoundError: If a path is empty or does not exist.
        E2LLMError: If a file cannot be read, or a folder holds no file with text.
        MissingExtraError: If a file needs the extra `documents`, which is not installed.
    """
    return list(iter_documents(paths))


def existing_path(item: str | PathLike[str]) -> Path:
    """Return the path of a file or folder.

    Raises:
        FileNotFoundError: If it is empty or does not exist.
        E2LLMError: If it is a device, a pipe or a socket.
    """
    if not fspath(item):  # Path("") is the current folder
        raise FileNotFoundError("the name of a file or folder is empty")
    path = Path(fspath(item))
    if not path.exists():
        raise FileNotFoundError(missing_path(fspath(item)))
    if special := special_file(path):
        raise E2LLMError(f"{path}: is {special}; name a file, or - for standard input")
    return path


def iter_documents(
    paths: Sequence[str | PathLike[str]], left_out: list[LeftOut] | None = None
) -> Iterator[Document]:
    """What `load_documents` reads, one file at a time in memory.

    Args:
        paths: Files and folders.
        left_out: Takes what was not read of folders and messages; without it, a warning names what has text.
    """
    for path in map(existing_path, paths):
        found: list[LeftOut] = [] if left_out is None else left_out
        yield from _iter_folder(path, found) if path.is_dir() else read_file(path, found)
        if left_out is None and (lost := [item for item in found if item.is_loss]):
            warnings.warn(f"left out of {path}: {summarize_left_out(lost)}", E2LLMWarning, stacklevel=2)


def read_file(path: Path, left_out: list[LeftOut]) -> list[Document]:
    """Read a file and, of a message, the attachments.

    Raises:
        E2LLMError: If it cannot be read.
        MissingExtraError: If its format needs the extra `documents`, which is not installed.
    """
    documents = _read(path, left_out)
    return [_with_heading(path, path.name, item) for item in documents] if is_code(path) else documents


def _read(path: Path, left_out: list[LeftOut]) -> list[Document]:
    with open_file(path) as stream:
        return read_stream(stream, str(path), left_out)


def read_stream(stream: BinaryIO, name: str, left_out: list[LeftOut]) -> list[Document]:
    """Read a stream of bytes to its end, by the rules of files; the first document is the stream's text.

    Args:
        stream: The stream; at most one byte more than the limit is read.
        name: Its name.
        left_out: Takes the attachments of a message that cannot be read.

    Raises:
        E2LLMError: If it cannot be read, or has no text.
        MissingExtraError: If its format needs the extra `documents`, which is not installed.
    """
    limit = max_bytes()
    data = stream.read(limit + 1)
    if data is None:
        raise E2LLMError(f"{name}: reading it would wait for data that may never come; name another file")
    return read_documents(data, name, left_out, limit)


def _iter_folder(folder: Path, left_out: list[LeftOut]) -> Iterator[Document]:
    """The documents of a folder; files that cannot be read are left out."""
    listing = list_folder(folder)
    has_code = any(is_code(file) for file in listing.files)
    count, last_error = 0, None
    for file in listing.files:
        try:
            documents = _read(file, listing.left_out)
        except (E2LLMError, MissingExtraError, OSError) as error:
            listing.left_out.append(left_out_by(error, str(file)))
            last_error = error
            continue
        count += 1
        name = file.relative_to(folder).as_posix()
        yield from (_with_heading(file, name, item) for item in documents) if has_code else documents
    left_out += listing.left_out
    if not count:
        raise E2LLMError(
            f"{folder}: the folder contains no text to read (left out: "
            f"{summarize_left_out(listing.left_out) or 'nothing'}); name files instead"
        ) from last_error


def _with_heading(file: Path, name: str, document: Document) -> Document:
    """A file of source code, or one beside such: each chunk says where it comes from."""
    name = "".join(mark if mark.isprintable() else "?" for mark in name)  # also what is no UTF-8
    if len(name) > _MAX_HEADING_CHARS:
        name = "..." + name[-_MAX_HEADING_CHARS:]
    kind = "code" if is_code(file) else None
    return Document(document.name, document.text, kind, f"# File: {name}\n", document.places)
