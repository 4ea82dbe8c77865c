"""predictions.jsonl: the answers of a run, one line per task, item and system."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

from filelock import FileLock, Timeout
from pydantic import Field, PlainValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from e2llm.errors import E2LLMError
from e2llm.files import sync

PREDICTIONS_NAME = "predictions.jsonl"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a text is expected, got {str(value)[:40]}")
    return value


Text = Annotated[str, PlainValidator(_text)]
"""Any text. Pydantic's own check refuses lone surrogates, which an answer may contain."""
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Prediction:
    """The answer of one system to one item: a line of predictions.jsonl (docs/evaluation.md)."""

    task: Text
    system: Text
    id: Text
    prompt: Text
    context_sha256: str
    references: list[Text]
    groups: dict[Text, Any] = field(default_factory=dict)
    prediction: Text = ""
    scores: dict[Text, Number] = field(default_factory=dict)
    likelihoods: list[dict[str, float]] = field(default_factory=list)
    cost: dict[str, Number | None] | None = None
    given: dict[str, Any] | None = None
    error: Text | None = None

    @property
    def cell(self) -> tuple[str, str, str]:
        """Task, system and item."""
        return self.task, self.system, self.id

    @property
    def question(self) -> tuple[str, str, tuple[str, ...]]:
        """Context, prompt and references: two predictions answer the same question if these are equal."""
        return self.context_sha256, self.prompt, tuple(self.references)


def read_predictions(file: Path) -> Iterator[Prediction]:
    """Read predictions.jsonl, except for an unfinished last line, which a killed run leaves.

    Raises:
        E2LLMError: If another line is damaged; the message names it.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield parse_json(Prediction, line)
            except ValueError as error:
                raise E2LLMError(
                    f"{file}:{number} is not a prediction ({error}); remove the line, and a resumed run "
                    "answers its item again"
                ) from error


def read_file(kind: type[_T], file: Path) -> _T:
    """Read a JSON file of a run.

    Raises:
        E2LLMError: If it is not JSON, or lacks a value; the message names the first fault.
    """
    try:
        return parse_json(kind, file.read_bytes())
    except ValueError as error:
        raise E2LLMError(f"{file} is damaged ({error}); restore the file, or name another folder") from error


def parse_json(kind: type[_T], content: bytes) -> _T:
    """Return JSON as an object of a dataclass; a `ValueError` says in a few words what is wrong."""
    try:
        return TypeAdapter(kind).validate_python(json.loads(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = f"it lacks {place!r}" if first["type"] == "missing" else f"{place}: {first['msg']}"
        raise ValueError(reason) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


class PredictionFile:
    """The predictions of a run, open for writing; see `open_predictions`."""

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self.file = file
        self._stream = stream
        self._questions = {entry.cell: entry.question for entry in read_predictions(file)}

    def __contains__(self, asked: Prediction) -> bool:
        """Whether the file has the answer to a prediction that lacks it.

        Raises:
            E2LLMError: If the file has an answer to another question under the same name: the data changed.
        """
        found = self._questions.get(asked.cell)
        if found is not None and found != asked.question:
            raise E2LLMError(
                f"{self.file} has an answer to {asked.task}, item {asked.id}, with another context, prompt "
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


@contextmanager
def open_predictions(folder: Path) -> Iterator[PredictionFile]:
    """Open the predictions of a run in an existing folder, and lock them; cut off an unfinished last line.

    Raises:
        E2LLMError: If another process has them open, or a line is damaged.
    """
    file = folder / PREDICTIONS_NAME
    try:
        lock = FileLock(folder / ".lock").acquire(blocking=False)
    except Timeout as error:
        raise E2LLMError(
            f"{file} is in use by another process; wait for it, or name another folder with -o"
        ) from error
    with lock, file.open("a+b") as stream:
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
        sync(folder)
        yield PredictionFile(file, stream)
