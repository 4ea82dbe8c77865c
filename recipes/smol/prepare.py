"""Make the records that the model `smol` trains on, is tuned on and is tested on.

    python recipes/smol/prepare.py RAW DATA [--only NAME ...]

RAW holds the public data sets, packed or not; data.md says where to get each. DATA gets the folders
train, validation and test with one JSONL file a set, counts.json and records.sha256. The same RAW gives the
same files. RAW is never written to.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from smol_jobs import JOBS, Job
from smol_parts import PARTS, Part, held_out_list
from smol_prose import GUARDED, HAYSTACKS, HELD_OUT_WORDS, NEEDLES, PROSE_JOBS, Guard, hidden_facts
from smol_raw import Raw

from e2llm.errors import E2LLMError
from e2llm.files import write_atomically
from e2llm.records import Record, write_records

HELD_OUT = Path(__file__).with_name("heldout.json")
HELD_OUT_BOOK = Path(__file__).parents[2] / "examples" / "anne_of_green_gables.txt"
_MAX_PROSE_VALIDATION = 100
Files = dict[str, dict[Part, list[Record]]]


def collect(raw: Raw, jobs: Iterable[Job]) -> tuple[Files, dict[str, dict[Part, set[str]]]]:
    """Return the records of every file and part, and the documents of every data set and part."""
    files: Files = {}
    documents: dict[str, dict[Part, set[str]]] = defaultdict(lambda: defaultdict(set))
    for job in jobs:
        parts: dict[Part, list[Record]] = {part: [] for part in PARTS}
        for part, document, record in job.records(raw):
            parts[part].append(record)
            documents[job.dataset][part].add(document)
        files[job.name] = parts
        print(f"{job.name}: " + ", ".join(f"{len(parts[part])} {part}" for part in PARTS), flush=True)
    return files, documents


def guard_prose(files: Files) -> None:
    """Drop pieces of books that are of a held-out story, and any that name the held-out book's places."""
    names = [name for name in ("long-fairytaleqa", "summary-squality") if name in files]
    held = {
        record.context
        for name in names
        for part, records in files[name].items()
        if part != "train"
        for record in records
    }
    guard = Guard([*held, HELD_OUT_BOOK.read_text(encoding="utf-8")])
    for name in (f"prose-{name}" for name in GUARDED):
        for part, records in files.get(name, {}).items():
            kept = [record for record in records if not guard.is_held(record.context)]
            if len(kept) < len(records):
                print(f"{name}, {part}: {len(records) - len(kept)} pieces of held-out texts dropped")
            files[name][part] = kept


def limit_validation(files: Files) -> None:
    """Keep a small number of the prose pieces to tune on, and none to test on."""
    for name, parts in files.items():
        if name.startswith("prose-"):
            records = parts["validation"]
            step = max(1, -(-len(records) // _MAX_PROSE_VALIDATION))
            parts["validation"] = records[::step]
            parts["test"] = []


def add_needles(files: Files) -> None:
    """Hide facts in the pieces of prose of each part."""
    for name in NEEDLES:
        files[name] = {part: [] for part in PARTS}
        for part in ("train", "validation"):
            haystacks = [
                record.context for source in HAYSTACKS for record in files.get(source, {}).get(part, [])
            ]
            if haystacks:
                files[name][part] = list(hidden_facts(name, part, haystacks))


def clean(files: Files) -> dict[str, int]:
    """Drop doubles, and contexts that are in a part that is held out; returns how many of each."""
    dropped: dict[str, int] = defaultdict(int)
    held: set[str] = set()
    for part in reversed(PARTS):
        texts: set[str] = set()
        seen: set[tuple[str, str]] = set()
        for parts in files.values():
            kept = []
            for record in parts[part]:
                key = _key(record.context)
                question = (key, record.prompt)
                if part != "test" and HELD_OUT_WORDS.search(record.context):
                    dropped[f"{part}: about the book that is held out"] += 1
                elif question in seen:
                    dropped[f"{part}: question asked twice of a context"] += 1
                elif key in held:
                    dropped[f"{part}: context that is held out"] += 1
                else:
                    seen.add(question)
                    texts.add(key)
                    kept.append(record)
            parts[part] = kept
        held |= texts
    return dict(sorted(dropped.items()))


def _key(context: str) -> str:
    return hashlib.blake2b(" ".join(context.split()).encode(), digest_size=12).hexdigest()


def write(files: Files, data: Path) -> dict[str, Any]:
    """Write the files and records.sha256; returns the counts of each."""
    counts: dict[str, Any] = {}
    sums = []
    for part in PARTS:
        for name in sorted(files):
            records = files[name][part]
            path = data / part / f"{name}.jsonl"
            if not records:
                path.unlink(missing_ok=True)
                continue
            write_records(path, records)
            sums.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {part}/{name}.jsonl\n")
            counts[f"{part}/{name}"] = {
                "records": len(records),
                "contexts": len({record.context for record in records}),
                "with_evidence": sum(bool(record.evidence) for record in records),
                "megabytes": round(path.stat().st_size / 1e6, 2),
                "median_context_chars": round(median(len(record.context) for record in records)),
                "median_answer_chars": round(median(len(record.answer) for record in records)),
            }
    write_atomically(data / "records.sha256", "".join(sums).encode())
    return counts


def chosen(jobs: list[Job], names: list[str] | None) -> Iterator[Job]:
    """Yield the jobs of these names, or all."""
    return (job for job in jobs if not names or job.name in names)


def main(arguments: list[str] | None = None) -> int:
    """Make the files."""
    jobs = [*JOBS, *PROSE_JOBS]
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("raw", type=Path, help="folder of the data sets, as they are packed")
    parser.add_argument("data", type=Path, help="folder for the records")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[job.name for job in jobs],
        metavar="NAME",
        help="these files only; heldout.json stays as it is",
    )
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="smol-") as scratch:
            files, documents = collect(Raw(options.raw, Path(scratch)), chosen(jobs, options.only))
            guard_prose(files)
            limit_validation(files)
            add_needles(files)
            dropped = clean(files)
            counts = write(files, options.data)
            report = {"files": counts, "dropped": dropped}
            write_atomically(options.data / "counts.json", (json.dumps(report, indent=1) + "\n").encode())
            if not options.only:
                content = json.dumps(held_out_list(documents), indent=1, ensure_ascii=False) + "\n"
                write_atomically(HELD_OUT, content.encode())
    except (E2LLMError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
