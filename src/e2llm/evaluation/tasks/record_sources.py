"""Where the records of a data set come from, the choice of those that are asked, and samples in the package.

A sample is a records file, compressed, in which a line without `context` has that of the line before.
`recipes/make_samples.py` makes them; `evaluation/samples/README.md` describes them.
"""

import json
import lzma
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

from e2llm.data.data_set import DataSet
from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError
from e2llm.files import replacing
from e2llm.records import Record, read_records, record_from_dict, record_to_dict

RecordSource = Callable[[], Iterator[Record]]

_SAMPLES = Path(__file__).parents[1] / "samples"
_HAYSTACKS = "fairytaleqa"


def find_records(name: str, data: Path | None) -> RecordSource:
    """Find the validation records of a data set (`find_place`).

    Args:
        name: A key of `DATASETS`.
        data: Folder with data sets; None for only those in the package.

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
    if found.is_file() and found.name == f"{name}-validation.jsonl":
        return partial(read_records, found)
    return partial(converter().convert, found, split)


def find_place(name: str, data: Path | None) -> Path | None:
    """Return the first of these that exists, else None.

    `data/NAME-validation.jsonl`, as `e2llm prepare` writes it; the folder `data/NAME` in the layout of the
    data set's authors; the sample in the package.

    Raises:
        FileNotFoundError: If `data` is no folder.
    """
    if data is not None and not data.is_dir():
        raise FileNotFoundError(f"no such folder of data sets: {data}")
    own = [] if data is None else [data / f"{name}-validation.jsonl", data / name]
    return next((place for place in (*own, sample_file(name)) if place.exists()), None)


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


def write_sample(file: Path, records: Iterable[Record]) -> int:
    """Write records as a sample; returns their number."""
    context = None
    count = 0
    with replacing(file) as raw, lzma.open(raw, "wb", preset=9 | lzma.PRESET_EXTREME) as stream:
        for record in records:
            row = record_to_dict(record)
            if record.context == context:
                del row["context"]
            context = record.context
            stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            count += 1
    return count


def default_haystacks() -> tuple[str, ...]:
    """Return the stories of the FairytaleQA sample, in which generated tasks hide things."""
    return tuple(dict.fromkeys(record.context for record in read_sample(sample_file(_HAYSTACKS))))
