"""How often a model finds a number that a sentence in plain words puts into a whole book.

    python recipes/mini/hide_numbers.py MODEL [BOOK]

Twenty times each for three sentences and numbers of four and six digits, at places drawn at random; one chunk
is raw text, chosen by the question, all others are soft tokens. Prints a Markdown table.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from e2llm import ChunkStore, Engine
from e2llm.errors import E2LLMError

BOOK = Path(__file__).parents[2] / "examples" / "anne_of_green_gables.txt"
SEED = 7
NUM_TRIALS = 20
NUM_DIGITS = (4, 6)
FACTS = (
    ("The code of the safe is {}.", "What is the code of the safe?"),
    ("The combination of the vault is {}.", "What is the combination of the vault?"),
    ("The telephone number of the mill is {}.", "What is the telephone number of the mill?"),
)


def count_found(
    engine: Engine, book: str, fact: str, question: str, num_digits: int, rng: random.Random
) -> int:
    """How many of the numbers are in the answers."""
    found = 0
    for _ in range(NUM_TRIALS):
        number = str(rng.randrange(10 ** (num_digits - 1), 10**num_digits))
        place = book.index(". ", int(len(book) * rng.uniform(0.02, 0.98))) + 2
        text = f"{book[:place]}{fact.format(number)} {book[place:]}"
        answer = engine.ask(engine.read(text, progress=False), question, expand=1, max_new_tokens=20)
        found += number in answer.text
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model", help="a checkpoint, or mini")
    parser.add_argument("book", type=Path, nargs="?", default=BOOK)
    options = parser.parse_args(arguments)
    rng = random.Random(SEED)
    try:
        book = options.book.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            engine = Engine.from_pretrained(options.model, store=ChunkStore(folder))
            print("| sentence | digits | found |\n|---|---|---|", flush=True)
            for fact, question in FACTS:
                for num_digits in NUM_DIGITS:
                    found = count_found(engine, book, fact, question, num_digits, rng)
                    print(f"| {fact.format('N')} | {num_digits} | {found} of {NUM_TRIALS} |", flush=True)
    except (E2LLMError, OSError) as error:
        print(f"hide_numbers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
