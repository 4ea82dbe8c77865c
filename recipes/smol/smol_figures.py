"""Figures of a measurement: its command line, the chunks with the evidence, and lines of JSON."""

import argparse
import json
from pathlib import Path
from typing import Any

from e2llm import Record
from e2llm.inference.context import Context


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of what every measurement takes: a model, the prepared data, an output."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("model", help="checkpoint folder")
    parser.add_argument("data", type=Path, help="folder that prepare.py has written")
    parser.add_argument("-o", "--output", type=Path, help="JSONL file to add the figures to")
    return parser


def gold_chunks(context: Context, record: Record) -> set[int]:
    """Return the indices of the chunks that hold some of a question's evidence."""
    return {
        index
        for index, chunk in enumerate(context.chunks)
        if any(chunk.start < end and start < chunk.end for start, end in record.evidence)
    }


def add_line(row: dict[str, Any], output: Path | None) -> None:
    """Print a row as a line of JSON, and add it to a JSONL file if one is given."""
    line = json.dumps(row)
    print(line, flush=True)
    if output is not None:
        with output.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
