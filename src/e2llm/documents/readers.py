"""The reader of each suffix, and the choice of one by a file's first bytes and its name.

A reader takes the bytes of a file and its name for errors, and yields pairs of place and text. The texts
follow each other as they are; a place is such as `page 12`, or empty where the line is the place.
"""

import warnings
from collections.abc import Callable, Iterable
from pathlib import PurePath

from e2llm.documents.document import Document, Part, join_parts, named_apart
from e2llm.documents.faults import LeftOut, check_archive, check_size, max_bytes
from e2llm.documents.mail import attachments_of, read_email, read_mailbox
from e2llm.documents.markup import read_epub, read_html
from e2llm.documents.office import read_docx, read_pdf, read_pptx, read_rtf, read_xlsx
from e2llm.documents.records import (
    read_csv,
    read_notebook,
    read_plain,
    read_subtitles,
)
from e2llm.errors import E2LLMError, E2LLMWarning, MissingExtraError
from e2llm.file_bytes import NoTextError, kind_of

Reader = Callable[[bytes, str], Iterable[Part]]

READERS: dict[str, Reader] = {
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".pptx": read_pptx,
    ".xlsx": read_xlsx,
    ".xlsm": read_xlsx,
    ".epub": read_epub,
    ".rtf": read_rtf,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".srt": read_subtitles,
    ".vtt": read_subtitles,
    ".eml": read_email,
    ".mbox": read_mailbox,
    ".ipynb": read_notebook,
    ".csv": read_csv,
    ".tsv": read_plain,
    ".json": read_plain,
    ".jsonl": read_plain,
    ".md": read_plain,
    ".txt": read_plain,
}
_OWN = dict(READERS)
_PACKED = {
    ".pdf": "a PDF file",
    ".docx": "a Word file",
    ".pptx": "a PowerPoint file",
    ".xlsx": "an Excel file",
    ".xlsm": "an Excel file",
    ".epub": "an EPUB book",
    ".rtf": "an RTF file",
}
# Of these the first bytes say which text format it is; of others, such as program text, the suffix does.
_SAYS_LITTLE = _PACKED.keys() | {"", ".txt", ".doc", ".xls", ".ppt"}
_MAX_DEPTH = 3  # of messages in messages


def read_bytes(data: bytes, name: str, limit: int | None = None) -> Document:
    """Read the bytes of a file as text with places.

    Args:
        data: All bytes of the file.
        name: Its name, whose suffix names the reader unless the first bytes contradict it.
        limit: Most bytes, of the file and of what is packed in it; by default `E2LLM_MAX_BYTES`, or 1 GB.

    Raises:
        MissingExtraError: If the format needs the extra `documents`, which is not installed.
        E2LLMError: If the file is empty, binary, damaged, encrypted or too large, or holds no text.
    """
    return _read(data, name, max_bytes() if limit is None else limit)[0]


def read_documents(
    data: bytes, name: str, left_out: list[LeftOut], limit: int | None = None
) -> list[Document]:
    """Read the bytes of a file as `read_bytes` does, and the attachments of messages as further documents.

    Args:
        data: All bytes of the file.
        name: Its name.
        left_out: Takes the attachments that cannot be read.
        limit: As for `read_bytes`.
    """
    return named_apart(_with_attachments(data, name, left_out, max_bytes() if limit is None else limit))


def _with_attachments(
    data: bytes, name: str, left_out: list[LeftOut], limit: int, depth: int = 0
) -> list[Document]:
    document, reader = _read(data, name, limit)
    documents = [document]
    if reader in (read_email, read_mailbox):
        for attachment, content in attachments_of(data, name, is_mailbox=reader is read_mailbox):
            try:
                if depth == _MAX_DEPTH:
                    raise E2LLMError(f"is a message within {depth} others; save it as a file")
                documents += _with_attachments(content, attachment, left_out, limit, depth + 1)
            except (E2LLMError, MissingExtraError) as error:
                left_out.append(left_out_by(error, attachment))
    return documents


def left_out_by(error: Exception, name: str) -> LeftOut:
    """Return a file that an error kept from being read."""
    reason = str(error).removeprefix(f"{name}: ")
    return LeftOut(name, error.reason if isinstance(error, NoTextError) else reason)


def suffix_of(name: str) -> str:
    """Return the suffix of a name, in lower case."""
    return PurePath(name).suffix.lower()


def is_own(suffix: str) -> bool:
    """Whether a suffix has the reader of this package, or no reader."""
    return READERS.get(suffix) is _OWN.get(suffix)


def _read(data: bytes, name: str, limit: int) -> tuple[Document, Reader]:
    check_size(len(data), name, limit)
    if not data.strip():
        raise NoTextError(f"{name}: the file is empty; there is nothing to read", "empty")
    reader = _reader_of(data, name, limit)
    text, places = join_parts(reader(data, name))
    if not text.strip():
        raise NoTextError(f"{name}: the file is empty; there is no text to read in it", "empty")
    return Document(name, text, places=places), reader


def _reader_of(data: bytes, name: str, limit: int) -> Reader:
    """The reader by the first bytes where they say enough, else by the suffix.

    Raises:
        E2LLMError: If the format is one that is not read.
    """
    suffix = suffix_of(name)
    if not is_own(suffix):
        return READERS[suffix]
    if data.startswith(b"PK\x03\x04"):
        check_archive(data, name, limit)
    kind = kind_of(data)
    if suffix == ".pdf" and b"%PDF-" in data[:1024]:
        return read_pdf  # behind other bytes, as some servers send it
    if kind is not None and kind.advice:
        message = f"{name}: is {kind.name}; {kind.advice}"
        raise NoTextError(message) if kind.is_binary else E2LLMError(message)
    if kind is not None and (kind.suffix in _PACKED or suffix in _SAYS_LITTLE):
        reader = READERS[kind.suffix]
    else:
        reader = READERS.get("" if suffix in _PACKED else suffix, read_plain)
    if suffix in _PACKED and (kind is None or kind.suffix not in _PACKED):
        text = "text" if kind is None else kind.name
        warnings.warn(f"{name}: is {text}, not {_PACKED[suffix]}; it is read as such", E2LLMWarning, 2)
    return reader
