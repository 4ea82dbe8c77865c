"""Where the records of a data set come from, the choice of those that are asked, and samples in the package.

A sample is a records file, compressed, in which a line without `context` has that of the line before.
`recipes/make_samples.py` makes them; `evaluation/samples/README.md` describes them.
"""

import json
import lzma
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

from e2llm.data.data_set import DataSet
from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError
from e2llm.records import Record, read_records, record_from_dict

RecordSource = Callable[[], Iterator[Record]]

_SAMPLES = Path(__file__).parents[1] / "samples"
_HAYSTACKS = "fairytaleqa"


def find_records(name: str, data: Path | None) -> tuple[Path, RecordSource]:
    """Find the validation records of a data set.

    The first of these that exists: `data/NAME-validation.jsonl`, as `e2llm prepare` writes it; the folder
    `data/NAME` in the layout of the data set's authors; the sample in the package.

    Args:
        name: A key of `DATASETS`.
        data: Folder with data sets; None for only those in the package.

    Returns:
        The file or folder, and a function that reads the records from the beginning.

    Raises:
        E2LLMError: If none exists; the message says where to get the data and which command to run.
        FileNotFoundError: If `data` is not a folder.
    """
    if data is not None and not data.is_dir():
        raise FileNotFoundError(f"no such folder: --data {data}")
    dataset, sample = DATASETS[name], sample_file(name)
    split = evaluation_split(dataset)
    folder = data or Path("DATA")
    prepared, unpacked = folder / f"{name}-validation.jsonl", folder / name
    if data is not None and prepared.exists():
        return prepared, partial(read_records, prepared)
    if data is not None and unpacked.exists():
        return unpacked, partial(dataset().convert, unpacked, split)
    if sample.exists():
        return sample, partial(read_sample, sample)
    looked = f"neither {prepared.name} nor a folder {name} is in {data}" if data else "no data named"
    raise E2LLMError(
        f"the data set {name} was not found ({looked}); get it from {dataset.home} (licence: "
        f"{dataset.licence}), and run: e2llm prepare {name} --from FOLDER --split {split} -o {prepared}; "
        f"FOLDER is {dataset.layout}"
    )


def evaluation_split(converter: DataSet) -> str:
    """Return `validation`, or the default split of a set that is published in one piece.

    COVID-QA, SciSummNet and LongBench v2 have no parts: all of them is asked, and a model that trained on
    them must not be scored by them.
    """
    return "validation" if "validation" in converter.splits else converter.splits[0]


def spread_records(source: RecordSource, limit: int, seed: str) -> Iterator[tuple[str, Record]]:
    """Choose records over as many contexts as possible, and give those with one context one after another.

    Contexts are visited in rounds, in an order that the seed fixes, and give a question each round. So a
    smaller limit chooses a part of the choice of a larger one. Records without a question are skipped. The
    source is read twice, so that no more than the chosen records are held in memory.

    Args:
        source: The records.
        limit: Most records.
        seed: Fixes the order.

    Yields:
        A name that is unique among the records, and the record; those with one context share one string. A
        record without an `id`, or with one that another had before, is named by its number from 1.
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
    """Choose at most `limit` places, one of each run per round; each run in the order of its places."""
    rng.shuffle(runs)
    for run in runs:
        rng.shuffle(run)
    order = sorted((depth, number) for number, run in enumerate(runs) for depth in range(len(run)))
    chosen: list[list[int]] = [[] for _ in runs]
    for depth, number in order[:limit]:
        chosen[number].append(runs[number][depth])
    return [sorted(kept) for kept in chosen if kept]


def sample_file(name: str) -> Path:
    """Return the path of the sample of a data set, which may not exist."""
    return _SAMPLES / f"{name}-validation.jsonl.xz"


def read_sample(file: Path) -> Iterator[Record]:
    """Read the records of a sample; those with one context share one string.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    context = ""
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            context = row.setdefault("context", context)
            yield record_from_dict(row)


def default_haystacks() -> tuple[str, ...]:
    """Return the stories of the FairytaleQA sample, in which generated tasks hide things."""
    return tuple(dict.fromkeys(record.context for record in read_sample(sample_file(_HAYSTACKS))))
