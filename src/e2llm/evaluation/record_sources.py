"""Where the records of a task come from, and which of them are asked when not all are."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

from e2llm.data.data_set import DataSet
from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError
from e2llm.evaluation.shipped_samples import read_sample, sample_file
from e2llm.records import Record, read_records

RecordSource = Callable[[], Iterator[Record]]


def find_records(name: str, data: Path | None) -> RecordSource:
    """Find the validation records of a data set.

    The first of these that is there: `data/NAME-validation.jsonl`, as `e2llm prepare` writes it; the folder
    `data/NAME` in the layout of the data set's authors; the sample in the package.

    Args:
        name: A key of `DATASETS`.
        data: Folder with data sets; None for only what is in the package.

    Returns:
        A function that reads the records from the beginning.

    Raises:
        E2LLMError: If none is there; the message says where to get the data and which command to run.
        FileNotFoundError: If `data` is no folder.
    """
    converter = DATASETS[name]
    split = evaluation_split(converter)
    found = find_place(name, data)
    if found is None:
        place = data or Path("DATA")
        looked = (
            f"neither {name}-validation.jsonl nor a folder {name} is in {place}" if data else "no data named"
        )
        raise E2LLMError(
            f"the data set {name} is not here ({looked}); get it from {converter.home} "
            f"(licence: {converter.licence}), and run: e2llm prepare {name} --from FOLDER --split {split} "
            f"-o {place / f'{name}-validation.jsonl'}; FOLDER is {converter.layout}"
        )
    if found == sample_file(name):
        return partial(read_sample, found)
    if found.name == f"{name}-validation.jsonl":
        return partial(read_records, found)
    return partial(converter().convert, found, split)


def find_place(name: str, data: Path | None) -> Path | None:
    """The file or folder that `find_records` reads; None if there is none.

    Raises:
        FileNotFoundError: If `data` is no folder.
    """
    if data is not None:
        if not data.is_dir():
            raise FileNotFoundError(f"no such folder of data sets: {data}")
        file, folder = data / f"{name}-validation.jsonl", data / name
        if file.is_file():
            return file
        if folder.exists():
            return folder
    return sample_file(name) if sample_file(name).is_file() else None


def evaluation_split(converter: DataSet) -> str:
    """`validation`, or the default split of a set that is published in one piece.

    COVID-QA, SciSummNet and LongBench v2 have no parts: all of them is asked, and a model that trained on
    them must not be scored by them.
    """
    return "validation" if "validation" in converter.splits else converter.splits[0]


def spread_records(source: RecordSource, limit: int, seed: str) -> Iterator[tuple[str, Record]]:
    """Choose records over as many contexts as can be, and give those with one context one after another.

    Contexts are gone through in rounds, in an order that the seed fixes, and give a question each round.
    So a smaller limit chooses a part of what a larger one does. Records without a question are passed over.
    The source is read twice, so that no more than the chosen records are held in memory.

    Args:
        source: The records.
        limit: Most records.
        seed: Fixes the order.

    Yields:
        A name that is unique among the records, and the record; those with one context share one string. A
        record without an `id` is named by its number from 1, and so is one whose `id` another had before.
    """
    places: dict[bytes, list[int]] = {}
    names: list[str] = []
    seen: set[str] = set()
    for place, record in enumerate(source()):
        name = record.id or f"record-{place + 1}"
        names.append(f"{name}#{place + 1}" if name in seen else name)
        seen.add(names[-1])
        if not record.is_text_only:
            key = blake2b(record.context.encode(), digest_size=16).digest()
            places.setdefault(key, []).append(place)
    order = _rounds(list(places.values()), limit, random.Random(seed))
    wanted = {place for run in order for place in run}
    contexts: dict[str, str] = {}
    found: dict[int, Record] = {}
    for place, record in enumerate(source()):
        if place in wanted:
            context = contexts.setdefault(record.context, record.context)
            found[place] = replace(record, context=context)
    for run in order:
        for place in run:
            yield names[place], found[place]


def _rounds(runs: list[list[int]], limit: int, rng: random.Random) -> list[list[int]]:
    """At most `limit` places, one of each run a round; each run in the order of its places."""
    rng.shuffle(runs)
    for run in runs:
        rng.shuffle(run)
    depth = 0
    chosen: list[list[int]] = [[] for _ in runs]
    left = min(limit, sum(map(len, runs)))
    while left > 0:
        for run, kept in zip(runs, chosen, strict=True):
            if left > 0 and depth < len(run):
                kept.append(run[depth])
                left -= 1
        depth += 1
    return [sorted(kept) for kept in chosen if kept]
