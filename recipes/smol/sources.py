"""How often the first source of an answer holds the evidence, what `refine` gains, and what doubt tells.

    python recipes/smol/sources.py MODEL DATA [--policy soft] [--budget 768] [--items 24] [-o sources.jsonl]

Questions about whole documents of the validation part (`validation/long-NAME.jsonl`). The line of JSON has
the share of answers whose first source holds the evidence, ranked and measured, among all and the right
ones (F1 of 0.5 or more); mean F1, seconds and positions with and without `refine`; and for each sign of a
wrong answer the AUC, the chance that a wrong answer shows more of it than a right one, with a 95% interval.
"""

import random
import sys
from collections.abc import Sequence
from itertools import groupby
from statistics import mean
from typing import Any

from policies import questions
from smol_figures import add_line, argument_parser, gold_chunks

from e2llm import Engine, Record
from e2llm.errors import E2LLMError
from e2llm.evaluation.metrics import token_f1
from e2llm.evaluation.statistics import bootstrap_interval
from e2llm.inference.context import Context
from e2llm.inference.decoding.sources import ranked_sources
from e2llm.inference.options import AskRequest

SIGNS = ("nats", "finer_nats", "lost", "weight")
RIGHT_F1 = 0.5


def measure(engine: Engine, records: list[Record], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of each question."""
    rows = []
    for text, group in groupby(records, key=lambda record: record.context):
        context = engine.read_text(text, progress=False)
        rows += [measure_one(engine, context, record, options) for record in group]
    return rows


def measure_one(engine: Engine, context: Context, record: Record, options: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one question."""
    gold = gold_chunks(context, record)
    first = ranked_sources(engine.lay_out(context, AskRequest.take(record.prompt, dict(options))))[:1]
    answer = engine.ask(context, record.prompt, **options)
    refined = engine.ask(context, record.prompt, refine=1, **options)
    doubt = engine.doubt(context, record.prompt, answer, **options)
    row = {
        "f1": token_f1(answer.text, [record.answer]),
        "refined_f1": token_f1(refined.text, [record.answer]),
        "was_refined": refined.usage.refined > 0,
        "seconds": answer.timing.total_seconds,
        "sources_seconds": answer.timing.sources_seconds,
        "refined_seconds": refined.timing.total_seconds,
        "nats": doubt.nats_per_token,
        "finer_nats": doubt.finer_nats_per_token,
        "lost": doubt.finer_nats_per_token - doubt.nats_per_token,
        "weight": -max([source.weight or 0.0 for source in answer.sources], default=0.0),
    }
    if gold:
        row["ranked"] = not gold.isdisjoint(source.chunk for source in first)
        row["measured"] = not gold.isdisjoint(source.chunk for source in answer.sources[:1])
    return row


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means, shares and areas of all questions."""
    found: dict[str, Any] = {"questions": len(rows)}
    known = [row for row in rows if "ranked" in row]
    for name, chosen in (("all", known), ("right", [row for row in known if row["f1"] >= RIGHT_F1])):
        found[f"evidence_known_{name}"] = len(chosen)
        for kind in ("ranked", "measured"):
            found[f"{kind}_first_{name}"] = mean([row[kind] for row in chosen] or [0])
    for name in ("f1", "refined_f1", "was_refined", "seconds", "sources_seconds", "refined_seconds"):
        found[name] = mean(row[name] for row in rows)
    gains = [row["refined_f1"] - row["f1"] for row in rows]
    found |= {"refine_gain": mean(gains), "refine_gain_interval": bootstrap_interval(gains)}
    for sign in SIGNS:
        found[f"auc_{sign}"] = auc_with_interval(rows, sign)
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}


def auc(rows: Sequence[dict[str, Any]], sign: str) -> float:
    """Return the chance that a wrong answer shows more of a sign than a right one; ties count half."""
    right = [row[sign] for row in rows if row["f1"] >= RIGHT_F1]
    wrong = [row[sign] for row in rows if row["f1"] < RIGHT_F1]
    wins = sum((bad > good) + 0.5 * (bad == good) for bad in wrong for good in right)
    return wins / max(1, len(right) * len(wrong))


def auc_with_interval(rows: list[dict[str, Any]], sign: str, draws: int = 1000) -> list[float]:
    """Return the area and its 95% bootstrap interval."""
    rng = random.Random(0)
    areas = sorted(auc(rng.choices(rows, k=len(rows)), sign) for _ in range(draws))
    return [round(value, 3) for value in (auc(rows, sign), areas[draws // 40], areas[-draws // 40 - 1])]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one policy."""
    parser = argument_parser(__doc__)
    parser.add_argument("--policy", default="mixed", help="how to spend the budget")
    parser.add_argument("--budget", type=int, default=768, help="positions of the input")
    parser.add_argument("--items", type=int, default=24, help="questions of each set, at most")
    options = parser.parse_args(argv)
    try:
        engine = Engine.from_pretrained(options.model)
        asked = {"policy": options.policy, "budget": options.budget, "max_new_tokens": 32}
        rows = measure(engine, questions(options.data, options.items), asked)
    except (E2LLMError, OSError) as error:
        print(f"sources: {error}", file=sys.stderr)
        return 1
    add_line({"policy": options.policy, "budget": options.budget, **figures(rows)}, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
