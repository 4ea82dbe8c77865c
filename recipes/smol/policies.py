"""Which way of spending a budget answers best: questions about whole documents of the validation part.

    python recipes/smol/policies.py MODEL DATA [--budget 768] [--items 24] [-o policies.jsonl]

Each arm answers the same questions of `validation/long-NAME.jsonl` in the same number of positions. A line of
JSON per arm has its mean F1, and the mean difference to `raw` with a 95% bootstrap interval.
"""

import random
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from smol_figures import add_line, argument_parser

from e2llm import Engine, Record, read_records
from e2llm.errors import E2LLMError
from e2llm.evaluation.metrics import token_f1
from e2llm.evaluation.statistics import bootstrap_interval
from e2llm.inference.planning import POLICIES, Policy

SETS = ("fairytaleqa", "squad", "timeqa", "covid_qa")
ARMS = {
    "raw": POLICIES["raw"],
    "mixed": POLICIES["mixed"],
    "mixed, as many chunks at rate 4 as text": Policy("mixed", widths=(0, 1)),
    "mixed, a ladder of rates 2, 4 and 8": Policy("mixed", widths=(1, 2, 4)),
    "soft": POLICIES["soft"],
}


def questions(data: Path, num_items: int) -> list[Record]:
    """Draw records of each set; those of one context follow each other."""
    drawn: list[Record] = []
    for name in SETS:
        records = list(read_records(data / "validation" / f"long-{name}.jsonl"))
        drawn += random.Random(0).sample(records, min(num_items, len(records)))
    return sorted(drawn, key=lambda record: record.context)


def measure(engine: Engine, records: list[Record], budget: int) -> dict[str, list[float]]:
    """Return the F1 of each answer of each arm."""
    scores: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for text, group in groupby(records, key=lambda record: record.context):
        context = engine.read(text, progress=False)
        for record in group:
            for arm, policy in ARMS.items():
                POLICIES[policy.name] = policy  # the arm in its name's place
                answer = engine.ask(
                    context, record.prompt, policy=policy.name, budget=budget, max_new_tokens=32
                )
                scores[arm].append(token_f1(answer.text, [record.answer]))
    return scores


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all arms."""
    parser = argument_parser(__doc__)
    parser.add_argument("--budget", type=int, default=768, help="positions of the input")
    parser.add_argument("--items", type=int, default=24, help="questions of each set, at most")
    options = parser.parse_args(argv)
    try:
        engine = Engine.from_pretrained(options.model)
        records = questions(options.data, options.items)
        scores = measure(engine, records, options.budget)
    except (E2LLMError, OSError) as error:
        print(f"policies: {error}", file=sys.stderr)
        return 1
    for arm, found in scores.items():
        differences = [ours - theirs for ours, theirs in zip(found, scores["raw"], strict=True)]
        row = {"arm": arm, "budget": options.budget, "questions": len(found), "f1": sum(found) / len(found)}
        row |= {"to_raw": sum(differences) / len(found), "interval": bootstrap_interval(differences)}
        add_line(row, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
