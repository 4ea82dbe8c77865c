"""A data set is a function that yields records, and facts about the data; `@data_set` registers it.

The function gets a `Conversion`, which finds and reads files and counts the entries that are left out. Its
keyword-only parameters are the options of `e2llm prepare NAME --set OPTION=VALUE`.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, get_origin, get_type_hints
from xml.etree import ElementTree

from e2llm.errors import E2LLMError, MissingExtraError
from e2llm.file_bytes import read_text
from e2llm.records import Record, other_format

Records = Iterator[Record | None]  # None: an entry that was left out
Reader = Callable[..., Records]
_ROWS_PER_BATCH = 16  # of Parquet: a row may be a whole book
DATASETS: dict[str, "DataSet"] = {}
"""The data sets by name; import it from `e2llm.data.registry`, which loads those of the package."""


@dataclass(frozen=True)
class DataSet:
    """A public data set in the layout that its authors publish, or a kind of your own files.

    Attributes:
        name: The data set's name on the command line and in `Record.source`.
        read: Yields the records of a `Conversion`.
        description: One sentence on the questions.
        licence: The licence of the data, not of this code.
        home: Where a user gets the data.
        layout: The files that the conversion expects, in one line.
        splits: The splits; the first is the default.
        published_counts: Entries per split that the authors report.
    """

    name: str
    read: Reader
    description: str
    licence: str
    home: str
    layout: str
    splits: tuple[str, ...] = ("train",)
    published_counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The types of the options by name."""
        hints = get_type_hints(self.read)
        parameters = signature(self.read).parameters.values()
        return {item.name: hints[item.name] for item in parameters if item.kind is item.KEYWORD_ONLY}

    def __call__(self, **options: Any) -> "Conversion":
        """Return a conversion with these options; numbers and tuples may be given as text.

        Raises:
            E2LLMError: If an option is unknown or has a wrong value.
        """
        known = self.options
        unknown = [name for name in options if name not in known]
        if unknown:
            allowed = f"its options are: {', '.join(known)}" if known else "it has no options"
            raise E2LLMError(f"{self.name} has no option {', '.join(unknown)}; {allowed}")
        return Conversion(self, {name: _parsed(name, value, known[name]) for name, value in options.items()})


def data_set(name: str, **facts: Any) -> Callable[[Reader], DataSet]:
    """Return a decorator that registers a function as the data set `name`.

    Args:
        name: The name in `DATASETS`.
        facts: The other attributes of `DataSet`.
    """

    def register(read: Reader) -> DataSet:
        DATASETS[name] = DataSet(name, read, **facts)
        return DATASETS[name]

    return register


def _parsed(name: str, value: Any, kind: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    if isinstance(value, str) and get_origin(kind) is tuple:
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]["msg"]
        raise E2LLMError(f"option {name}={value!r}: {fault[:1].lower()}{fault[1:]}") from error


class Conversion:
    """The conversion of one split of a data set.

    Attributes:
        source: The file or folder of the data set.
        split: The split.
        skipped: Reasons why entries were left out, and how many.
        place: The file, and the line or row, that is being read; errors begin with it.
    """

    source: Path
    split: str
    place: str

    def __init__(self, dataset: DataSet, options: dict[str, Any]) -> None:
        self.dataset = dataset
        self.options = options
        self.skipped: Counter[str] = Counter()

    def convert(self, source: Path, split: str | None = None) -> Iterator[Record]:
        """Stream the records of one split; None is the data set's first.

        Raises:
            E2LLMError: If the split is unknown, or a file does not have the expected layout.
            FileNotFoundError: If `source` or a file of the layout is missing.
        """
        known = self.dataset.splits
        self.split = known[0] if split is None else split
        if self.split not in known:
            raise E2LLMError(f"{self.dataset.name} has no split {split!r}; choose from: {', '.join(known)}")
        if not source.exists():
            raise self.missing(source)
        self.source, self.place = source, str(source)
        self.skipped.clear()
        return self._guarded()

    def _guarded(self) -> Iterator[Record]:
        """Yield the records; report a missing key or a value of a wrong type as an error in the data."""
        try:
            for record in self.dataset.read(self, **self.options):
                if record is not None:
                    yield record
        except KeyError as error:
            raise self.error(f"missing key {error}") from error
        except (AttributeError, IndexError, TypeError) as error:
            raise self.error(f"a value has the wrong type ({error})") from error

    def record(self, context: str, prompt: str = "", answer: str = "", **more: Any) -> Record:
        """Return a record of this data set."""
        return Record(context, prompt, answer, source=self.dataset.name, **more)

    def question(
        self, context: str, prompt: str, answers: Iterable[str], *, options: tuple[str, ...] = (), **more: Any
    ) -> Record | None:
        """Return a record with a question, or None, counted, if a text is empty.

        Args:
            context: The text.
            prompt: The question.
            answers: Accepted answers; the first that is not empty is the answer, the others are references.
            options: Choices of a multiple-choice question.
            more: Further fields of the record.
        """
        given = list(dict.fromkeys(answer for answer in answers if answer.strip()))
        if not context.strip() or not prompt.strip() or not given or not all(options):
            self.skip("context, question, option or answer is empty")
            return None
        references = tuple(given[1:])
        return self.record(context, prompt, given[0], references=references, options=options, **more)

    def skip(self, reason: str, count: int = 1) -> None:
        """Count entries that are left out."""
        self.skipped[reason] += count

    def error(self, problem: str) -> E2LLMError:
        """Return an error with the current place and the expected layout."""
        return E2LLMError(f"{self.place}: {problem}; {self.dataset.name} expects {self.dataset.layout}")

    def missing(self, path: Path) -> FileNotFoundError:
        """Return an error for a file or folder that does not exist."""
        return FileNotFoundError(f"not found: {path}; {self.dataset.name} expects {self.dataset.layout}")

    def file(self, *names: str) -> Path:
        """Return the source if it is a file, else the first of these files in it.

        Raises:
            FileNotFoundError: If none of them exists.
        """
        paths = [self.source] if self.source.is_file() else [self.source / name for name in names]
        for path in paths:
            if path.is_file():
                return path
        raise self.missing(paths[0])

    def files(self, *patterns: str) -> list[Path]:
        """Return the source if it is a file, else the files in it that match the first pattern with any.

        Raises:
            FileNotFoundError: If no pattern matches a file.
        """
        if self.source.is_file():
            return [self.source]
        for pattern in patterns:
            if found := sorted(self.source.glob(pattern)):
                return found
        raise self.missing(self.source / patterns[0])

    def text(self, path: Path, encoding: str = "utf-8-sig") -> str:
        """Return the text of a file that must exist."""
        if not path.is_file():
            raise self.missing(path)
        self.place = str(path)
        return read_text(path, encoding)

    def json(self, path: Path) -> Any:
        """Return the JSON document of a file."""
        text = self.text(path)
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:  # also a number of too many digits, nesting too deep
            raise self.error(f"not valid JSON: {error}") from error

    def xml(self, path: Path) -> ElementTree.Element:
        """Return the root element of an XML file."""
        self.place = str(path)
        try:
            return ElementTree.fromstring(path.read_bytes())
        except ElementTree.ParseError as error:
            raise self.error(f"not valid XML ({error})") from error

    def lines(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the objects of a JSON Lines file with their line numbers; blank lines are skipped."""
        with path.open("rb") as stream:
            self.place = str(path)
            if problem := other_format(stream.peek(), path):
                raise self.error(problem)
            for number, line in enumerate(stream, start=1):
                self.place = f"{path}:{number}"
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except (ValueError, RecursionError) as error:  # also a number of too many digits
                    raise self.error(f"not a line of UTF-8 JSON: {error}") from error
                if not isinstance(row, dict):
                    raise self.error(f"expected a JSON object, got {type(row).__name__}")
                yield number, row

    def csv(self, path: Path, *columns: str) -> Iterator[dict[str, str]]:
        """Yield the rows of a CSV file that has these columns; missing cells are empty strings."""
        # splitlines() would also break at form feeds and other separators inside a cell
        reader = csv.DictReader(io.StringIO(self.text(path), newline=""))
        found = reader.fieldnames or ()
        if missing := [column for column in columns if column not in found]:
            raise self.error(f"no column {', '.join(missing)}; found {', '.join(found)}")
        try:
            for row in reader:
                self.place = str(path)
                yield {key: value or "" for key, value in row.items() if isinstance(key, str)}
        except csv.Error as error:
            self.place = f"{path}:{reader.reader.line_num}"
            raise self.error(f"not a row of CSV: {error}") from error

    def parquet(self, path: Path, *columns: str, optional: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the rows of a Parquet file with their numbers from 1.

        Args:
            path: The file.
            columns: Columns of strings that the file must have; a cell may be None.
            optional: A column of any type that is read if the file has it.

        Raises:
            E2LLMError: If the file is not Parquet, or lacks a column of strings.
            MissingExtraError: If pyarrow is not installed.
        """
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise MissingExtraError("pyarrow", "data") from error
        self.place = str(path)
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise self.error(f"not a Parquet file ({error})") from error
        with file:
            names = file.schema_arrow.names
            for column in columns:
                if column not in names:
                    raise self.error(f"no column {column!r}; found {', '.join(names)}")
                kind = file.schema_arrow.field(column).type
                if kind not in (pa.string(), pa.large_string()):
                    raise self.error(f"column {column!r} contains {kind}, not strings")
            wanted = [*columns, *({optional} & {*names} - {*columns})]
            batches = file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=wanted)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                self.place = f"{path}: row {number}"
                yield number, row
