"""A text column of Parquet files -> text-only records."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2llm.data.converter import Converter
from e2llm.data.parquet_rows import read_parquet_rows
from e2llm.records import Record


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
        for number, row in read_parquet_rows(path, (self.column,), (self.id_column,)):
            text = row[self.column]
            if text is None or not text.strip():
                self.skipped["empty row"] += 1
                continue
            identifier = row.get(self.id_column)
            name = f"{path.stem}:{number}" if identifier is None else str(identifier)
            yield Record(text, "", "", id=name, source=self.name)
