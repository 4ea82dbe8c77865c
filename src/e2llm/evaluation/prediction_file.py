"""predictions.jsonl while a run writes it: whole lines, each on the disk before the next item is asked."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item
from e2llm.evaluation.run_files import PREDICTIONS_NAME
from e2llm.files import sync

Key = tuple[str, str, str]  # task, system, item


class PredictionFile:
    """The predictions of a run: those that are there, and more of them.

    To be used in a `with` block, in which no other process may open it. A last line without its end, as a
    kill leaves it, is cut off.

    Args:
        folder: Of the run; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / PREDICTIONS_NAME
        self._questions: dict[Key, str] = {}
        self._stream: BinaryIO | None = None

    def __enter__(self) -> "PredictionFile":
        is_new = not self.file.exists()
        self._stream = self.file.open("a+b")
        try:
            _lock(self._stream, self.file)
            _cut_off_half_a_line(self._stream)
            self._questions = {_key(entry): _question(entry) for entry in self.entries()}
        except BaseException:
            self._stream.close()
            raise
        if is_new:
            sync(self.file.parent)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def __len__(self) -> int:
        return len(self._questions)

    def holds(self, task: str, system: str, item: Item) -> bool:
        """Whether the system's answer to the item is there.

        Raises:
            E2LLMError: If one is there under the name of the item, to another question: the data changed.
        """
        found = self._questions.get((task, system, item.id))
        if found is None:
            return False
        if found != _question(describe_item(item)):
            raise E2LLMError(
                f"{self.file} holds an answer to {task}, item {item.id}, with another context, prompt or "
                "reference: the data or the code that makes items changed; name another folder with -o"
            )
        return True

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write a prediction; it is on the disk when this returns."""
        assert self._stream is not None
        self._stream.write((json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._questions[_key(entry)] = _question(entry)

    def entries(self) -> Iterator[dict[str, Any]]:
        """The predictions that are there.

        Raises:
            E2LLMError: If a line is damaged; it is named.
        """
        with self.file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    entry = json.loads(line)
                    _ = _key(entry), _question(entry)
                except (ValueError, KeyError, TypeError) as error:
                    raise E2LLMError(
                        f"{self.file}:{number} is not a prediction: {error}; remove the line, and its "
                        "item is answered anew"
                    ) from error
                yield entry


def describe_item(item: Item) -> dict[str, Any]:
    """What a line says of its item; the context by its hash."""
    return {
        "id": item.id,
        "prompt": item.prompt,
        "context_sha256": hashlib.sha256(item.context.encode("utf-8", "surrogatepass")).hexdigest(),
        "references": list(item.references),
        "groups": dict(item.groups),
    }


def _key(entry: Mapping[str, Any]) -> Key:
    return entry["task"], entry["system"], entry["id"]


def _question(entry: Mapping[str, Any]) -> str:
    parts = entry["prompt"], entry["context_sha256"], list(entry["references"])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _cut_off_half_a_line(stream: BinaryIO) -> None:
    """Shorten the file to its last line end; an answer whose line has none was not written whole."""
    size = end = stream.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        stream.seek(start)
        place = stream.read(end - start).rfind(b"\n")
        if place >= 0:
            end = start + place + 1
            break
        end = start
    if end < size:
        stream.truncate(end)


def _lock(stream: BinaryIO, file: Path) -> None:
    """Keep other processes off until the file is closed, where the system has such locks."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise E2LLMError(
            f"{file} is in use by another process; wait for it to end, or name another folder with -o"
        ) from error
    except OSError:  # a file system without locks
        return
