"""Read the data files that samples are drawn from, hold records out, and choose those for an objective."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from e2llm.errors import E2LLMError
from e2llm.records import Record, read_numbered
from e2llm.training.recipes.schema import DataFile, ValidationFile


@dataclass
class Source:
    """The records of one data file that are used, and their line numbers."""

    file: ValidationFile
    records: list[Record]
    lines: "array[int]" = field(default_factory=lambda: array("q"))

    @property
    def weight(self) -> float:
        """Weight in the draw of files; 1 for files to evaluate on."""
        return self.file.weight if isinstance(self.file, DataFile) else 1.0

    def part(self, takes_part: Sequence[bool]) -> "Source":
        """Return the source with the records for which `takes_part` is true."""
        return Source(
            self.file,
            [record for record, taken in zip(self.records, takes_part, strict=True) if taken],
            array("q", [line for line, taken in zip(self.lines, takes_part, strict=False) if taken]),
        )


def load_sources(
    files: Sequence[ValidationFile], read: Callable[[str], Iterator[tuple[int, Record]]] | None = None
) -> list[Source]:
    """Read data files whole.

    Args:
        files: The files.
        read: Gives the records of a file with the numbers of their lines; it is then its matter what becomes
            of bad lines and of files without records, which are left out.

    Raises:
        FileNotFoundError: If a file is missing.
        E2LLMError: At the first bad line, with file and line number, or for a file without records.
    """
    sources = []
    for file in files:
        source = Source(file, [])
        contexts: dict[str, str] = {}
        for number, record in (read or read_numbered)(file.path):
            # The questions of one document share its text in memory.
            context = contexts.setdefault(record.context, record.context)
            source.records.append(replace(record, context=context))
            source.lines.append(number)
        if source.records:
            sources.append(source)
        elif read is None:
            raise E2LLMError(f"{file.path}: contains no records")
    return sources


def hold_out(sources: list[Source], fraction: float) -> tuple[list[Source], list[Source]]:
    """Split sources by a hash of the context, so that no context is on both sides."""

    def is_held_out(record: Record) -> bool:
        digest = hashlib.sha256(record.context.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8]) < fraction * 2**64

    train, validation = [], []
    for source in sources:
        held = [is_held_out(record) for record in source.records]
        if not all(held):
            train.append(source.part([not item for item in held]))
        if any(held):
            validation.append(source.part(held))
    return train, validation


def pool_of(sources: list[Source], purpose: str) -> tuple[list[list[Record]], list[float]]:
    """Return the records that serve an objective or as distractors, per source, and the sources' weights.

    Only reasoning sees a context as often as it has questions.
    """
    pools, weights = [], []
    for source in sources:
        if purpose not in source.file.objectives:
            continue
        if purpose == "reasoning":
            records = [record for record in source.records if not record.is_text_only]
        else:
            records = list({record.context: record for record in source.records}.values())
        if records:
            pools.append(records)
            weights.append(source.weight)
    return pools, weights
