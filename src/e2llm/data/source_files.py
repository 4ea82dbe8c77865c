"""Text in an encoding that is named, for data sets and settings; `e2llm.documents` finds out encodings."""

from pathlib import Path

from e2llm.errors import E2LLMError


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    """Return the text of a file; line ends become `\\n`, and the default encoding drops a byte-order mark.

    Raises:
        E2LLMError: If the file is binary, is not in `encoding`, or the encoding is unknown.
    """
    advice = "save the file as UTF-8 or name its encoding"
    return decode_text(path.read_bytes(), str(path), encoding, advice=advice)


def decode_text(
    data: bytes, name: str, encoding: str = "utf-8-sig", *, advice: str = "give UTF-8 text"
) -> str:
    """Decode bytes as text; line ends become `\\n`.

    Args:
        data: The bytes of a text.
        name: Its name in errors.
        encoding: The default drops a byte-order mark.
        advice: What to do about an error.

    Raises:
        E2LLMError: If the data are binary, are not in `encoding`, or the encoding is unknown.
    """
    if b"\0" in data and "16" not in encoding and "32" not in encoding:
        raise E2LLMError(f"{name}: contains zero bytes, so it is binary or UTF-16; {advice}")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise E2LLMError(
            f"{name}: byte {error.start} is not valid {encoding.removesuffix('-sig')}; {advice}"
        ) from error
    except LookupError as error:
        raise E2LLMError(
            f"unknown encoding {encoding!r}; use for example utf-8, latin-1 or cp1252"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
