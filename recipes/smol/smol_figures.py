"""Figures of a measurement, as lines of JSON."""

import json
from pathlib import Path
from typing import Any


def add_line(row: dict[str, Any], output: Path | None) -> None:
    """Print a row as a line of JSON, and add it to a JSONL file if one is given."""
    line = json.dumps(row)
    print(line, flush=True)
    if output is not None:
        with output.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
