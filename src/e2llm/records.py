"""A JSONL record (`context`, `prompt`, `answer`): validate, read, write; errors name file and line.

The three keys are those of the paper's official data file, so files made for it load unchanged.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from e2llm.errors import E2LLMError
from e2llm.file_bytes import kind_of, special_file
from e2llm.files import replacing
from e2llm.prompts import OPTION_LETTERS
from e2llm.surrogates import check_text

_REQUIRED_KEYS = ("context", "prompt", "answer")
LineFault = Literal["not_utf8", "not_json", "missing_keys", "wrong_value"]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is not a record.

    Attributes:
        file: The file.
        number: The line's number, from 1.
        fault: The kind of mistake.
        problem: The mistake, without its place.
    """

    file: str
    number: int
    fault: LineFault
    problem: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.problem}"


class _MissingKeysError(E2LLMError):
    """A JSON object that lacks a required key."""


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
        evidence: Character spans `(start, end)` of `context` with the answer, if the data set has them.
        id: A name that is unique within its data set.
        source: The data set's name.
        options: 2 to 26 choices of a multiple-choice question, in the order of their letters A, B, C, ...
            The prompt lists them (`e2llm.prompts.word_options`), `answer` is the letter of the right one.
        groups: Groups for which scores are reported separately, such as `{"difficulty": "hard"}`.
    """

    context: str
    prompt: str
    answer: str
    references: tuple[str, ...] = ()
    evidence: tuple[tuple[int, int], ...] = ()
    id: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check the fields; raise `E2LLMError` for a wrong one."""
        for name in (*_REQUIRED_KEYS, "id", "source"):
            if not isinstance(getattr(self, name), str):
                raise E2LLMError(f"{name!r} must be a string, got {type(getattr(self, name)).__name__}")
            check_text(getattr(self, name), repr(name))
        for reference in self.references:
            check_text(reference, "'references'")
        if not self.context.strip():
            raise E2LLMError("'context' is empty; give a text to read")
        if bool(self.prompt.strip()) != bool(self.answer.strip()):
            empty = "answer" if self.prompt.strip() else "prompt"
            raise E2LLMError(
                f"{empty!r} is empty; give both 'prompt' and 'answer', or leave both empty for text only"
            )
        for start, end in self.evidence:
            if not 0 <= start < end <= len(self.context):
                raise E2LLMError(
                    f"each 'evidence' span must be within 0 to {len(self.context)}, got {start} to {end}"
                )
        if self.options:
            self._check_options()
        for name, value in self.groups.items():
            check_text(name, "'groups'")
            check_text(value, "'groups'")

    def _check_options(self) -> None:
        if not 2 <= len(self.options) <= len(OPTION_LETTERS):
            raise E2LLMError(f"'options' must have 2 to {len(OPTION_LETTERS)} texts, got {len(self.options)}")
        for letter, option in zip(OPTION_LETTERS, self.options, strict=False):
            if not option.strip():
                raise E2LLMError(f"'options': option {letter} is empty")
            check_text(option, "'options'")
        letters = OPTION_LETTERS[: len(self.options)]
        if len(self.answer) != 1 or self.answer not in letters:
            raise E2LLMError(
                f"'answer' must be the letter of one of the 'options', {letters[0]} to {letters[-1]}, "
                f"got {self.answer[:40]!r}"
            )

    @property
    def is_text_only(self) -> bool:
        """Whether there is no question, only a context to restate."""
        return not self.prompt.strip()


def record_from_dict(data: Any) -> Record:
    """Build a record from one decoded JSON object; keys beyond those of `Record` are ignored.

    Raises:
        E2LLMError: If `data` is not an object, lacks a key, or has a value of a wrong type.
    """
    if not isinstance(data, dict):
        raise E2LLMError(f"expected a JSON object, got {type(data).__name__}")
    missing = [key for key in _REQUIRED_KEYS if key not in data]
    if missing:
        raise _MissingKeysError(
            f"missing key(s) {', '.join(missing)}; a record needs context, prompt and answer"
        )
    groups = _given(data, "groups", {})
    if not isinstance(groups, dict) or not all(isinstance(value, str) for value in groups.values()):
        raise E2LLMError("'groups' must be an object whose values are strings")
    return Record(
        context=data["context"],
        prompt=data["prompt"],
        answer=data["answer"],
        references=_strings(data, "references"),
        evidence=_spans(data),
        id=_given(data, "id", ""),
        source=_given(data, "source", ""),
        options=_strings(data, "options"),
        groups=groups,
    )


def _given(data: dict[str, Any], key: str, default: Any) -> Any:
    """Return the value of an optional key; null counts as missing."""
    value = data.get(key)
    return default if value is None else value


def _spans(data: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """Return the pairs of whole numbers under `evidence`."""
    spans = _given(data, "evidence", [])
    is_list = isinstance(spans, list | tuple)
    if not is_list or not all(
        isinstance(span, list | tuple) and [type(offset) for offset in span] == [int, int] for span in spans
    ):
        raise E2LLMError("'evidence' must be a list of [start, end] character offsets")
    return tuple((start, end) for start, end in spans)


def _strings(data: dict[str, Any], key: str) -> tuple[str, ...]:
    """Return the list of strings under an optional key."""
    values = _given(data, key, ())
    if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
        raise E2LLMError(f"{key!r} must be a list of strings")
    return tuple(values)


def read_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Read a JSONL file, one record a line, without holding the file in memory.

    Blank lines and a byte-order mark at the beginning are skipped.

    Raises:
        FileNotFoundError: If `path` is not a file.
        E2LLMError: At the first bad line, with file and line number.
    """
    for _, record in read_numbered(path):
        yield record


def read_numbered(
    path: str | os.PathLike[str], on_bad_line: Callable[[BadLine], None] | None = None
) -> Iterator[tuple[int, Record]]:
    """Read a JSONL file as `read_records` does, with the number of each record's line.

    Args:
        path: The file.
        on_bad_line: Called with each bad line, which is then skipped; without it the first one is an error.

    Raises:
        FileNotFoundError: If `path` is not a file.
        E2LLMError: At the first bad line, with file and line number, without `on_bad_line`.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(missing_file(file))
    with file.open("rb") as stream:
        if problem := other_format(stream.peek(), file):
            bad = BadLine(str(file), 1, "not_json", problem)
            if on_bad_line is None:
                raise E2LLMError(str(bad))
            on_bad_line(bad)
            return
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = record_from_dict(json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8")))
            except (ValueError, RecursionError) as error:  # also of json: a number of too many digits
                bad = BadLine(str(file), number, *_fault_of(error))
                if on_bad_line is None:
                    raise E2LLMError(str(bad)) from error
                on_bad_line(bad)
                continue
            yield number, record


def other_format(start: bytes, file: Path) -> str:
    """Return what is wrong with a file whose first bytes are not those of JSON Lines; empty for any other."""
    kind = kind_of(start)
    if kind is None:
        return ""
    advice = "name a file of records"
    if kind.is_text:
        convert = f"convert it: jq -c '.[]' {file.name} > records.jsonl"
        advice = convert if kind.suffix == ".json" else "save it as JSON Lines in UTF-8"
    return f"the file is {kind.name}, but records are one JSON object a line; {advice}"


def missing_file(file: Path) -> str:
    """Return the error message for a missing records file."""
    if file.is_dir():
        return f"{file} is a folder; name a file of records"
    if special := special_file(file):
        return f"{file} is {special}; name a file of records"
    return f"no such records file: {file}; make one with 'e2llm prepare'"


def _fault_of(error: Exception) -> tuple[LineFault, str]:
    """Return the kind of a line's mistake, and the mistake."""
    if isinstance(error, UnicodeDecodeError):
        return "not_utf8", f"not UTF-8 ({error.reason}); save the file as UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return "not_json", f"not valid JSON: {error.msg} at column {error.colno}"
    if not isinstance(error, E2LLMError):  # a number of too many digits, brackets nested too deep
        return "not_json", str(error)
    return ("missing_keys" if isinstance(error, _MissingKeysError) else "wrong_value"), str(error)


def record_to_dict(record: Record) -> dict[str, Any]:
    """Return the JSON object of a record, without empty optional keys."""
    data: dict[str, Any] = {"context": record.context, "prompt": record.prompt, "answer": record.answer}
    if record.references:
        data["references"] = list(record.references)
    if record.evidence:
        data["evidence"] = [list(span) for span in record.evidence]
    if record.id:
        data["id"] = record.id
    if record.source:
        data["source"] = record.source
    if record.options:
        data["options"] = list(record.options)
    if record.groups:
        data["groups"] = dict(record.groups)
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
