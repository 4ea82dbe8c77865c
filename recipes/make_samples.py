"""Make the samples that evaluation runs on from a clean clone: src/e2llm/evaluation/samples/.

    python recipes/make_samples.py RAW_DIR [OUT_DIR]

RAW_DIR holds the authors' repositories in the folders `fairytaleqa` and `qmsum`; docs/data.md says where they
are to be had, the README.md beside the samples from which commits. The licences are copied along.
"""

import argparse
import json
import lzma
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from e2llm.data.registry import DATASETS
from e2llm.evaluation.tasks.record_sources import sample_file
from e2llm.files import replacing
from e2llm.records import Record, record_to_dict

NAMES = ("fairytaleqa", "qmsum")
SPLIT = "validation"


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


def main() -> int:
    """Write every sample; 1 if a data set is not whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder with the authors' repositories")
    parser.add_argument("out", type=Path, nargs="?", help="folder to write; default: the package's own")
    arguments = parser.parse_args()
    for name in NAMES:
        file = sample_file(name) if arguments.out is None else arguments.out / sample_file(name).name
        count = write_sample(file, DATASETS[name]().convert(arguments.raw / name, SPLIT))
        shutil.copyfile(arguments.raw / name / "LICENSE", file.parent / f"LICENSE.{name}")
        published = DATASETS[name].published_counts[SPLIT]
        print(f"{file}: {count} records, {file.stat().st_size} bytes")
        if count != published:
            print(
                f"{name} {SPLIT} is published with {published} records; is the data set whole?",
                file=sys.stderr,
            )
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
