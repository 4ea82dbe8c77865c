"""What all converters of data sets share: name, origin, splits, and a count of what was left out."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from e2llm.errors import E2LLMError
from e2llm.records import Record


@dataclass
class Converter(ABC):
    """Turns one public data set, in the layout its authors publish, into records.

    The fields of a subclass are its options; `e2llm prepare DATASET --set field=value` fills them.

    Attributes:
        name: The data set's name on the command line and in `Record.source`.
        description: One sentence on what its records ask.
        licence: The licence of the data, not of this code.
        home: Where a user gets the data.
        layout: What `source` must hold, as one line.
        splits: The splits that `convert` accepts; the first is the default.
        published_counts: Entries per split as the authors publish them, where they do.
        skipped: Why entries were left out and how many, filled while converting.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    licence: ClassVar[str]
    home: ClassVar[str]
    layout: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ("train",)
    published_counts: ClassVar[Mapping[str, int]] = {}

    skipped: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def convert(self, source: Path, split: str) -> Iterator[Record]:
        """Stream the records of one split.

        Args:
            source: The folder (or file) of the data set, unpacked.
            split: One of `splits`.

        Raises:
            E2LLMError: If `split` is unknown, or a file does not hold what the layout promises.
            FileNotFoundError: If `source` does not exist or lacks a file of the layout.
        """
        if split not in self.splits:
            raise E2LLMError(f"{self.name} has no split {split!r}; choose from: {', '.join(self.splits)}")
        if not source.exists():
            raise FileNotFoundError(f"no such file or folder: {source}; {self.name} expects {self.layout}")
        self.skipped.clear()
        return self._checked(source, split)

    def published_count(self, split: str) -> int | None:
        """Entries of a split according to its authors; None where they do not say.

        Sets that are published in several layouts answer for the one that was converted last.
        """
        return self.published_counts.get(split)

    def _checked(self, source: Path, split: str) -> Iterator[Record]:
        """The records; a value of a type that the layout does not have is the data's fault, not a crash."""
        try:
            yield from self._records(source, split)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise self._layout_error(source, f"a value is not of the expected type ({error!r})") from error

    @abstractmethod
    def _records(self, source: Path, split: str) -> Iterator[Record]:
        """Yield the records; `source` exists and `split` is one of `splits`."""

    def _layout_error(self, path: Path, problem: str) -> E2LLMError:
        """An error that names the file, what is wrong with it and what was expected."""
        return E2LLMError(f"{path}: {problem}; {self.name} expects {self.layout}")

    def _missing_error(self, path: Path) -> FileNotFoundError:
        """An error for a file or folder of the layout that is not there."""
        return FileNotFoundError(f"not found: {path}; {self.name} expects {self.layout}")
