"""What a model answers and restates, for a reader to judge, as two Markdown tables.

    python recipes/mini/show_examples.py MODEL RECORDS_DIR

Nothing is picked by hand: the first ten questions of FairytaleQA's validation part by id, and the first of
the held-out sentences.
"""

import argparse
import sys
from functools import lru_cache, partial
from pathlib import Path

from e2llm import Engine
from e2llm.errors import E2LLMError
from e2llm.records import read_records

NUM_ANSWERS = 10
NUM_SENTENCES = 8
NUM_RAW_CHUNKS = 2


def answers(engine: Engine, records_dir: Path) -> list[str]:
    """The questions, reference answers, and answers from soft tokens and with two raw chunks."""
    records = sorted(read_records(records_dir / "fairytaleqa-validation.jsonl"), key=lambda record: record.id)
    rows = ["| question | reference | soft tokens only | two raw chunks |", "|---|---|---|---|"]
    read = lru_cache(maxsize=1)(partial(engine.read, progress=False))
    for record in records[:NUM_ANSWERS]:
        context = read(record.context)
        soft, hybrid = (engine.ask(context, record.prompt, expand=count) for count in (0, NUM_RAW_CHUNKS))
        rows.append(row(record.prompt, record.answer, soft.text, hybrid.text))
    return rows


def restatements(engine: Engine, records_dir: Path) -> list[str]:
    """Held-out sentences, and what the decoder makes of their soft tokens."""
    rows = ["| sentence | restated |", "|---|---|"]
    for record in list(read_records(records_dir / "needles-plain-validation.jsonl"))[:NUM_SENTENCES]:
        context = engine.read(record.context, progress=False)
        rows.append(row(record.context, engine.restate(context, [0])[0]))
    return rows


def row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |"


def main(arguments: list[str] | None = None) -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model", help="a checkpoint, or mini")
    parser.add_argument("records", type=Path, help="folder of the records")
    options = parser.parse_args(arguments)
    try:
        engine = Engine.from_pretrained(options.model)
        tables = [answers(engine, options.records), restatements(engine, options.records)]
    except (E2LLMError, OSError) as error:
        print(f"show_examples: {error}", file=sys.stderr)
        return 1
    print("\n\n".join("\n".join(table) for table in tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
