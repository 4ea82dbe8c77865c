"""Ask a repository: its files are read once into a store; a second run reads only what has changed.

python examples/ask_a_repository.py [FOLDER] [QUESTION] [--store DIR]
"""

import argparse
from pathlib import Path

from e2llm import ChunkStore, Engine

HERE = Path(__file__).parent.parent / "src" / "e2llm" / "store"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE)
    parser.add_argument("question", nargs="?", default="Where are damaged entries removed?")
    parser.add_argument("--store", type=Path, default=Path("repository.store"))
    parser.add_argument("--model", default="smol")
    arguments = parser.parse_args()
    engine = Engine.from_pretrained(arguments.model, store=ChunkStore(arguments.store))
    context = engine.read(arguments.folder)
    print(f"{len(context)} chunks of {len(context.documents)} files, {context.content.num_encoded} read now")
    answer = engine.ask(context, arguments.question)
    print(answer.text)
    for source in answer.sources:
        print(f"source: {source}")


if __name__ == "__main__":
    main()
