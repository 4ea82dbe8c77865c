"""Documents: the files and folders that a user asks about, read as text with errors that name them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from os import PathLike, fspath
from pathlib import Path
from typing import BinaryIO

from e2llm.chunk_breaks import SENTENCE_END
from e2llm.data.source_files import decode_text, read_text
from e2llm.errors import E2LLMError
from e2llm.inference.folders import is_code, list_folder

_MAX_HEADING_CHARS = 120


@dataclass(frozen=True, slots=True)
class Document:
    """A text with the name under which its chunks are listed.

    Attributes:
        name: Such as a path.
        text: The text.
        kind: How it is split, `prose` or `code`; None for the processor's own way.
        heading: Text put before each chunk where it is read or given raw, such as the path of a source file;
            not part of the chunk's span.
    """

    name: str
    text: str
    kind: str | None = None
    heading: str = ""


def documents_of(
    source: str | PathLike[str] | Document | Sequence[PathLike[str] | Document],
) -> list[Document]:
    """The texts, with their names, of a text (`str`), a path, a document, or several paths and documents.

    Raises:
        FileNotFoundError: If a path does not exist.
        E2LLMError: If it is none of these, or a file cannot be read as text.
    """
    if source is None or isinstance(source, bytes | int | float):
        raise E2LLMError(f"read takes texts, paths and Documents, got {type(source).__name__}")
    items = [source] if isinstance(source, str | PathLike | Document) else list(source)
    documents = []
    for item in items:
        if isinstance(item, str):
            documents.append(Document("text", item))
        elif isinstance(item, Document):
            documents.append(item)
        else:
            documents += load_documents([Path(item)])
    return documents


def load_documents(paths: Sequence[str | PathLike[str]]) -> list[Document]:
    """Read files, and all text files of folders, in the order of their paths.

    Source code is split at its definitions, and each of its chunks is headed by its path, as are the other
    files of a folder that holds source code. What a folder leaves out is told by
    `e2llm.inference.folders.list_folder`.

    Raises:
        FileNotFoundError: If a path is empty or does not exist.
        E2LLMError: If a file is empty, binary or not UTF-8, or a folder holds no text file.
    """
    return list(iter_documents(paths))


def iter_documents(paths: Sequence[str | PathLike[str]]) -> Iterator[Document]:
    """What `load_documents` reads, one document at a time in memory."""
    for item in paths:
        if not fspath(item):  # Path("") is the current folder
            raise FileNotFoundError("the name of a file or folder is empty")
        path = Path(fspath(item))
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        if path.is_dir():
            yield from _iter_folder(path)
            continue
        text = read_text(path)
        if not text.strip():
            raise E2LLMError(f"{path}: the file is empty; there is nothing to read")
        yield _document(path, path.name, text) if is_code(path) else Document(str(path), text)


def _iter_folder(folder: Path) -> Iterator[Document]:
    listing = list_folder(folder)
    if not listing.files:
        raise E2LLMError(f"{folder}: the folder holds no text to read: {listing}; name files instead")
    has_code = any(is_code(file) for file in listing.files)
    for file in listing.files:
        name = file.relative_to(folder).as_posix()
        text = read_text(file)
        yield _document(file, name, text) if has_code else Document(str(file), text)


def _document(file: Path, name: str, text: str) -> Document:
    """A file of source code, or one beside such: each chunk says where it comes from."""
    name = "".join(mark if mark.isprintable() else "?" for mark in name)  # also what is no UTF-8
    if len(name) > _MAX_HEADING_CHARS:
        name = "..." + name[-_MAX_HEADING_CHARS:]
    return Document(str(file), text, "code" if is_code(file) else None, f"# File: {name}\n")


def read_stream(stream: BinaryIO, name: str) -> Document:
    """Read a stream of bytes to its end, by the rules of files.

    Raises:
        E2LLMError: If there is no text, or it is not UTF-8.
    """
    text = decode_text(stream.read(), name)
    if not text.strip():
        raise E2LLMError(f"{name} is empty; there is nothing to read")
    return Document(name, text)


@dataclass(frozen=True)
class Insertion:
    """Documents with a sentence put into one of them.

    Attributes:
        documents: All of them.
        name: The document that holds it now.
        start: Its first character there.
    """

    documents: list[Document]
    name: str
    start: int


def insert_sentence(documents: Sequence[Document], sentence: str, depth: float = 0.5) -> Insertion:
    """Put a sentence behind the sentence end nearest to a depth.

    Args:
        documents: At least one with text.
        sentence: Any text.
        depth: 0 (before all text) to 1 (behind it), counted in characters over all documents.

    Raises:
        E2LLMError: If the sentence is empty, or the depth out of range.
    """
    if not sentence.strip():
        raise E2LLMError("the sentence to insert is empty")
    if not 0 <= depth <= 1:
        raise E2LLMError(f"the depth must be from 0 to 1, got {depth:g}")
    ends = list(accumulate(len(item.text) for item in documents))
    if not ends or not ends[-1]:
        raise E2LLMError("there is no text to insert a sentence into")
    wanted = round(depth * ends[-1])
    index = next(number for number, end in enumerate(ends) if wanted <= end and documents[number].text)
    text = documents[index].text
    within = wanted - (ends[index] - len(text))
    places = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    place = min(places, key=lambda item: abs(item - within))
    before = "" if place == 0 or text[place - 1].isspace() else " "
    after = "" if text[place : place + 1].isspace() or place == len(text) else " "
    new = f"{before}{sentence.strip()}{after}"
    result = list(documents)
    result[index] = replace(result[index], text=text[:place] + new + text[place:])
    return Insertion(result, documents[index].name, place + len(before))
