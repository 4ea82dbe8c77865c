"""A text column of Parquet files -> text-only records."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2llm.data.converter import Converter
from e2llm.errors import MissingExtraError
from e2llm.records import Record

_ROWS_PER_BATCH = 16  # rows may be whole books: a few at a time keep memory flat


@dataclass
class ParquetConverter(Converter):
    """One text-only record per row.

    Attributes:
        column: The column that holds the text.
        id_column: The column that names the row; used where the file has it.
    """

    name = "parquet"
    description = "a text column of Parquet files: every row becomes one context to restate"
    licence = "that of your texts"
    home = "any Parquet file of yours"
    layout = "a .parquet file, or a folder with .parquet files, with a string column (--set column=NAME)"

    column: str = "text"
    id_column: str = "id"

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        files = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
        if not files:
            raise self._layout_error(source, "no .parquet file in this folder")
        for path in files:
            yield from self._rows(path)

    def _rows(self, path: Path) -> Iterator[Record]:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingExtraError("pyarrow", "data") from error
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise self._layout_error(path, f"not a Parquet file ({error})") from error
        with file:
            names = file.schema_arrow.names
            if self.column not in names:
                raise self._layout_error(path, f"no column {self.column!r}, found {', '.join(names)}")
            kind = file.schema_arrow.field(self.column).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise self._layout_error(path, f"column {self.column!r} holds {kind}, not strings")
            columns = [self.column, self.id_column] if self.id_column in names else [self.column]
            row = 0
            for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=columns):
                for values in batch.to_pylist():
                    row += 1
                    text = values[self.column]
                    if text is None or not text.strip():
                        self.skipped["empty row"] += 1
                        continue
                    identifier = values.get(self.id_column)
                    name = f"{path.stem}:{row}" if identifier is None else str(identifier)
                    yield Record(text, "", "", id=name, source=self.name)
