"""What is wrong with files of records, and what they hold: counted while the records stream past.

Nothing but hashes and lengths is kept of them, so that files of any size can be checked.
"""

import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any, Literal

from e2llm.data.answers import AnswerFinder
from e2llm.data.lengths import LengthSummary, summarize
from e2llm.errors import E2LLMError
from e2llm.records import BadLine, Record, read_numbered

Part = Literal["train", "validation"]
FIELDS = ("context", "prompt", "answer")
ERROR_KINDS = {
    "not_utf8": "lines that are not UTF-8",
    "not_json": "lines that are not JSON",
    "missing_keys": "lines that lack a key",
    "wrong_value": "lines with a wrong value",
    "no_records": "files without a record",
    "leak": "training records whose context stands in validation, too",
    "overflow": "records that do not fit the decoder's window",
}
NOTE_KINDS = {
    "duplicate": "records that stand there twice",
    "answer_not_in_context": "questions whose answer does not stand in the context",
}
_MAX_EXAMPLES = 3
_LARGE_SHARE = 0.5  # of the questions: a data set of quoted answers has few that are not in the context
_SAMPLE_RECORDS, _SAMPLE_CHARS = 100, 4000


@dataclass(frozen=True)
class Example:
    """A place, as `file:line` or a file, and what is wrong there."""

    place: str
    detail: str

    def __str__(self) -> str:
        return f"{self.place} ({self.detail})" if self.detail else self.place


@dataclass
class Finding:
    """All cases of one kind.

    Attributes:
        kind: A key of `ERROR_KINDS` or `NOTE_KINDS`.
        count: How many cases there are.
        examples: The first few.
    """

    kind: str
    count: int = 0
    examples: list[Example] = field(default_factory=list)

    def line(self, total: str = "") -> str:
        """What it is, how many cases there are, of how many where that is given, and the first places."""
        title = {**ERROR_KINDS, **NOTE_KINDS}[self.kind]
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{title}: {self.count}{total}, {', '.join(map(str, self.examples))}{more}"


@dataclass
class PartTally:
    """What the files of one part hold, bad lines and leaks left out.

    Attributes:
        num_records: Records.
        num_text_only: Those without a question.
        chars: Lengths in characters by field; each context counts once, empty prompts and answers do not.
        chars_per_token: Characters that a decoder token stands for, by field, from a sample; empty where no
            tokenizer was at hand.
    """

    files: list[str] = field(default_factory=list)
    num_records: int = 0
    num_text_only: int = 0
    chars: dict[str, "array[int]"] = field(default_factory=lambda: {name: array("q") for name in FIELDS})
    chars_per_token: dict[str, float] = field(default_factory=dict)
    contexts: dict[int, str] = field(default_factory=dict)
    """Hashes of the contexts, with their places in validation."""
    records: set[int] = field(default_factory=set)
    """Hashes of the records."""

    def lengths(self) -> dict[str, LengthSummary]:
        """Lengths in characters by field."""
        return {name: summarize(chars) for name, chars in self.chars.items()}

    def token_lengths(self) -> dict[str, LengthSummary]:
        """Lengths in tokens by field, estimated from those in characters."""
        return {
            name: LengthSummary(*(round(value / rate) for value in asdict(self.lengths()[name]).values()))
            for name, rate in self.chars_per_token.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The tally as a JSON object."""
        return {
            "files": self.files,
            "num_records": self.num_records,
            "num_text_only": self.num_text_only,
            "num_contexts": len(self.contexts),
            "chars": {name: asdict(summary) for name, summary in self.lengths().items()},
            "estimated_tokens": {name: asdict(summary) for name, summary in self.token_lengths().items()},
        }


class DataCheck:
    """Checks files of records, validation first, then train; see `read` and `check_window`."""

    def __init__(self) -> None:
        self.parts: dict[Part, PartTally] = {}
        self.findings: dict[str, Finding] = {}
        self.window: int | None = None
        self._seen: dict[tuple[Part, str], int] = {}
        self._cases: set[tuple[str, str]] = set()
        self._last_context = ("", 0)
        self._answers = AnswerFinder()

    # --- reading ------------------------------------------------------------------------------------------

    def read(self, path: str | os.PathLike[str], part: Part) -> Iterator[tuple[int, Record]]:
        """The good records of a file with the numbers of their lines; what is wrong is kept as findings.

        Bad lines are left out, and training records whose context stands in a validation file that was read
        before (spaces not compared). A file that is read again, as a recipe may ask, is tallied once.

        Raises:
            FileNotFoundError: If `path` is no file.
        """
        file = str(path)
        tally = self.parts.setdefault(part, PartTally())
        if file not in tally.files:
            tally.files.append(file)
        has_records = False
        for number, record in read_numbered(path, self._add_bad_line):
            has_records = True
            place, context = f"{file}:{number}", self._context_hash(record.context)
            leak = self._leak(context) if part == "train" else None
            if number > self._seen.get((part, file), 0):
                self._seen[part, file] = number
                if leak is not None:
                    self.add("leak", place, f"it is that of {leak}")
                else:
                    self._count(part, record, context, place)
            if leak is None:
                yield number, record
        if not has_records:
            self.add("no_records", file)

    def add(self, kind: str, place: str, detail: str = "") -> None:
        """Count a case of a kind; the same place counts once."""
        if kind != "answer_not_in_context" and kind != "duplicate":  # those two come once a line anyhow
            if (kind, place) in self._cases:
                return
            self._cases.add((kind, place))
        finding = self.findings.setdefault(kind, Finding(kind))
        finding.count += 1
        if len(finding.examples) < _MAX_EXAMPLES:
            finding.examples.append(Example(place, detail))

    def _add_bad_line(self, bad: BadLine) -> None:
        self.add(bad.fault, f"{bad.file}:{bad.number}", bad.problem)

    def _leak(self, context: int) -> str | None:
        """Where a context stands in validation."""
        validation = self.parts.get("validation")
        return validation.contexts.get(context) if validation is not None else None

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
        if not record.options and not self._answers.stands_in(record.answer, record.context):
            self.add("answer_not_in_context", place)

    def _context_hash(self, context: str) -> int:
        """A hash that does not see spaces; the questions of one context follow each other, as a rule."""
        if context != self._last_context[0]:
            self._last_context = (context, _hash(" ".join(context.split())))
        return self._last_context[1]

    # --- with tokenizers ----------------------------------------------------------------------------------

    def check_window(
        self,
        path: str,
        records: Iterable[tuple[int, Record]],
        count_positions: Callable[[Record], int],
        window: int,
    ) -> list[bool]:
        """Which records fit a decoder's window; the others become findings.

        Args:
            path: The records' file.
            records: Records with the numbers of their lines.
            count_positions: The most positions that a sample of a record can need; above the window it has
                to be exact, below it need not be.
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

    def sample_tokens(
        self, part: Part, records: Iterable[Record], num_records: int, count_tokens: Callable[[str], int]
    ) -> None:
        """Find how many characters a token has, from beginnings of records that lie evenly among all."""
        tally = self.parts.setdefault(part, PartTally())
        step = max(1, num_records // _SAMPLE_RECORDS)
        chars, tokens = dict.fromkeys(FIELDS, 0), dict.fromkeys(FIELDS, 0)
        for place, record in enumerate(records):
            if place % step:
                continue
            for name in FIELDS:
                text = getattr(record, name)[:_SAMPLE_CHARS]
                if text:
                    chars[name] += len(text)
                    tokens[name] += count_tokens(text)
        tally.chars_per_token = {name: chars[name] / tokens[name] for name in FIELDS if tokens[name]}

    # --- what came of it ----------------------------------------------------------------------------------

    @property
    def errors(self) -> list[Finding]:
        """What must be mended or left out, by kind."""
        return [self.findings[kind] for kind in ERROR_KINDS if kind in self.findings]

    @property
    def warnings(self) -> list[Finding]:
        """What is likely to be a mistake: duplicates, and answers out of nowhere if they are many."""
        return [finding for finding in self._noted() if self._is_warning(finding)]

    def _noted(self) -> list[Finding]:
        return [self.findings[kind] for kind in NOTE_KINDS if kind in self.findings]

    def _is_warning(self, finding: Finding) -> bool:
        return finding.kind == "duplicate" or finding.count > _LARGE_SHARE * self.num_questions

    @property
    def num_questions(self) -> int:
        """Records with a question, all parts together."""
        return sum(tally.num_records - tally.num_text_only for tally in self.parts.values())

    def lines(self, *, leaves_out: bool = False) -> list[str]:
        """The report: a line per part, then one per kind of finding.

        Args:
            leaves_out: Whether what is wrong is left out, and not an error.
        """
        lines = [_part_line(part, self.parts[part]) for part in sorted(self.parts)]
        for finding in self.errors:
            skipped = leaves_out and finding.kind != "no_records"
            lines.append(f"{'left out' if skipped else 'error'}: {finding.line()}")
        for finding in self._noted():
            total = "" if finding.kind == "duplicate" else f" of {self.num_questions}"
            lines.append(f"{'warning' if self._is_warning(finding) else 'note'}: {finding.line(total)}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON object."""
        levels = dict.fromkeys(ERROR_KINDS, "error") | dict.fromkeys(NOTE_KINDS, "note")
        levels |= {finding.kind: "warning" for finding in self.warnings}
        findings = [*self.errors, *self._noted()]
        return {
            "parts": {part: self.parts[part].to_dict() for part in sorted(self.parts)},
            "window": self.window,
            "findings": [{"level": levels[item.kind], **asdict(item)} for item in findings],
        }


def _part_line(part: str, tally: PartTally) -> str:
    def shown(summaries: dict[str, LengthSummary]) -> str:
        return ", ".join(f"{name} {item.min}/{item.median}/{item.max}" for name, item in summaries.items())

    tokens = tally.token_lengths()
    return (
        f"{part}: {tally.num_records} records ({tally.num_text_only} text only), "
        f"{len(tally.contexts)} contexts; characters (min/median/max): {shown(tally.lengths())}"
        + (f"; tokens, about: {shown(tokens)}" if tokens else "")
    )


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
