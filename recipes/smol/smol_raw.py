"""The raw data sets as they are packed: archives are unpacked once, xz files are read as they are."""

import json
import lzma
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from e2llm.errors import E2LLMError
from e2llm.records import Record


class Raw:
    """A folder of packed data sets and a folder to unpack them to.

    Args:
        folder: The folder with `NAME.tar.xz`, `NAME.jsonl.xz` and `NAME.parquet` files; it is only read.
        unpacked: An empty folder, for what the archives hold.
    """

    def __init__(self, folder: Path, unpacked: Path) -> None:
        self.folder = folder
        self.scratch = unpacked
        self._kept: dict[str, list[Record]] = {}

    def once(self, key: str, make: Callable[[], Iterable[Record]]) -> list[Record]:
        """Return what `make` gives, and keep it for the next call with this key."""
        if key not in self._kept:
            self._kept[key] = list(make())
        return self._kept[key]

    def set_folder(self, name: str, inside: str | None = None) -> Path:
        """Return the unpacked folder of `NAME.tar.xz`, or the folder `NAME` if it is there unpacked.

        Raises:
            FileNotFoundError: If neither exists.
            E2LLMError: If the archive is damaged or lacks the folder.
        """
        inside = inside or name
        if (self.folder / inside).is_dir():
            return self.folder / inside
        target = self.scratch / inside
        if not target.is_dir():
            archive = self._existing(f"{name}.tar.xz")
            try:
                with tarfile.open(archive) as packed:
                    packed.extractall(self.scratch, filter="data")
            except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
                raise E2LLMError(f"{archive}: damaged archive ({error}); fetch it again") from error
            if not target.is_dir():
                raise E2LLMError(f"{archive}: has no folder {inside}; fetch the archive again")
        return target

    def rows(self, name: str, *keys: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the objects of `NAME.jsonl.xz` with their line numbers.

        Raises:
            FileNotFoundError: If the file is missing.
            E2LLMError: At a line that is not a JSON object with these keys.
        """
        path = self._existing(f"{name}.jsonl.xz")
        try:
            with lzma.open(path, "rt", encoding="utf-8") as stream:
                for number, line in enumerate(stream, start=1):
                    row = json.loads(line)
                    if not isinstance(row, dict) or not row.keys() >= set(keys):
                        raise E2LLMError(f"{path}:{number}: expected an object with {', '.join(keys)}")
                    yield number, row
        except E2LLMError:
            raise
        except (ValueError, lzma.LZMAError, EOFError) as error:
            raise E2LLMError(f"{path}: not an xz file of JSON lines: {error}") from error

    def parquet(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of `NAME.parquet`."""
        import pyarrow.parquet as pq

        rows: list[dict[str, Any]] = pq.read_table(self._existing(f"{name}.parquet")).to_pylist()
        return rows

    def _existing(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(f"not found: {path}; data.md says where to get each data set")
        return path
