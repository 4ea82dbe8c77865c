"""Make the records that the recipes of this folder train on.

    python recipes/mini/prepare_mini.py RAW_DIR OUT_DIR [--only NAME ...] [--workers N]

RAW_DIR holds the public data sets, unpacked, in folders of the names below, and two Parquet files of books;
recipes/mini/README.md says where each is to be had. A file of records that is there already is kept.
"""

import argparse
import random
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import ClassVar

from e2llm.data.needle_kinds import KINDS, TOLD_IN_WORDS_OF_TEXTS
from e2llm.data.needles import NeedlesConverter
from e2llm.data.prepare import prepare_records
from e2llm.errors import E2LLMError
from e2llm.records import Record, read_records, write_records

HELD_OUT_BOOK = "Anne of Green Gables"  # read in the examples and in the demo: never trained on
SHORT_CHARS = (200, 250, 300, 450, 600, 900)
LONG_CHARS = (1200, 2000, 3000, 4000)
FAR_CHARS = (6000, 12000, 24000, 34000)
RECALL = ("number", "word", "multi_key")
NUMBERS = ("number", "number", "number", "word")
SINGLE = (*NUMBERS, "uuid")
# Every kind but those told in words of the haystacks, which came later.
ALL_LISTED = tuple(kind for kind in KINDS if kind not in TOLD_IN_WORDS_OF_TEXTS)


@dataclass(frozen=True)
class Converted:
    """A data set as its converter reads it."""

    dataset: str
    folder: str
    split: str = "train"
    max_per_context: int | None = None
    options: tuple[tuple[str, str], ...] = ()
    after: ClassVar[tuple[str, ...]] = ()

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
    after: ClassVar[tuple[str, ...]] = ()

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

    after: tuple[str, ...]

    def __call__(self, raw: Path, output: Path) -> None:
        """Write the records."""
        records = chain.from_iterable(read_records(output.parent / f"{name}.jsonl") for name in self.after)
        write_records(output, unique_texts(records))


@dataclass(frozen=True)
class Needles:
    """Facts hidden in haystacks."""

    haystacks: str
    converter: NeedlesConverter

    @property
    def after(self) -> tuple[str, ...]:
        """The haystacks."""
        return (self.haystacks,)

    def __call__(self, raw: Path, output: Path) -> None:
        """Write the records."""
        write_records(output, self.converter.convert(output.parent / f"{self.haystacks}.jsonl", "train"))


def needles(
    haystacks: str,
    seed: int,
    num_records: int,
    lengths_chars: tuple[int, ...],
    kinds: tuple[str, ...] = (),
    **fractions: float,
) -> Needles:
    """What `e2llm prepare needles` makes with these options."""
    return Needles(haystacks, NeedlesConverter(num_records, lengths_chars, kinds, seed, **fractions))


@dataclass(frozen=True)
class Passages:
    """Stretches of haystacks, each a chunk to put around what is asked about, as text-only records."""

    haystacks: str
    seed: int
    num_records: int
    shortest_chars: int
    longest_chars: int

    @property
    def after(self) -> tuple[str, ...]:
        """The haystacks."""
        return (self.haystacks,)

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

# Each writes the file at the path that it is given, from the raw folder and the files that it comes `after`.
JOBS: dict[str, Converted | Books | Haystacks | Needles | Passages] = {
    # Plain text.
    "tinystories": Converted("tinystories", "tinystories"),
    "storybooks": Converted("storybooks", "storybooks_asp_pb"),
    "classic-children": Books(for_children=True),
    "classic-other": Books(for_children=False),
    "novels": Converted("parquet", "novels.parquet"),
    # Questions.
    "fairytaleqa-train": Converted("fairytaleqa", "fairytaleqa"),
    "fairytaleqa-validation": Converted("fairytaleqa", "fairytaleqa", "validation"),
    "qamr": Converted("qamr", "qamr", "all"),
    "squad-paragraph-train": Converted("squad", "squad_dev"),
    "squad-paragraph-validation": Converted("squad", "squad_dev", "validation"),
    "squad-article-train": Converted("squad", "squad_dev", options=ARTICLE),
    "squad-article-validation": Converted("squad", "squad_dev", "validation", options=ARTICLE),
    "qmsum-train": Converted("qmsum", "qmsum"),
    "qmsum-validation": Converted("qmsum", "qmsum", "validation"),
    "squality-train": Converted("squality", "squality"),
    "squality-validation": Converted("squality", "squality", "validation"),
    "covid_qa": Converted("covid_qa", "covid_qa"),
    "scisummnet": Converted("scisummnet", "scisummnet"),
    "sgd-train": Converted("sgd", "sgd_dialogues"),
    "factbook": Converted("factbook", "world_factbook", max_per_context=40),
    "medquad": Converted("medquad", "medquad"),
    "openstax": Converted("openstax", "openstax_ccby"),
    # Haystacks, and needles in them.
    "haystacks": Haystacks(TRAIN_HAYSTACKS),
    "haystacks-validation": Haystacks(("fairytaleqa-validation",)),
    "needles-short": needles("haystacks", 1, 40_000, SHORT_CHARS, ("number", *RECALL)),
    "needles-long": needles("haystacks", 2, 10_000, LONG_CHARS, ALL_LISTED),
    "needles-short-validation": needles("haystacks-validation", 3, 400, SHORT_CHARS, RECALL),
    "needles-long-validation": needles(
        "haystacks-validation", 4, 200, (2000, 4000, 8000), RECALL, noise_fraction=0.0
    ),
    # One chunk each, of short ones many: copying and reading of soft tokens are learned from these.
    "needles-plain": needles("haystacks", 111, 40_000, (60, 60, 80), NUMBERS),
    "needles-bare": needles("haystacks", 101, 30_000, (60, 70, 80, 100), SINGLE),
    "needles-hay": needles(
        "haystacks", 102, 30_000, (120, 160, 200, 250, 300), (*SINGLE, "multi_key", "multi_key")
    ),
    "needles-chunk": needles(
        "haystacks",
        112,
        12_000,
        (300, 400, 500, 500),
        ("number", "number", "word", "uuid", "uuid", "multi_key"),
    ),
    "needles-dull": needles(
        "haystacks", 123, 4_000, (200, 300, 500), ("number", "number", "uuid", "word"), noise_fraction=1.0
    ),
    "needles-several": needles(
        "haystacks", 122, 6_000, (400, 700, 1000, 1500), ("multi_key", "multi_value", "multi_query")
    ),
    "variables": needles(
        "haystacks",
        121,
        4_000,
        (300, 400, 500, 800, 1200),
        ("variables", "variables", "variables", "variable_value"),
        noise_fraction=0.6,
    ),
    # One fact, or one of several that only their keys tell apart.
    "facts-bare": needles(
        "haystacks", 131, 30_000, (60, 80, 100, 140), ("fact", "fact", "facts"), needle_fraction=1.0
    ),
    "facts-chunk": needles("haystacks", 132, 12_000, (200, 300, 400, 500), ("fact", "facts")),
    "keys-bare": needles(
        "haystacks", 133, 30_000, (160, 200, 300), ("multi_key", "multi_key", "facts"), needle_fraction=1.0
    ),
    "keys-chunk": needles(
        "haystacks",
        134,
        12_000,
        (300, 400, 500, 500),
        ("multi_key", "multi_key", "multi_value", "multi_query", "facts"),
        needle_fraction=0.9,
    ),
    # Without UUIDs, which no 8 soft tokens carry.
    "numbers-hay": needles("haystacks", 136, 30_000, (100, 160, 200, 250, 300), NUMBERS),
    "numbers-chunk": needles("haystacks", 137, 20_000, (300, 400, 500, 500), NUMBERS),
    "words": needles("haystacks", 135, 4_000, (300, 450, 600), ("common_words", "frequent_words")),
    "text-facts-bare": needles(
        "haystacks", 138, 30_000, (60, 80, 100, 160), ("text_fact", "text_facts"), needle_fraction=1.0
    ),
    "text-facts-chunk": needles("haystacks", 139, 20_000, (200, 300, 400, 500), ("text_fact", "text_facts")),
    "text-facts-validation": needles(
        "haystacks-validation", 108, 300, (100, 300, 500), ("text_fact", "text_facts"), needle_fraction=0.9
    ),
    "facts-validation": needles(
        "haystacks-validation", 106, 300, (100, 300, 500), ("fact", "facts", "multi_key"), needle_fraction=0.9
    ),
    "passages-short": Passages("haystacks", 1, 3_000, 150, 400),
    "passages": Passages("haystacks", 2, 3_000, 300, 500),
    "needles-plain-validation": needles("haystacks-validation", 107, 400, (60, 60, 80), NUMBERS),
    "needles-bare-validation": needles(
        "haystacks-validation", 103, 300, (60, 80, 100), ("number", "word", "uuid")
    ),
    "needles-hay-validation": needles(
        "haystacks-validation", 104, 600, (160, 200, 250, 300), ("number", "word", "uuid", "multi_key")
    ),
    "needles-chunk-validation": needles(
        "haystacks-validation", 105, 300, (400, 500), ("number", "word", "uuid")
    ),
    # All kinds, and lengths up to those that fill the decoder's window: for mini-gpu only.
    "needles-all": needles("haystacks", 5, 60_000, (*SHORT_CHARS, *LONG_CHARS)),
    "needles-far": needles("novels", 6, 8_000, FAR_CHARS),
}


def make(name: str, raw: Path, out: Path) -> str:
    """Make one file, unless it is there; returns what to say about it."""
    output = out / f"{name}.jsonl"
    if output.is_file():
        return f"{output}: kept"
    JOBS[name](raw, output)
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
