"""How often a chunk that holds the answer is among the first that each ranking names.

    python recipes/smol/ranking.py MODEL DATA [--sets fairytaleqa squad ...] [-o ranking.jsonl]

Questions about whole documents of the validation part (`validation/long-NAME.jsonl`) whose evidence is known.
A line of JSON per set has the shares among the first 1, 3, 5 and 10 chunks.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smol_figures import add_line, argument_parser, gold_chunks

from e2llm import Engine, read_records
from e2llm.errors import E2LLMError
from e2llm.inference.planning import best_first

RANKINGS = ("bm25", "encoder", "fused")
DEPTHS = (1, 3, 5, 10)
SETS = ("fairytaleqa", "squad", "covid_qa", "timeqa", "qmsum", "cuad")


def measure(engine: Engine, file: Path) -> dict[str, Any]:
    """Return the shares of one set."""
    hits: dict[str, list[bool]] = defaultdict(list)
    text, context = None, engine.new_context()
    for record in read_records(file):
        if record.context != text:
            text, context = record.context, engine.read_text(record.context, progress=False)
        gold = gold_chunks(context, record)
        for ranking in RANKINGS if gold else ():
            order = best_first(engine.rank(context, record.prompt, select=ranking))
            for depth in DEPTHS:
                hits[f"{ranking}@{depth}"].append(not gold.isdisjoint(order[:depth]))
    num_questions = len(next(iter(hits.values()), []))
    shares = {name: round(sum(found) / num_questions, 3) for name, found in hits.items()}
    return {"set": file.stem.removeprefix("long-"), "questions": num_questions, **shares}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every set."""
    parser = argument_parser(__doc__)
    parser.add_argument("--sets", nargs="+", default=SETS)
    options = parser.parse_args(argv)
    try:
        engine = Engine.from_pretrained(options.model)
        for name in options.sets:
            row = measure(engine, options.data / "validation" / f"long-{name}.jsonl")
            add_line({"model": options.model, **row}, options.output)
    except (E2LLMError, OSError) as error:
        print(f"ranking: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
