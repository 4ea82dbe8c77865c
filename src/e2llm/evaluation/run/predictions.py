"""Write predictions.jsonl while a run is answered: each line is on disk before the next item is asked."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from filelock import FileLock, Timeout

from e2llm.errors import E2LLMError
from e2llm.evaluation.run.files import PREDICTIONS_NAME, Cell, Prediction, read_predictions
from e2llm.files import sync


class PredictionFile:
    """The predictions of a run, to be used in a `with` block, in which no other process may open them.

    A last line without its end, as a killed run leaves it, is cut off.

    Args:
        folder: Folder of the run; it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / PREDICTIONS_NAME
        self._lock = FileLock(folder / ".lock")
        self._questions: dict[Cell, tuple[str, str, tuple[str, ...]]] = {}
        self._stream: BinaryIO

    def __enter__(self) -> "PredictionFile":
        try:
            self._lock.acquire(blocking=False)
        except Timeout as error:
            raise E2LLMError(
                f"{self.file} is in use by another process; wait for it, or name another folder with -o"
            ) from error
        try:
            self._stream = self.file.open("a+b")
            _cut_off_half_a_line(self._stream)
            self._questions = {entry.cell: entry.question for entry in self.entries()}
            sync(self.file.parent)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._lock.release()

    def holds(self, asked: Prediction) -> bool:
        """Whether the answer to what is asked is in the file.

        Args:
            asked: The prediction that would be made, without its answer.

        Raises:
            E2LLMError: If there is an answer to another question under the same name: the data changed.
        """
        found = self._questions.get(asked.cell)
        if found is not None and found != asked.question:
            raise E2LLMError(
                f"{self.file} holds an answer to {asked.task}, item {asked.id}, with another context, prompt "
                "or reference: the data or the code that makes items changed; name another folder with -o"
            )
        return found is not None

    def add(self, entry: Prediction) -> None:
        """Write a prediction; it is on disk when this returns."""
        line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
        self._stream.write(line.encode("utf-8", "surrogatepass"))
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._questions[entry.cell] = entry.question

    def entries(self) -> list[Prediction]:
        """Read all predictions.

        Raises:
            E2LLMError: If a line is damaged; it is named.
        """
        return list(read_predictions(self.file))


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
