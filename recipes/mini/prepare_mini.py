"""Make the records that the recipes of this folder train on.

    python recipes/mini/prepare_mini.py RAW_DIR OUT_DIR [--only NAME ...] [--workers N]

RAW_DIR holds the public data sets, unpacked, in folders of the names below, and two Parquet files of books;
recipes/mini/README.md says where each is to be had. A file of records that is there already is kept.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from e2llm.data.needles import generate_needles
from e2llm.data.prepare import prepare_records
from e2llm.errors import E2LLMError
from e2llm.records import Record, read_records, write_records

HELD_OUT_BOOK = "Anne of Green Gables"  # read in the examples and in the demo: never trained on
SHORT_CHARS = (200, 250, 300, 450, 600, 900)
LONG_CHARS = (1200, 2000, 3000, 4000)
FAR_CHARS = (6000, 12000, 24000, 34000)
RECALL = ("number", "word", "multi_key")
SINGLE = ("number", "number", "number", "word", "uuid")


@dataclass(frozen=True)
class Job:
    """One file to make: by a function of the raw folder and the output folder, after other files.

    Attributes:
        make: Writes the file at the path that it is given, from the raw folder.
        after: Names of files that it reads, made before it.
    """

    make: Callable[[Path, Path], None]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """A data set as its converter reads it."""

    dataset: str
    folder: str
    split: str = "train"
    max_per_context: int | None = None
    options: tuple[tuple[str, str], ...] = ()

    def __call__(self, raw: Path, output: Path) -> None:
        """Write the records."""
        prepare_records(
            self.dataset,
            raw / self.folder,
            output,
            self.split,
            max_per_context=self.max_per_context,
            options=dict(self.options),
        )


@dataclass(frozen=True)
class Books:
    """The classic books of children's authors, or the others, without the book that is held out."""

    for_children: bool

    def __call__(self, raw: Path, output: Path) -> None:
        """Write the records."""
        import pyarrow.parquet as pq

        rows = pq.read_table(raw / "classic_books.parquet").to_pylist()
        write_records(
            output,
            (
                Record(row["text"], "", "", id=row["id"], source="classic_books")
                for row in rows
                if row["childrens_author"] == self.for_children and row["title"] != HELD_OUT_BOOK
            ),
        )


@dataclass(frozen=True)
class Haystacks:
    """The texts of other files, each once, as text-only records."""

    names: tuple[str, ...]

    def __call__(self, raw: Path, output: Path) -> None:
        """Write the records."""
        records = chain.from_iterable(read_records(output.parent / f"{name}.jsonl") for name in self.names)
        write_records(output, unique_texts(records))


@dataclass(frozen=True)
class Needles:
    """Facts hidden in haystacks."""

    haystacks: str
    seed: int
    num_records: int
    lengths_chars: tuple[int, ...]
    kinds: tuple[str, ...]
    noise_fraction: float = 0.1
    needle_fraction: float = 0.7

    def __call__(self, raw: Path, output: Path) -> None:
        """Write the records."""
        texts = [record.context for record in read_records(output.parent / f"{self.haystacks}.jsonl")]
        records = generate_needles(
            texts,
            self.num_records,
            self.lengths_chars,
            self.kinds,
            self.seed,
            self.noise_fraction,
            self.needle_fraction,
        )
        write_records(output, records)


@dataclass(frozen=True)
class Passages:
    """Stretches of haystacks, each a chunk to put around what is asked about, as text-only records."""

    haystacks: str
    seed: int
    num_records: int
    shortest_chars: int
    longest_chars: int

    def __call__(self, raw: Path, output: Path) -> None:
        """Write the records."""
        rng = random.Random(self.seed)
        texts = [record.context for record in read_records(output.parent / f"{self.haystacks}.jsonl")]
        lengths = [len(text) for text in texts]
        write_records(output, (self._draw(rng, texts, lengths) for _ in range(self.num_records)))

    def _draw(self, rng: random.Random, texts: list[str], lengths: list[int]) -> Record:
        text = rng.choices(texts, lengths)[0]
        length = rng.randint(self.shortest_chars, self.longest_chars)
        start = rng.randrange(max(1, len(text) - length))
        start = text.find(" ", start) + 1 if start else 0
        return Record(text[start : start + length].strip(), "", "")


def unique_texts(records: Iterable[Record]) -> Iterator[Record]:
    """A text-only record for each context, with the id of the first record that has it."""
    seen: set[str] = set()
    for record in records:
        if record.context not in seen:
            seen.add(record.context)
            yield Record(record.context, "", "", id=record.id)


TRAIN_HAYSTACKS = ("fairytaleqa-train", "storybooks", "classic-children")
ARTICLE = (("context", "article"),)

JOBS: dict[str, Job] = {
    # Plain text.
    "tinystories": Job(Converted("tinystories", "tinystories")),
    "storybooks": Job(Converted("storybooks", "storybooks_asp_pb")),
    "classic-children": Job(Books(for_children=True)),
    "classic-other": Job(Books(for_children=False)),
    "novels": Job(Converted("parquet", "novels.parquet")),
    # Questions.
    "fairytaleqa-train": Job(Converted("fairytaleqa", "fairytaleqa")),
    "fairytaleqa-validation": Job(Converted("fairytaleqa", "fairytaleqa", "validation")),
    "qamr": Job(Converted("qamr", "qamr", "all")),
    "squad-paragraph-train": Job(Converted("squad", "squad_dev")),
    "squad-paragraph-validation": Job(Converted("squad", "squad_dev", "validation")),
    "squad-article-train": Job(Converted("squad", "squad_dev", options=ARTICLE)),
    "squad-article-validation": Job(Converted("squad", "squad_dev", "validation", options=ARTICLE)),
    "qmsum-train": Job(Converted("qmsum", "qmsum")),
    "qmsum-validation": Job(Converted("qmsum", "qmsum", "validation")),
    "squality-train": Job(Converted("squality", "squality")),
    "squality-validation": Job(Converted("squality", "squality", "validation")),
    "covid_qa": Job(Converted("covid_qa", "covid_qa")),
    "scisummnet": Job(Converted("scisummnet", "scisummnet")),
    "sgd-train": Job(Converted("sgd", "sgd_dialogues")),
    "factbook": Job(Converted("factbook", "world_factbook", max_per_context=40)),
    "medquad": Job(Converted("medquad", "medquad")),
    "openstax": Job(Converted("openstax", "openstax_ccby")),
    # Haystacks, and needles in them.
    "haystacks": Job(Haystacks(TRAIN_HAYSTACKS), after=TRAIN_HAYSTACKS),
    "haystacks-validation": Job(Haystacks(("fairytaleqa-validation",)), after=("fairytaleqa-validation",)),
    "needles-short": Job(
        Needles("haystacks", 1, 40_000, SHORT_CHARS, ("number", *RECALL)), after=("haystacks",)
    ),
    "needles-long": Job(Needles("haystacks", 2, 10_000, LONG_CHARS, ()), after=("haystacks",)),
    "needles-short-validation": Job(
        Needles("haystacks-validation", 3, 400, SHORT_CHARS, RECALL), after=("haystacks-validation",)
    ),
    "needles-long-validation": Job(
        Needles("haystacks-validation", 4, 200, (2000, 4000, 8000), RECALL, noise_fraction=0.0),
        after=("haystacks-validation",),
    ),
    # One chunk each, of short ones many: copying and reading of soft tokens are learned from these.
    "needles-plain": Job(
        Needles("haystacks", 111, 40_000, (60, 60, 80), ("number", "number", "number", "word")),
        after=("haystacks",),
    ),
    "needles-bare": Job(Needles("haystacks", 101, 30_000, (60, 70, 80, 100), SINGLE), after=("haystacks",)),
    "needles-hay": Job(
        Needles("haystacks", 102, 30_000, (120, 160, 200, 250, 300), (*SINGLE, "multi_key", "multi_key")),
        after=("haystacks",),
    ),
    "needles-chunk": Job(
        Needles(
            "haystacks",
            112,
            12_000,
            (300, 400, 500, 500),
            ("number", "number", "word", "uuid", "uuid", "multi_key"),
        ),
        after=("haystacks",),
    ),
    "needles-dull": Job(
        Needles("haystacks", 123, 4_000, (200, 300, 500), ("number", "number", "uuid", "word"), 1.0),
        after=("haystacks",),
    ),
    "needles-several": Job(
        Needles("haystacks", 122, 6_000, (400, 700, 1000, 1500), ("multi_key", "multi_value", "multi_query")),
        after=("haystacks",),
    ),
    "variables": Job(
        Needles(
            "haystacks",
            121,
            4_000,
            (300, 400, 500, 800, 1200),
            ("variables", "variables", "variables", "variable_value"),
            0.6,
        ),
        after=("haystacks",),
    ),
    # One fact, or one of several that only their keys tell apart.
    "facts-bare": Job(
        Needles("haystacks", 131, 30_000, (60, 80, 100, 140), ("fact", "fact", "facts"), needle_fraction=1.0),
        after=("haystacks",),
    ),
    "facts-chunk": Job(
        Needles("haystacks", 132, 12_000, (200, 300, 400, 500), ("fact", "facts")), after=("haystacks",)
    ),
    "keys-bare": Job(
        Needles("haystacks", 133, 30_000, (160, 200, 300), ("multi_key", "multi_key", "facts"), 0.1, 1.0),
        after=("haystacks",),
    ),
    "keys-chunk": Job(
        Needles(
            "haystacks",
            134,
            12_000,
            (300, 400, 500, 500),
            ("multi_key", "multi_key", "multi_value", "multi_query", "facts"),
            needle_fraction=0.9,
        ),
        after=("haystacks",),
    ),
    # Without UUIDs, which no 8 soft tokens carry.
    "numbers-hay": Job(
        Needles("haystacks", 136, 30_000, (100, 160, 200, 250, 300), ("number", "number", "number", "word")),
        after=("haystacks",),
    ),
    "numbers-chunk": Job(
        Needles("haystacks", 137, 20_000, (300, 400, 500, 500), ("number", "number", "number", "word")),
        after=("haystacks",),
    ),
    "words": Job(
        Needles("haystacks", 135, 4_000, (300, 450, 600), ("common_words", "frequent_words")),
        after=("haystacks",),
    ),
    "facts-validation": Job(
        Needles("haystacks-validation", 106, 300, (100, 300, 500), ("fact", "facts", "multi_key"), 0.1, 0.9),
        after=("haystacks-validation",),
    ),
    "passages-short": Job(Passages("haystacks", 1, 3_000, 150, 400), after=("haystacks",)),
    "passages": Job(Passages("haystacks", 2, 3_000, 300, 500), after=("haystacks",)),
    "needles-plain-validation": Job(
        Needles("haystacks-validation", 107, 400, (60, 60, 80), ("number", "number", "number", "word")),
        after=("haystacks-validation",),
    ),
    "needles-bare-validation": Job(
        Needles("haystacks-validation", 103, 300, (60, 80, 100), ("number", "word", "uuid")),
        after=("haystacks-validation",),
    ),
    "needles-hay-validation": Job(
        Needles(
            "haystacks-validation",
            104,
            600,
            (160, 200, 250, 300),
            ("number", "word", "uuid", "multi_key"),
        ),
        after=("haystacks-validation",),
    ),
    "needles-chunk-validation": Job(
        Needles("haystacks-validation", 105, 300, (400, 500), ("number", "word", "uuid")),
        after=("haystacks-validation",),
    ),
    # All kinds, and lengths up to those that fill the decoder's window: for mini-gpu only.
    "needles-all": Job(
        Needles("haystacks", 5, 60_000, (*SHORT_CHARS, *LONG_CHARS), ()), after=("haystacks",)
    ),
    "needles-far": Job(Needles("novels", 6, 8_000, FAR_CHARS, ()), after=("novels",)),
}


def make(name: str, raw: Path, out: Path) -> str:
    """Make one file, unless it is there; returns what to say about it."""
    output = out / f"{name}.jsonl"
    if output.is_file():
        return f"{output}: kept"
    JOBS[name].make(raw, output)
    return f"{output}: {output.stat().st_size / 1e6:.1f} MB"


def with_needed(names: Iterable[str]) -> list[str]:
    """The names and those of the files that they are made of, in the order of `JOBS`."""
    wanted = set(names)
    for name in reversed(JOBS):
        if name in wanted:
            wanted.update(JOBS[name].after)
    return [name for name in JOBS if name in wanted]


def main(arguments: list[str] | None = None) -> int:
    """Make the files, those that need no other first."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("raw", type=Path, help="folder of the unpacked data sets")
    parser.add_argument("out", type=Path, help="folder for the records")
    parser.add_argument("--only", nargs="+", choices=list(JOBS), metavar="NAME", help="these files only")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    options = parser.parse_args(arguments)
    left = with_needed(options.only or JOBS)
    try:
        with ProcessPoolExecutor(options.workers) as pool:
            while left:
                ready = [name for name in left if not set(JOBS[name].after) & set(left)]
                left = [name for name in left if name not in ready]
                count = len(ready)
                for line in pool.map(make, ready, [options.raw] * count, [options.out] * count):
                    print(line, flush=True)
    except (E2LLMError, OSError) as error:
        print(f"prepare_mini: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
