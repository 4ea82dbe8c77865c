"""Documents: the files and folders that a user asks about, read as text with errors that name them."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import BinaryIO

from e2llm.data.source_files import TEXT_SUFFIXES, read_text, text_files
from e2llm.errors import E2LLMError


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


def load_documents(paths: Sequence[str | PathLike[str]]) -> list[Document]:
    """Read files, and all `.txt` and `.md` files of folders, in the order of their names.

    Raises:
        FileNotFoundError: If a path is empty or does not exist.
        E2LLMError: If a file is empty, binary or not UTF-8, or a folder holds no text file.
    """
    documents = []
    for item in paths:
        if not fspath(item):  # Path("") is the current folder
            raise FileNotFoundError("the name of a file or folder is empty")
        path = Path(fspath(item))
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        for file in _text_files(path) if path.is_dir() else [path]:
            text = read_text(file)
            if not text.strip():
                raise E2LLMError(f"{file}: the file is empty; there is nothing to read")
            documents.append(Document(str(file), text))
    return documents


def read_stream(stream: BinaryIO, name: str) -> Document:
    """Read a stream of bytes to its end, by the rules of files.

    Raises:
        E2LLMError: If there is no text, or it is not UTF-8.
    """
    data = stream.read()
    if b"\0" in data:
        raise E2LLMError(f"{name}: holds zero bytes, so it is binary or UTF-16; give UTF-8 text")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise E2LLMError(f"{name}: byte {error.start} is not valid UTF-8; give UTF-8 text") from error
    if not text.strip():
        raise E2LLMError(f"{name} is empty; there is nothing to read")
    return Document(name, text.replace("\r\n", "\n").replace("\r", "\n"))


def _text_files(folder: Path) -> list[Path]:
    files = text_files(folder)
    if not files:
        raise E2LLMError(
            f"{folder}: the folder holds no {' or '.join(TEXT_SUFFIXES)} file; name files instead"
        )
    return files
