"""A data set -> one JSONL file of records, with a report of what it holds and whether that is all of it."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from e2llm.data.check import LengthSummary
from e2llm.data.data_set import Conversion
from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError
from e2llm.records import Record, read_records, write_records


@dataclass
class PrepareReport:
    """What `prepare_records` wrote.

    Attributes:
        dataset: The data set's name.
        split: The split.
        output: The file that was written.
        skipped: Reasons why entries of the data set were left out, and how many.
        published_count: Entries of this split that the authors report; None if they do not, or if only a part
            was converted.
        num_records: Lines of the file.
        num_text_only: Records without a question.
        num_contexts: Contexts; neighbouring records with one context count once.
        num_answers: Records with a question and an answer.
        num_references: Further accepted answers of all records.
        num_with_evidence: Records with the place of their answer.
        context_chars: Lengths of the contexts.
        answer_chars: Lengths of the answers.
    """

    dataset: str
    split: str
    output: str
    skipped: Mapping[str, int]
    published_count: int | None
    num_records: int = 0
    num_text_only: int = 0
    num_contexts: int = 0
    num_answers: int = 0
    num_references: int = 0
    num_with_evidence: int = 0
    context_chars: LengthSummary = field(default_factory=LengthSummary)
    answer_chars: LengthSummary = field(default_factory=LengthSummary)

    @property
    def num_found(self) -> int:
        """The number of entries of the data set, written or left out."""
        return self.num_records + sum(self.skipped.values())

    @property
    def is_complete(self) -> bool | None:
        """Whether the number of entries is the published one; None if it is not published."""
        return None if self.published_count is None else self.num_found == self.published_count

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {**asdict(self), "skipped": dict(self.skipped), "is_complete": self.is_complete}

    def counted(self, records: Iterable[Record], on_record: Callable[[int], None] | None) -> Iterator[Record]:
        """Pass the records on and count them."""
        contexts: list[int] = []
        answers: list[int] = []
        previous = ""
        for record in records:
            self.num_records += 1
            self.num_references += len(record.references)
            self.num_with_evidence += bool(record.evidence)
            if record.context != previous:
                contexts.append(len(record.context))
                previous = record.context
            if record.is_text_only:
                self.num_text_only += 1
            else:
                answers.append(len(record.answer))
            if on_record is not None:
                on_record(self.num_records)
            yield record
        if not self.num_records:
            reasons = ", ".join(f"{count}: {reason}" for reason, count in sorted(self.skipped.items()))
            raise E2LLMError(
                "no records were found, so nothing was written; check --from, --split and the options"
                + (f" (left out: {reasons})" if reasons else "")
            )
        self.num_contexts, self.num_answers = len(contexts), len(answers)
        self.context_chars, self.answer_chars = LengthSummary.of(contexts), LengthSummary.of(answers)


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
        output: The JSONL file to write; its folder is made, and an older file of records is replaced.
        split: One of the data set's splits; None for the first.
        limit: Stop after this many records, at least 1; None for all.
        max_per_context: Keep at most this many questions of one context, spread evenly over them; None for
            all. Records repeat their context, so sets with many questions on long texts make large files.
        options: The data set's options as text, for example `{"context": "article"}`.
        on_record: Called after each record with the number written so far.

    Raises:
        E2LLMError: If an argument is unknown or out of range, the data is not as published, or there is no
            record.
        FileNotFoundError: If a file is missing.
    """
    for name, value in (("limit", limit), ("max_per_context", max_per_context)):
        if value is not None and value < 1:
            raise E2LLMError(f"{name} must be at least 1, got {value}")
    _check_output(source, output)
    conversion = make_converter(dataset, options or {})
    records: Iterable[Record] = conversion.convert(source, split)
    is_whole = limit is None and max_per_context is None
    published = conversion.dataset.published_counts.get(conversion.split) if is_whole else None
    report = PrepareReport(dataset, conversion.split, str(output), conversion.skipped, published)
    if max_per_context is not None:
        records = _thinned(records, max_per_context)
    write_records(output, report.counted(islice(records, limit), on_record))
    return report


def _check_output(source: Path, output: Path) -> None:
    """Refuse to overwrite the source, or a file that is not one of records."""
    if source.resolve() == output.resolve():
        raise E2LLMError(f"{output} is both --from and the output; write to another file")
    if output.is_file() and output.stat().st_size:
        try:
            next(read_records(output))
        except (E2LLMError, StopIteration):
            raise E2LLMError(f"{output} exists and does not contain records; write to another file") from None


def make_converter(dataset: str, options: Mapping[str, str]) -> Conversion:
    """Return the conversion of a data set with options given as text.

    Raises:
        E2LLMError: If the data set or an option is unknown, or an option has a wrong value.
    """
    if dataset not in DATASETS:
        raise E2LLMError(f"unknown data set {dataset!r}; choose from: {', '.join(DATASETS)}")
    return DATASETS[dataset](**options)


def _thinned(records: Iterable[Record], max_per_context: int) -> Iterator[Record]:
    for _, run in groupby(records, key=lambda record: record.context):
        same = list(run)
        step = max(1.0, len(same) / max_per_context)
        yield from (same[math.floor(place * step)] for place in range(min(len(same), max_per_context)))
