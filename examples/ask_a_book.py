"""Read a whole book once, ask several questions: `python examples/ask_a_book.py [FILE] [QUESTION...]`."""

import argparse
from pathlib import Path

from e2llm import Engine

BOOK = Path(__file__).with_name("anne_of_green_gables.txt")
QUESTIONS = ["Who is Anne's best friend?", "Where does Anne live?"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=BOOK)
    parser.add_argument("questions", nargs="*", default=QUESTIONS)
    arguments = parser.parse_args()
    engine = Engine.from_pretrained("smol")
    context = engine.read(arguments.file)
    print(f"read {context.num_tokens:,} tokens in {context.read_seconds:.1f} s")
    for question in arguments.questions:
        answer = engine.ask(context, question)
        cost = f"{answer.usage.compression:g}x, {answer.timing.total_seconds:.2f} s"
        print(f"{question}\n  {answer.text}\n  {cost}")


if __name__ == "__main__":
    main()
