"""Plain text of any origin -> text-only records: a file, or a folder of `.txt` and `.md` files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2llm.data.converter import Converter
from e2llm.data.source_files import read_text, text_files
from e2llm.records import Record


@dataclass
class PlainTextConverter(Converter):
    """One text-only record per file; folders are searched at every depth, hidden files are passed over.

    Attributes:
        encoding: The files' encoding; the default is UTF-8 with or without a byte-order mark.
    """

    name = "text"
    description = "your own texts: every file becomes one context to restate"
    licence = "that of your texts"
    home = "any folder of yours"
    layout = "a text file, or a folder with .txt or .md files at any depth"

    encoding: str = "utf-8-sig"

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        root = source.parent if source.is_file() else source
        for path in self._files(source):
            text = read_text(path, self.encoding)
            if not text.strip():
                self.skipped["empty file"] += 1
                continue
            yield Record(text, "", "", id=path.relative_to(root).as_posix(), source=self.name)

    def _files(self, source: Path) -> list[Path]:
        if source.is_file():
            return [source]
        files = text_files(source)
        if not files:
            raise self._layout_error(source, "no .txt or .md file in this folder")
        return files
