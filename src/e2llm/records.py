"""One JSONL record (`context`, `prompt`, `answer`): validate, read, write; errors name file and line.

The three keys are those of the paper's official data file, so files made for it load unchanged.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2llm.errors import E2LLMError
from e2llm.files import replacing
from e2llm.surrogates import reject_lone_surrogates

_REQUIRED_KEYS = ("context", "prompt", "answer")


@dataclass(frozen=True, slots=True)
class Record:
    """A context with an instruction and its answer.

    A record whose `prompt` and `answer` are both empty is text only: it serves the understanding objective
    (restating its context) and not the reasoning objective.

    Attributes:
        context: The long text; never empty.
        prompt: The instruction or question.
        answer: The reference answer that the reasoning objective trains on.
        references: Further accepted answers, for scoring only.
        evidence: Character spans `(start, end)` of `context` that hold the answer, where the data set tells.
        id: A name that is unique within its data set.
        source: The data set's name.
    """

    context: str
    prompt: str
    answer: str
    references: tuple[str, ...] = ()
    evidence: tuple[tuple[int, int], ...] = ()
    id: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        """Check the fields; raises `E2LLMError` with what is wrong."""
        for name in (*_REQUIRED_KEYS, "id", "source"):
            if not isinstance(getattr(self, name), str):
                raise E2LLMError(f"{name!r} must be a string, got {type(getattr(self, name)).__name__}")
            reject_lone_surrogates(getattr(self, name), repr(name))
        for reference in self.references:
            reject_lone_surrogates(reference, "'references'")
        if not self.context.strip():
            raise E2LLMError("'context' is empty; every record needs a text to read")
        if bool(self.prompt.strip()) != bool(self.answer.strip()):
            empty = "answer" if self.prompt.strip() else "prompt"
            raise E2LLMError(
                f"{empty!r} is empty; give both 'prompt' and 'answer', or leave both empty for text only"
            )
        for start, end in self.evidence:
            if not 0 <= start < end <= len(self.context):
                raise E2LLMError(f"'evidence' span ({start}, {end}) is outside 0..{len(self.context)}")

    @property
    def is_text_only(self) -> bool:
        """Whether the record has no question, only a context to restate."""
        return not self.prompt.strip()


def record_from_dict(data: Any) -> Record:
    """Build a record from one decoded JSON object; keys beyond those of `Record` are ignored.

    Raises:
        E2LLMError: If `data` is not an object, lacks a key, or holds a value of a wrong type.
    """
    if not isinstance(data, dict):
        raise E2LLMError(f"expected a JSON object, got {type(data).__name__}")
    missing = [key for key in _REQUIRED_KEYS if key not in data]
    if missing:
        raise E2LLMError(f"missing key(s) {', '.join(missing)}; a record needs context, prompt and answer")
    references = data.get("references") or ()
    if not isinstance(references, list | tuple) or not all(isinstance(item, str) for item in references):
        raise E2LLMError("'references' must be a list of strings")
    try:
        evidence = tuple((int(start), int(end)) for start, end in data.get("evidence") or ())
    except (TypeError, ValueError, OverflowError) as error:
        raise E2LLMError("'evidence' must be a list of [start, end] character offsets") from error
    return Record(
        context=data["context"],
        prompt=data["prompt"],
        answer=data["answer"],
        references=tuple(references),
        evidence=evidence,
        id=data.get("id") or "",
        source=data.get("source") or "",
    )


def read_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Read a JSONL file, one record a line, without holding the file in memory.

    Blank lines are passed over, and so is a byte-order mark at the beginning.

    Raises:
        FileNotFoundError: If `path` is no file.
        E2LLMError: At the first bad line, with file and line number.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no such records file: {file}; make one with 'e2llm prepare'")
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = record_from_dict(json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8")))
            except UnicodeDecodeError as error:
                raise E2LLMError(
                    f"{file}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8"
                ) from error
            except json.JSONDecodeError as error:
                raise E2LLMError(
                    f"{file}:{number}: not valid JSON: {error.msg} at column {error.colno}"
                ) from error
            except (ValueError, RecursionError) as error:  # also of json: a number of too many digits
                raise E2LLMError(f"{file}:{number}: {error}") from error
            yield record


def record_to_dict(record: Record) -> dict[str, Any]:
    """The JSON object of a record; optional keys only where they hold something."""
    data: dict[str, Any] = {"context": record.context, "prompt": record.prompt, "answer": record.answer}
    if record.references:
        data["references"] = list(record.references)
    if record.evidence:
        data["evidence"] = [list(span) for span in record.evidence]
    if record.id:
        data["id"] = record.id
    if record.source:
        data["source"] = record.source
    return data


def write_records(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Write records as JSONL, atomically: the file appears whole or not at all.

    Returns:
        The number of records written.
    """
    count = 0
    with replacing(Path(path)) as stream:
        for record in records:
            line = json.dumps(record_to_dict(record), ensure_ascii=False) + "\n"
            stream.write(line.encode())
            count += 1
    return count
