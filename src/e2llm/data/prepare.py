"""A data set -> one JSONL file of records, with a report of what it holds and whether that is all of it."""

import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from e2llm.data.converter import Converter
from e2llm.data.lengths import LengthSummary, summarize
from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError
from e2llm.records import Record, read_records, write_records


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare_records` wrote.

    Attributes:
        dataset: The data set's name.
        split: The split that was converted.
        output: The file that was written.
        num_records: Lines of the file.
        num_text_only: Records without a question.
        num_contexts: Runs of records with the same context.
        num_answers: Records with a question and an answer.
        num_references: Further accepted answers, all records together.
        num_with_evidence: Records that know where their answer stands.
        context_chars: Lengths of the contexts, each run counted once.
        answer_chars: Lengths of the answers.
        skipped: Why entries of the data set were left out, and how many.
        published_count: Entries of this split according to its authors; None if they do not say or if
            only a part was converted.
    """

    dataset: str
    split: str
    output: str
    num_records: int
    num_text_only: int
    num_contexts: int
    num_answers: int
    num_references: int
    num_with_evidence: int
    context_chars: LengthSummary
    answer_chars: LengthSummary
    skipped: dict[str, int]
    published_count: int | None

    @property
    def num_found(self) -> int:
        """Entries of the data set that were there, written or left out."""
        return self.num_records + sum(self.skipped.values())

    @property
    def is_complete(self) -> bool | None:
        """Whether all published entries were there, left out or not; None where that is not known."""
        if self.published_count is None:
            return None
        return self.num_found == self.published_count

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {**asdict(self), "is_complete": self.is_complete}


def prepare_records(
    dataset: str,
    source: Path,
    output: Path,
    split: str | None = None,
    limit: int | None = None,
    max_per_context: int | None = None,
    options: Mapping[str, str] | None = None,
    on_record: Callable[[int], None] | None = None,
) -> PrepareReport:
    """Convert one split of a data set and write its records, atomically.

    Args:
        dataset: A key of `DATASETS`.
        source: The folder or file of the data set.
        output: The JSONL file to write; its folder is made, an older file is replaced, but not one in the
            data set's own folder that holds no records: it may be part of the data set.
        split: One of the converter's splits; None for its first, which is `train` where there is one.
        limit: Stop after this many records, at least 1; None means all.
        max_per_context: Keep at most this many questions of one context, spread evenly over them; None means
            all. Records repeat their context, so sets with many questions on long texts make large files.
        options: The converter's options as text, for example `{"context": "article"}`.
        on_record: Called after each record with the number written so far.

    Raises:
        E2LLMError: If an argument is unknown or out of range, the data is not as published, or no record
            is left.
        FileNotFoundError: If a file is missing.
    """
    for name, value in (("limit", limit), ("max_per_context", max_per_context)):
        if value is not None and value < 1:
            raise E2LLMError(f"{name} must be at least 1, got {value}")
    _check_output(source, output)
    converter = make_converter(dataset, options or {})
    split = split if split is not None else converter.splits[0]
    tally = _Tally(converter.skipped)
    records: Iterable[Record] = converter.convert(source, split)
    if max_per_context is not None:
        records = _thinned(records, max_per_context)
    write_records(output, tally.counted(islice(records, limit), on_record))
    is_whole = limit is None and max_per_context is None
    return PrepareReport(
        dataset=dataset,
        split=split,
        output=str(output),
        num_records=tally.num_records,
        num_text_only=tally.num_records - len(tally.answer_chars),
        num_contexts=len(tally.context_chars),
        num_answers=len(tally.answer_chars),
        num_references=tally.num_references,
        num_with_evidence=tally.num_with_evidence,
        context_chars=summarize(tally.context_chars),
        answer_chars=summarize(tally.answer_chars),
        skipped=dict(converter.skipped),
        published_count=converter.published_count(split) if is_whole else None,
    )


def _check_output(source: Path, output: Path) -> None:
    """Raise `E2LLMError` where writing the output would destroy what is read."""
    if source.is_file() and source.resolve() == output.resolve():
        raise E2LLMError(f"{output}: --from and the output are the same file; write to another one")
    if source.resolve() not in output.resolve().parents or not output.is_file():
        return
    if output.stat().st_size and not _holds_records(output):
        raise E2LLMError(
            f"{output} lies in the folder of --from and holds no records, so that it may be part of the data "
            "set; write to another file"
        )


def _holds_records(file: Path) -> bool:
    """Whether a file begins with a record, as one that was written here does."""
    try:
        return next(read_records(file), None) is not None
    except E2LLMError:
        return False


def make_converter(dataset: str, options: Mapping[str, str]) -> Converter:
    """The converter of a data set, its options read from text.

    Raises:
        E2LLMError: If the data set or an option is unknown, or a value does not fit its option.
    """
    if dataset not in DATASETS:
        raise E2LLMError(f"unknown data set {dataset!r}; choose from: {', '.join(DATASETS)}")
    kind = DATASETS[dataset]
    known = option_names(kind)
    unknown = [name for name in options if name not in known]
    if unknown:
        allowed = f"its options are: {', '.join(known)}" if known else "it has no options"
        raise E2LLMError(f"{dataset} has no option {', '.join(unknown)}; {allowed}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _parsed(name, text, hints[name]) for name, text in options.items()})


def option_names(kind: type[Converter]) -> list[str]:
    """The names of a converter's options."""
    return [option.name for option in fields(kind) if option.init]


def _parsed(name: str, text: str, hint: Any) -> Any:
    """An option's value: a number, a string, or a tuple of them separated by commas."""
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return tuple(_parsed(name, part.strip(), item) for part in text.split(",") if part.strip())
    if hint not in (int, float):
        return text
    try:
        return hint(text)
    except ValueError as error:
        wanted = "a whole number" if hint is int else "a number"
        raise E2LLMError(f"option {name} must be {wanted}, got {text!r}") from error


def _thinned(records: Iterable[Record], max_per_context: int) -> Iterator[Record]:
    for _, run in groupby(records, key=lambda record: record.context):
        same = list(run)
        step = max(1.0, len(same) / max_per_context)
        yield from (same[math.floor(place * step)] for place in range(min(len(same), max_per_context)))


@dataclass
class _Tally:
    """Counts kept while records stream past: lengths only, never the texts."""

    skipped: Mapping[str, int]
    num_records: int = 0
    num_references: int = 0
    num_with_evidence: int = 0
    context_chars: list[int] = field(default_factory=list)
    answer_chars: list[int] = field(default_factory=list)

    def counted(self, records: Iterable[Record], on_record: Callable[[int], None] | None) -> Iterator[Record]:
        previous = ""
        for record in records:
            self.num_records += 1
            self.num_references += len(record.references)
            self.num_with_evidence += bool(record.evidence)
            if record.context != previous:
                self.context_chars.append(len(record.context))
                previous = record.context
            if not record.is_text_only:
                self.answer_chars.append(len(record.answer))
            if on_record is not None:
                on_record(self.num_records)
            yield record
        if not self.num_records:
            reasons = ", ".join(f"{count}: {reason}" for reason, count in sorted(self.skipped.items()))
            raise E2LLMError(
                "no record came out; nothing was written. Check --from, --split and the options"
                + (f" (left out were {reasons})" if reasons else "")
            )
