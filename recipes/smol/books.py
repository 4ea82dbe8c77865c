"""Does the default find a sentence in texts of different lengths? Held-out prose, three sentences in each.

    python recipes/smol/books.py MODEL DATA [--chars 5000 20000 80000 320000] [-o books.jsonl]

The prose of `validation/prose-novels.jsonl` is joined to texts of these lengths. Three sentences, about a
person, a place and a number, are put at 20, 50 and 80% of each. A question about each is asked with the
defaults, with text alone, and with soft tokens alone. A line of JSON per length counts the
right answers.
"""

import sys
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from smol_figures import add_line, argument_parser

from e2llm import Engine, read_records
from e2llm.chunk_breaks import SENTENCE_END
from e2llm.errors import E2LLMError
from e2llm.evaluation.metrics import string_match

FACTS = (
    ("The key of the chapel is kept by old Barnaby Finch.", "Who keeps the key of the chapel?", "Finch"),
    (
        "The silver spoons were buried in the village of Thornmere.",
        "Where were the spoons buried?",
        "Thornmere",
    ),
    ("The number of the cabin is 4817.", "What is the number of the cabin?", "4817"),
)
DEPTHS = (0.2, 0.5, 0.8)
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "text alone": {"policy": "raw"},
    "soft tokens alone": {"policy": "soft"},
}


def prose(data: Path, num_chars: int) -> str:
    """Return held-out prose of a length."""
    parts: list[str] = []
    for record in cycle(read_records(data / "validation" / "prose-novels.jsonl")):
        parts.append(record.context)
        if sum(map(len, parts)) >= num_chars:
            break
    return "\n\n".join(parts)[:num_chars]


def measure(engine: Engine, text: str) -> dict[str, Any]:
    """Hide the sentences in a text, and count which answers hold what was asked for."""
    for (sentence, _, _), depth in zip(FACTS, DEPTHS, strict=True):
        end = SENTENCE_END.search(text, int(depth * len(text)))
        place = len(text) if end is None else end.end()
        text = f"{text[:place]} {sentence}{text[place:]}"
    context = engine.read_text(text, progress=False)
    row: dict[str, Any] = {"chars": len(text), "chunks": len(context.chunks)}
    for way, options in WAYS.items():
        answers = [engine.ask(context, question, **options) for _, question, _ in FACTS]
        found = [
            string_match(answer.text, (wanted,))
            for answer, (_, _, wanted) in zip(answers, FACTS, strict=True)
        ]
        row[way] = {
            "found": sum(found),
            "rate": answers[0].usage.rate,
            "answers": [item.text for item in answers],
        }
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one checkpoint."""
    parser = argument_parser(__doc__)
    parser.add_argument("--chars", type=int, nargs="+", default=[5_000, 20_000, 80_000, 320_000])
    options = parser.parse_args(argv)
    try:
        engine = Engine.from_pretrained(options.model)
        for num_chars in options.chars:
            row = measure(engine, prose(options.data, num_chars))
            add_line({"model": options.model, **row}, options.output)
    except (E2LLMError, OSError) as error:
        print(f"books: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
