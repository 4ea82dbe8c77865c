"""The validation parts that come with the package, so that tasks run from a clean clone: `samples/`.

A sample is a records file, compressed, in which a line without `context` has that of the line before.
`recipes/make_samples.py` makes them; `samples/README.md` says of what.
"""

import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path

from e2llm.files import replacing
from e2llm.records import Record, record_from_dict, record_to_dict

_FOLDER = Path(__file__).parent / "samples"
_HAYSTACKS = "fairytaleqa"


def sample_file(name: str) -> Path:
    """Where the sample of a data set is, if there is one."""
    return _FOLDER / f"{name}-validation.jsonl.xz"


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
    """Write records as a sample; returns how many."""
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
    """The stories of the FairytaleQA sample: where to hide things when no texts are named."""
    return tuple(dict.fromkeys(record.context for record in read_sample(sample_file(_HAYSTACKS))))
