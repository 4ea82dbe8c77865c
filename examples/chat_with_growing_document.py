"""Talk about a document that grows: each note is read once, when it comes, and old turns become chunks.

python examples/chat_with_growing_document.py [--session FILE]
"""

import argparse
from pathlib import Path

from e2llm import ChatSession, Engine
from e2llm.documents import Document

NOTES = [
    ("monday", "Mira painted the boat blue. The painter asked for ninety crowns."),
    ("tuesday", "It rained all day. The boat could not leave the harbour."),
    ("wednesday", "The key of the boat house is under the third stone."),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smol")
    parser.add_argument("--session", type=Path, help="Keep the conversation here, and go on with it.")
    arguments = parser.parse_args()
    engine = Engine.from_pretrained(arguments.model)
    if arguments.session and arguments.session.exists():
        session = ChatSession.load(arguments.session, engine)
        print(f"going on after {len(session.turns)} turns")
    else:
        session = ChatSession(engine)
    for day, note in NOTES:
        encoded = session.add(Document(day, note))
        answer = session.ask(f"What happened on {day}?")
        print(f"{day}: {encoded} new chunk(s) read of {len(session.context)}; {answer.text!r}")
    if arguments.session:
        session.save(arguments.session)


if __name__ == "__main__":
    main()
