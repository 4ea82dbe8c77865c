"""The reader of each suffix, and the choice of one by a file's first bytes and its name.

A reader takes the bytes of a file and its name for errors, and yields pairs of place and text. The texts
follow each other as they are; a place is such as `page 12`, or empty where the line is the place.
"""

from collections.abc import Callable, Iterable
from pathlib import PurePath

from e2llm.documents.document import Document, Part, join_parts
from e2llm.documents.faults import MAX_BYTES, check_archive, check_size
from e2llm.documents.markup import read_epub, read_html
from e2llm.documents.office import read_docx, read_pdf, read_pptx, read_rtf, read_xlsx
from e2llm.documents.records import (
    read_csv,
    read_email,
    read_mailbox,
    read_notebook,
    read_plain,
    read_subtitles,
)
from e2llm.errors import E2LLMError

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
_BINARY = frozenset({".pdf", ".docx", ".pptx", ".xlsx", ".xlsm", ".epub", ".rtf"})
_MEMBERS = (
    ("word/document.xml", ".docx"),
    ("ppt/presentation.xml", ".pptx"),
    ("xl/workbook.xml", ".xlsx"),
    ("META-INF/container.xml", ".epub"),
)
_OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_LOCKED_OFFICE = "EncryptedPackage".encode("utf-16-le")
_NO_TEXT = (
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"GIF89a", "a picture (GIF)"),
    (b"\x1f\x8b", "an archive (gzip)"),
    (b"\xfd7zXZ", "an archive (xz)"),
    (b"7z\xbc\xaf", "an archive (7z)"),
    (b"Rar!\x1a", "an archive (RAR)"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\0", "a database (SQLite)"),
)


def read_bytes(data: bytes, name: str, limit: int = MAX_BYTES) -> Document:
    """Read the bytes of a file as text with places.

    Args:
        data: All bytes of the file.
        name: Its name, whose suffix names the reader unless the first bytes contradict it.
        limit: Most bytes, of the file and of what is packed in it.

    Raises:
        MissingExtraError: If the format needs the extra `documents`, which is not installed.
        E2LLMError: If the file is empty, binary, damaged, encrypted or too large, or holds no text.
    """
    check_size(len(data), name, limit)
    if not data.strip():
        raise E2LLMError(f"{name}: the file is empty; there is nothing to read")
    text, places = join_parts(_reader_of(data, name, limit)(data, name))
    if not text.strip():
        raise E2LLMError(f"{name}: the file is empty; there is no text to read in it")
    return Document(name, text, places=places)


def is_packed(data: bytes) -> bool:
    """Whether the first bytes of a file are those of a format that is read though it is not plain text."""
    return data.startswith((b"PK\x03\x04", b"{\\rtf")) or data.lstrip().startswith(b"%PDF-")


def suffix_of(name: str) -> str:
    """Return the suffix of a name, in lower case."""
    return PurePath(name).suffix.lower()


def is_own(suffix: str) -> bool:
    """Whether a suffix has the reader of this package, or no reader."""
    return READERS.get(suffix) is _OWN.get(suffix)


def _reader_of(data: bytes, name: str, limit: int) -> Reader:
    """The reader by the first bytes where they say enough, else by the suffix."""
    suffix = suffix_of(name)
    if not is_own(suffix):
        return READERS[suffix]
    if found := _format_of(data, name, limit):
        return READERS[found]
    if suffix in _BINARY or suffix in (".doc", ".xls"):  # its bytes are those of a text: often a web page
        start = data[:1024].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
        return read_html if start.startswith((b"<!doctype", b"<html")) else read_plain
    return READERS.get(suffix, read_plain)


def _format_of(data: bytes, name: str, limit: int) -> str | None:
    """The suffix of the format that the first bytes show; None for text.

    Raises:
        E2LLMError: If the format is one that is not read.
    """
    if data.startswith(b"{\\rtf"):
        return ".rtf"
    start = data[:1024]
    if start.lstrip().startswith(b"%PDF-") or (suffix_of(name) == ".pdf" and b"%PDF-" in start):
        return ".pdf"
    if data.startswith(b"PK\x03\x04"):
        members = set(check_archive(data, name, limit))
        found = next((suffix for member, suffix in _MEMBERS if member in members), None)
        if found is None:
            raise E2LLMError(f"{name}: is a ZIP archive; unpack it and name the files")
        return found
    if data.startswith(_OLD_OFFICE):
        if _LOCKED_OFFICE in data:
            raise E2LLMError(f"{name}: the file is encrypted; save it without a password")
        raise E2LLMError(f"{name}: is an old Office file; save it as .docx, .xlsx or .pptx")
    for mark, kind in _NO_TEXT:
        if data.startswith(mark):
            raise E2LLMError(f"{name}: is {kind}, a binary file without text; name a file with text")
    return None
