"""Check files of records while they stream past: bad lines, leaks, duplicates, lengths.

Only hashes and lengths are kept, so that files of any size can be checked.
"""

import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import blake2b
from statistics import median
from typing import Any, Literal

from e2llm.errors import E2LLMError
from e2llm.messages import counted
from e2llm.records import BadLine, Record, read_numbered

Part = Literal["train", "validation"]
FIELDS = ("context", "prompt", "answer")
ERRORS = {
    "not_utf8": "lines that are not UTF-8",
    "not_json": "lines that are not JSON",
    "missing_keys": "lines that lack a key",
    "wrong_value": "lines with a wrong value",
    "no_records": "files without a record",
    "leak": "training records whose context is also in validation",
    "overflow": "records that do not fit the decoder's window",
}
NOTES = {
    "duplicate": "duplicate records",
    "answer_not_in_context": "questions whose answer is not in the context",
}
_MAX_EXAMPLES = 3
_LARGE_SHARE = 0.5  # of the questions: a data set of quoted answers has few that are not in the context
_SEPARATORS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class LengthSummary:
    """The smallest, median and largest of some lengths; 0 without any."""

    min: int = 0
    median: int = 0
    max: int = 0

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "LengthSummary":
        """Return the summary of some lengths."""
        return cls(min(lengths), round(median(lengths)), max(lengths)) if lengths else cls()


@dataclass
class Finding:
    """All cases of one kind.

    Attributes:
        kind: A key of `ERRORS` or `NOTES`.
        count: The number of cases.
        examples: The first few, as `file:line (what is wrong)`.
    """

    kind: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def line(self, total: str = "") -> str:
        """Return the kind in words, the number of cases with `total` after it, and the first places."""
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{(ERRORS | NOTES)[self.kind]}: {self.count}{total}, {', '.join(self.examples)}{more}"


@dataclass
class PartTally:
    """The content of the files of one part, without bad lines and leaks.

    Attributes:
        files: The files.
        num_records: Records.
        num_text_only: Records without a question.
        chars: Lengths in characters by field; each context counts once, empty prompts and answers do not.
        contexts: Hashes of the contexts, with their first places in validation.
        records: Hashes of the records.
    """

    files: list[str] = field(default_factory=list)
    num_records: int = 0
    num_text_only: int = 0
    chars: dict[str, "array[int]"] = field(default_factory=lambda: {name: array("q") for name in FIELDS})
    contexts: dict[int, str] = field(default_factory=dict)
    records: set[int] = field(default_factory=set)

    def lengths(self) -> dict[str, LengthSummary]:
        """Return the lengths in characters by field."""
        return {name: LengthSummary.of(chars) for name, chars in self.chars.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the tally as a JSON object."""
        return {
            "files": self.files,
            "num_records": self.num_records,
            "num_text_only": self.num_text_only,
            "num_contexts": len(self.contexts),
            "chars": {name: asdict(summary) for name, summary in self.lengths().items()},
        }


class DataCheck:
    """Checks files of records, validation first, then train; see `read` and `check_window`."""

    def __init__(self) -> None:
        self.parts: dict[Part, PartTally] = {}
        self.findings: dict[str, Finding] = {}
        self.window: int | None = None

    def read(self, path: str | os.PathLike[str], part: Part) -> Iterator[tuple[int, Record]]:
        """Yield the good records of a file with their line numbers, and keep what is wrong as findings.

        Bad lines are left out, and training records whose context is in a validation file that was read
        before (up to white space). A file that a recipe names twice is tallied once.

        Raises:
            FileNotFoundError: If `path` is not a file.
        """
        file = str(path)
        tally = self.parts.setdefault(part, PartTally())
        is_new = file not in tally.files
        if is_new:
            tally.files.append(file)
        held_out = self.parts["validation"].contexts if part == "train" and "validation" in self.parts else {}
        num_good = 0

        def on_bad_line(bad: BadLine) -> None:
            if is_new:
                self.add(bad.fault, f"{bad.file}:{bad.number}", bad.problem)

        for number, record in read_numbered(path, on_bad_line):
            num_good += 1
            place, context = f"{file}:{number}", _context_hash(record.context)
            leak = held_out.get(context)
            if leak is None:
                if is_new:
                    self._count(part, record, context, place)
                yield number, record
            elif is_new:
                self.add("leak", place, f"it is that of {leak}")
        if is_new and not num_good:
            self.add("no_records", file)

    def add(self, kind: str, place: str, detail: str = "") -> None:
        """Count a case of a kind."""
        finding = self.findings.setdefault(kind, Finding(kind))
        finding.count += 1
        if len(finding.examples) < _MAX_EXAMPLES:
            finding.examples.append(f"{place} ({detail})" if detail else place)

    def _count(self, part: Part, record: Record, context: int, place: str) -> None:
        tally = self.parts[part]
        tally.num_records += 1
        if context not in tally.contexts:
            tally.contexts[context] = place if part == "validation" else ""
            tally.chars["context"].append(len(record.context))
        whole = _hash(f"{context}\0{record.prompt}\0{record.answer}")
        if whole in tally.records:
            self.add("duplicate", place)
        tally.records.add(whole)
        if record.is_text_only:
            tally.num_text_only += 1
            return
        tally.chars["prompt"].append(len(record.prompt))
        tally.chars["answer"].append(len(record.answer))
        if not record.options and not is_in_text(record.answer, record.context):
            self.add("answer_not_in_context", place)

    def check_window(
        self,
        path: str,
        records: Iterable[tuple[int, Record]],
        count_positions: Callable[[Record], int],
        window: int,
    ) -> list[bool]:
        """Return which records fit a decoder's window; the others become findings.

        Args:
            path: The records' file.
            records: Records with their line numbers.
            count_positions: The most positions that a sample of a record can need; the number must be exact
                only above the window.
            window: Positions of the decoder.

        Raises:
            E2LLMError: If a record's text cannot be counted, with its file and line.
        """
        self.window = window
        fits = []
        for number, record in records:
            try:
                needed = count_positions(record)
            except E2LLMError as error:
                raise E2LLMError(f"{path}:{number}: {error}") from error
            fits.append(needed <= window)
            if needed > window:
                self.add("overflow", f"{path}:{number}", f"needs {needed} of {window} positions")
        return fits

    def level(self, finding: Finding) -> Literal["error", "warning", "note"]:
        """Return how bad a finding is: missing answers are a warning if they are most of the questions."""
        if finding.kind in ERRORS:
            return "error"
        is_warning = finding.kind == "duplicate" or finding.count > _LARGE_SHARE * self.num_questions
        return "warning" if is_warning else "note"

    def at_level(self, level: str) -> list[Finding]:
        """Return the findings that are `error`, `warning` or `note`, by kind."""
        found = (self.findings[kind] for kind in ERRORS | NOTES if kind in self.findings)
        return [finding for finding in found if self.level(finding) == level]

    @property
    def errors(self) -> list[Finding]:
        """The findings that must be fixed or left out."""
        return self.at_level("error")

    @property
    def warnings(self) -> list[Finding]:
        """The findings that are likely mistakes."""
        return self.at_level("warning")

    @property
    def num_questions(self) -> int:
        """The number of records with a question in all parts."""
        return sum(tally.num_records - tally.num_text_only for tally in self.parts.values())

    def lines(self, *, leaves_out: bool = False) -> list[str]:
        """Return the report: a line per part, then one per kind of finding.

        Args:
            leaves_out: Whether wrong records are left out instead of being an error.
        """
        lines = [_part_line(part, self.parts[part]) for part in sorted(self.parts)]
        for level in ("error", "warning", "note"):
            for finding in self.at_level(level):
                skipped = leaves_out and level == "error" and finding.kind != "no_records"
                total = f" of {self.num_questions}" if finding.kind == "answer_not_in_context" else ""
                lines.append(f"{'left out' if skipped else level}: {finding.line(total)}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "parts": {part: self.parts[part].to_dict() for part in sorted(self.parts)},
            "window": self.window,
            "findings": [
                {"level": level, **asdict(finding)}
                for level in ("error", "warning", "note")
                for finding in self.at_level(level)
            ],
        }


def _part_line(part: str, tally: PartTally) -> str:
    lengths = (f"{name} {item.min}/{item.median}/{item.max}" for name, item in tally.lengths().items())
    return (
        f"{part}: {counted(tally.num_records, 'record')} ({tally.num_text_only} text only), "
        f"{counted(len(tally.contexts), 'context')}; characters (min/median/max): {', '.join(lengths)}"
    )


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


@lru_cache(maxsize=1)  # the questions of one context follow each other
def _context_hash(context: str) -> int:
    return _hash(" ".join(context.split()))  # white space does not count


def normalize(text: str) -> str:
    """Return a text in lower case, with one space for every run of spaces and punctuation."""
    return _SEPARATORS.sub(" ", text.casefold()).strip()


_normalized_context = lru_cache(maxsize=1)(normalize)  # the questions of one context follow each other


def is_in_text(answer: str, text: str) -> bool:
    """Return whether whole words of a text are the answer, ignoring case, spaces and punctuation.

    Only ASCII letters and digits continue a word: other scripts may have no spaces between words.
    """
    wanted = normalize(answer)
    if not wanted:
        return answer.strip() in text
    pattern = rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9])"
    return re.search(pattern, _normalized_context(text)) is not None
