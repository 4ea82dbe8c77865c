"""Text of bytes in an encoding that can be told for sure: UTF-8, UTF-16, Windows-1252."""

import codecs
import re
import unicodedata

from e2llm.errors import E2LLMError

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


def decode_text(data: bytes, name: str) -> str:
    """Decode bytes as text without a byte order mark; line ends become `\\n`.

    Args:
        data: The bytes of a text.
        name: Its name in errors.

    Raises:
        E2LLMError: If the data are binary, or their encoding cannot be told.
    """
    text = _decode(data, name)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode(data: bytes, name: str) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError as error:
                raise E2LLMError(
                    f"{name}: begins as {encoding.removesuffix('-sig')} and is not valid throughout; save "
                    "it again as UTF-8"
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
        raise E2LLMError(f"{name}: contains zero bytes, so it is a binary file; save its text as UTF-8")
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
