"""Read the files of a data set (text, JSON, JSON Lines, CSV, Parquet); errors name the file and line."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from e2llm.errors import E2LLMError, MissingExtraError

_ROWS_PER_BATCH = 16  # of Parquet: a row may be a whole book


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
        raise E2LLMError(f"{name}: holds zero bytes, so it is a binary file or UTF-16; {advice}")
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


def read_json(path: Path) -> Any:
    """Return the JSON document of a file.

    Raises:
        E2LLMError: If the file is not UTF-8 or not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise E2LLMError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number of too many digits, nesting too deep
        raise E2LLMError(f"{path}: not valid JSON: {error}") from error


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file with their line numbers.

    Blank lines and a byte-order mark at the beginning are skipped.

    Raises:
        E2LLMError: At the first line that is not a JSON object.
    """
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:  # also of json: a number of too many digits
                raise E2LLMError(f"{path}:{number}: not a line of UTF-8 JSON: {error}") from error
            check_keys(row, (), f"{path}:{number}")
            yield number, row


def read_csv_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file with a header line; missing cells are empty strings.

    Raises:
        E2LLMError: If a column is missing, or the file is not UTF-8 or not CSV.
    """
    # splitlines() would also break at form feeds and other separators inside a cell
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise E2LLMError(
            f"{path}: no column {', '.join(missing)}; found {', '.join(reader.fieldnames or ())}"
        )
    try:
        for row in reader:
            yield {key: value or "" for key, value in row.items() if isinstance(key, str)}
    except csv.Error as error:
        raise E2LLMError(f"{path}:{reader.reader.line_num}: not a row of CSV: {error}") from error


def read_parquet_rows(
    path: Path, columns: Sequence[str], optional: str = ""
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a Parquet file with their numbers from 1.

    Args:
        path: The file.
        columns: Columns of strings that the file must have; a cell may be None.
        optional: A column of any type that is read if the file has it.

    Raises:
        E2LLMError: If the file is not Parquet, or lacks a column of strings.
        MissingExtraError: If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data") from error
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise E2LLMError(f"{path}: not a Parquet file ({error})") from error
    with file:
        names = file.schema_arrow.names
        for column in columns:
            if column not in names:
                raise E2LLMError(f"{path}: no column {column!r}, found {', '.join(names)}")
            kind = file.schema_arrow.field(column).type
            if kind not in (pa.string(), pa.large_string()):
                raise E2LLMError(f"{path}: column {column!r} holds {kind}, not strings")
        wanted = [*columns, *({optional} & {*names} - {*columns})]
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def check_keys(row: Any, keys: Sequence[str], place: str) -> None:
    """Check that `row` is a JSON object with these keys.

    Raises:
        E2LLMError: If it is not; the message starts with `place`.
    """
    if not isinstance(row, dict):
        raise E2LLMError(f"{place}: expected a JSON object, got {type(row).__name__}")
    missing = [key for key in keys if key not in row]
    if missing:
        raise E2LLMError(f"{place}: missing key(s) {', '.join(missing)}")
