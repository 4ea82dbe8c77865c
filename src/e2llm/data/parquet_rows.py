"""Reading string columns of a Parquet file, a few rows at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from e2llm.errors import E2LLMError, MissingExtraError

_ROWS_PER_BATCH = 16  # rows may be whole books: a few at a time keep memory flat


def read_parquet_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file with their numbers from 1.

    Args:
        path: The file.
        columns: Columns that must be there and hold strings; a cell may be None.
        optional: Columns of any type that are read where they are there.

    Raises:
        E2LLMError: If the file is not Parquet, or lacks a column.
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
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise E2LLMError(f"{path}: column {column!r} holds {kind}, not strings")
        wanted = list(dict.fromkeys([*columns, *(name for name in optional if name in names)]))
        number = 0
        for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, row
