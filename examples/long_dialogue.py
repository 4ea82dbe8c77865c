"""A fact told 60 turns ago: is it still known? With soft tokens alone, and with old turns given as text."""

import argparse
import random

from e2llm import ChatSession, Engine

THINGS = ["safe", "locker", "garden gate", "bicycle", "cellar", "letter box", "boat house", "attic"]
TALK = [
    ("What a fine morning it is.", "It is indeed."),
    ("I walked to the harbour with my sister.", "That sounds like a pleasant walk."),
    ("The baker had no bread left.", "Perhaps there will be some tomorrow."),
    ("We are going to paint the kitchen.", "Which colour will you choose?"),
    ("The cat slept on my coat again.", "Cats like warm places."),
    ("I have to write to my uncle.", "He will be glad to hear from you."),
]


def dialogue(engine: Engine, seed: int, num_turns: int) -> tuple[ChatSession, str, str]:
    """A session in which a fact was told at its first turn, the question for it, and the answer."""
    rng = random.Random(seed)
    thing, code = rng.choice(THINGS), str(rng.randint(1000, 9999))
    session = ChatSession(engine, max_history_tokens=256, max_new_tokens=12)
    session.add_turn(f"The code of the {thing} is {code}.", "I will remember that.")
    for _ in range(num_turns):
        session.add_turn(*rng.choice(TALK))
    return session, f"What is the code of the {thing}?", code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smol")
    parser.add_argument("--dialogues", type=int, default=20)
    parser.add_argument("--turns", type=int, default=60)
    arguments = parser.parse_args()
    engine = Engine.from_pretrained(arguments.model)
    known, given = {0: 0, 1: 0}, 0
    for seed in range(arguments.dialogues):
        session, question, code = dialogue(engine, seed, arguments.turns)
        for expand in known:
            answer = engine.ask(
                session.context, question, expand=expand, history=session.history, max_new_tokens=12
            )
            known[expand] += code in answer.text
            if expand:
                given += any(code in session.context.chunks[index].text for index in answer.expanded_chunks)
    print(f"{arguments.dialogues} dialogues, the fact {arguments.turns} turns before the question")
    print(f"answered from soft tokens alone:         {known[0]}")
    print(f"answered with one old turn as text:      {known[1]}")
    print(f"the text given held the fact:            {given}")


if __name__ == "__main__":
    main()
