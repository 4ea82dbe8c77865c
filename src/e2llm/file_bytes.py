"""What the first bytes of a file show, and the text of its bytes.

Files, folders, streams, uploads, records and data sets all look here before they decode anything.
"""

import codecs
import io
import os
import re
import unicodedata
import zipfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from e2llm.errors import E2LLMError


class NoTextError(E2LLMError):
    """A file without text: `reason` is `binary` or `empty`."""

    def __init__(self, message: str, reason: str = "binary") -> None:
        super().__init__(message)
        self.reason = reason


def special_file(path: Path) -> str:
    """Return what a path is that is neither a file nor a folder, such as `a pipe`; empty for any other."""
    if not path.exists() or path.is_file() or path.is_dir():
        return ""
    return "a pipe" if path.is_fifo() else "a socket" if path.is_socket() else "a device"


def open_file(path: Path) -> BinaryIO:
    """Open a file whose reads give None where they would wait, as they do for some files of /proc."""
    no_wait = getattr(os, "O_NONBLOCK", 0)
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | no_wait))


class Kind(NamedTuple):
    """A format that first bytes show.

    Attributes:
        name: Such as `a PDF file`.
        suffix: The suffix of the format that is read, such as `.pdf`; empty if it is not read.
        advice: What to do with a format that is not read.
        is_binary: Whether such a file has no text.
    """

    name: str
    suffix: str = ""
    advice: str = ""
    is_binary: bool = False

    @property
    def is_text(self) -> bool:
        """Whether the bytes are those of a text."""
        return self.suffix in (".html", ".json", ".txt", ".vtt")


_UNPACK = "unpack it and name the files"
_PDF, _RTF = Kind("a PDF file", ".pdf"), Kind("an RTF file", ".rtf")
_PAGE, _CUES = Kind("a web page", ".html"), Kind("WebVTT subtitles", ".vtt")
_JSON_ARRAY = Kind("a JSON array", ".json")
_ENCRYPTED_OFFICE = Kind("an encrypted Office file", "", "save it without a password")
_OLD_OFFICE = Kind("an old Office file", "", "save it as .docx, .xlsx or .pptx")
_OPEN_DOCUMENT = Kind("an OpenDocument file", "", "save it as .docx, .xlsx or .pptx")
_BINARY_EXCEL = Kind("a binary Excel file", "", "save it as .xlsx")
_ZIP = Kind("a ZIP archive", "", _UNPACK)
_POSTSCRIPT = Kind("a PostScript file", "", "convert it to PDF")
_UTF16 = Kind("UTF-16 text", ".txt")
_MEMBERS = (  # some programs number the main part
    (re.compile(r"word/document\d*\.xml"), Kind("a Word file", ".docx")),
    (re.compile(r"ppt/presentation\d*\.xml"), Kind("a PowerPoint file", ".pptx")),
    (re.compile(r"xl/workbook\.bin"), _BINARY_EXCEL),
    (re.compile(r"xl/workbook\d*\.xml"), Kind("an Excel file", ".xlsx")),
    (re.compile(r"META-INF/container\.xml"), Kind("an EPUB book", ".epub")),
)
_PICTURE = "a binary file without text; recognize its text (OCR) first"
_OTHER = "a binary file without text; name a file with text"
_STARTS = (
    (b"{\\rtf", _RTF),
    (b"%PDF-", _PDF),
    (b"%!PS", _POSTSCRIPT),
    (b"\x89PNG", Kind("a picture (PNG)", "", _PICTURE, True)),
    (b"\xff\xd8\xff", Kind("a picture (JPEG)", "", _PICTURE, True)),
    (b"GIF8", Kind("a picture (GIF)", "", _PICTURE, True)),
    (b"II*\0", Kind("a picture (TIFF)", "", _PICTURE, True)),
    (b"MM\0*", Kind("a picture (TIFF)", "", _PICTURE, True)),
    (b"\x1f\x8b", Kind("an archive (gzip)", "", _UNPACK)),
    (b"BZh91AY&SY", Kind("an archive (bzip2)", "", _UNPACK)),
    (b"\xfd7zXZ", Kind("an archive (xz)", "", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Kind("an archive (zstd)", "", _UNPACK)),
    (b"7z\xbc\xaf", Kind("an archive (7z)", "", _UNPACK)),
    (b"Rar!\x1a", Kind("an archive (RAR)", "", _UNPACK)),
    (b"PAR1", Kind("a table (Parquet)", "", "save its text as .csv or .jsonl")),
    (b"\x7fELF", Kind("a program", "", _OTHER, True)),
    (b"SQLite format 3\0", Kind("a database (SQLite)", "", _OTHER, True)),
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_PACKED = b"PK\x03\x04"
_START_BYTES = 1024
_WEB_PAGE = re.compile(rb"(?:<\?xml[^>]*>\s*|<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.I | re.S)
_ARRAY = re.compile(rb"\[\s*[\[{\"]")
_CUE_START = re.compile(rb"WEBVTT(?:\s|\Z)")


def kind_of(data: bytes) -> Kind | None:
    """Return the format that the bytes of a file show; None for any other text or binary file.

    The first bytes of a file are enough, but an Office file is then a ZIP archive.
    """
    start = data[:_START_BYTES].removeprefix(codecs.BOM_UTF8).lstrip()
    for mark, kind in _STARTS:
        if (start if mark.isascii() else data).startswith(mark):
            return kind
    if data.startswith(_PACKED):
        return _kind_of_archive(data)
    if data.startswith(_OLE):
        return _ENCRYPTED_OFFICE if "EncryptedPackage".encode("utf-16-le") in data else _OLD_OFFICE
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _UTF16
    for pattern, kind in ((_WEB_PAGE, _PAGE), (_CUE_START, _CUES), (_ARRAY, _JSON_ARRAY)):
        if pattern.match(start):
            return kind
    return None


def _kind_of_archive(data: bytes) -> Kind:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if "mimetype" in names:
                with archive.open("mimetype") as stream:
                    if stream.read(64).startswith(b"application/vnd.oasis"):
                        return _OPEN_DOCUMENT
    except Exception:  # on damage, zipfile raises exceptions of many kinds
        return _ZIP
    return next((kind for main, kind in _MEMBERS if any(map(main.fullmatch, names))), _ZIP)


# --- text ---------------------------------------------------------------------------------------------------

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LETTER = "[^\\W\\d_]"
_HIGH_LETTER = "(?:(?![\x00-\x7f])[^\\W\\d_])"
# What texts in Western European languages lack, and texts in other encodings are full of.
_NOT_WESTERN = re.compile(
    f"{_HIGH_LETTER}{{3}}|{_LETTER}[\u00a1-\u00b6\u00b8-\u00bf\u2020-\u203a\u20ac]{_LETTER}"
    "|[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\u0192\u02c6\u02dc]"
)
_CONTROL = frozenset(map(chr, range(32))) - set("\t\n\r\f\x1b")
_SAMPLE_CHARS = 20_000


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """Return the text of a file in an encoding; the default is UTF-8 with or without a byte-order mark.

    Raises:
        E2LLMError: If the file is binary or not in `encoding`, or the encoding is unknown.
    """
    return decode_text(path.read_bytes(), str(path), encoding)


def decode_text(data: bytes, name: str, encoding: str = "") -> str:
    """Decode bytes as text; line ends become `\\n`.

    Args:
        data: The bytes of a text.
        name: Its name in errors.
        encoding: The encoding; by default UTF-8, UTF-16, UTF-32 or Windows-1252, by a byte-order mark or by
            what gives text.

    Raises:
        E2LLMError: If the bytes are binary or not in `encoding`, or the encoding is not clear or unknown.
    """
    text = _decode_as(data, name, encoding) if encoding else _decode(data, name)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode_as(data: bytes, name: str, encoding: str) -> str:
    if b"\0" in data and "16" not in encoding and "32" not in encoding:
        raise NoTextError(f"{name}: contains zero bytes, so it is binary or UTF-16; save the file as UTF-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise E2LLMError(
            f"{name}: byte {error.start} is not valid {encoding.removesuffix('-sig')}; save the file as UTF-8"
        ) from error
    except LookupError as error:
        raise E2LLMError(
            f"unknown encoding {encoding!r}; use for example utf-8, latin-1 or cp1252"
        ) from error


def marked_encoding(data: bytes) -> str:
    """Return the encoding that a byte-order mark states; empty without one."""
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "")


def _decode(data: bytes, name: str) -> str:
    if encoding := marked_encoding(data):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            raise E2LLMError(
                f"{name}: begins as {encoding.removesuffix('-sig')} and is not valid throughout; save it "
                "again as UTF-8"
            ) from error
    if b"\0" in data:
        return _decode_utf16(data, name)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if (text := _western(data)) is not None:
            return text
        raise E2LLMError(
            f"{name}: byte {error.start} is not valid utf-8, and other encodings cannot be told for sure; "
            "save the file as UTF-8"
        ) from error


def _decode_utf16(data: bytes, name: str) -> str:
    """Decode UTF-16 without a mark, if just one order of its bytes gives text."""
    found = [text for order in ("utf-16-le", "utf-16-be") if (text := _plain_utf16(data, order)) is not None]
    if len(found) == 2:  # Latin text in the wrong order is ideographs
        found.sort(key=lambda text: sum(character < "\u0250" for character in text[:_SAMPLE_CHARS]))
        fewer, more = (sum(item < "\u0250" for item in text[:_SAMPLE_CHARS]) for text in found)
        found = found[1:] if more > 4 * fewer else []
    if not found:
        raise NoTextError(f"{name}: contains zero bytes, so it is a binary file; save its text as UTF-8")
    return found[0]


def _plain_utf16(data: bytes, order: str) -> str | None:
    """The text in an order of bytes; None where it has characters that no text has."""
    try:
        text = data.decode(order)
    except UnicodeDecodeError:
        return None
    odd = (item for item in set(text) if item in _CONTROL or unicodedata.category(item) in ("Cn", "Co", "Cs"))
    return None if next(odd, None) is not None else text


def _western(data: bytes) -> str | None:
    """The text of Windows-1252; None where it may be another encoding of one or two bytes."""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return None
    letters = sum(map(str.isalpha, text))
    high = sum(character > "\x7f" and character.isalpha() for character in text)
    if _NOT_WESTERN.search(text) or high > 0.3 * letters:
        return None
    # Czech: its letters, read as Windows-1252, come from Danish and from Italian.
    return None if "\u00f8" in text and any(mark in text for mark in "\u00e8\u00ec\u00f9") else text
