"""Recall in long dialogues: a user states facts between small talk, updates some, and is asked for one.

The number of turns since the fact was last stated is drawn from the powers of two that the dialogue has room
for, so that near and far facts are asked for equally often. A turn is what the user says with the assistant's
reply; 1 is the last one before the question.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from e2llm.evaluation.items import Item, Task, TaskRequest
from e2llm.evaluation.metrics import string_match
from e2llm.evaluation.tasks import dialogue_wording as wording
from e2llm.evaluation.tasks.stretches import check_lengths

MIN_LENGTH_TOKENS = 512

_TOKENS_PER_FACT = 250  # about seven turns, so that small talk outweighs facts
_MIN_FACTS, _MAX_FACTS = 2, 60


@dataclass(frozen=True)
class _Fact:
    """A subject with the turn of its statement and, where it is updated later, the turn of the update."""

    subject: str
    turns: Sequence[str]
    value: str


class DialogueRecallTask(Task):
    """The latest value of a fact that the user stated some turns ago."""

    name = "dialogue_recall"
    description = "a fact that the user of a long dialogue stated, or updated, some turns ago"
    metric = "recall"
    max_new_tokens = 32

    def items(self, request: TaskRequest) -> Iterator[Item]:
        """Make `limit` items of each length; every other one asks for an updated fact.

        Raises:
            E2LLMError: If a length is below 512 tokens.
        """
        check_lengths(self.name, request, MIN_LENGTH_TOKENS)
        return (
            self._item(request, length, index) for length in request.lengths for index in range(request.limit)
        )

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Return whether the prediction contains the latest value, case-insensitively."""
        return {"recall": string_match(prediction, item.references)}

    def _item(self, request: TaskRequest, length: int, index: int) -> Item:
        rng = random.Random(f"{request.seed}/{self.name}/{length}/{index}")
        is_updated = index % 2 == 1
        asked, *others = _facts(rng, length, is_updated)
        num_tokens = sum(_count(turn, request) for fact in (asked, *others) for turn in fact.turns)
        small_talk = _small_talk(rng, length - num_tokens, request)
        num_turns = len(small_talk) + sum(len(fact.turns) for fact in (asked, *others))
        turns_ago = rng.choice(_powers_of_two(num_turns - len(asked.turns) + 1))
        turns = _lay_out(rng, asked, others, small_talk, num_turns - turns_ago)
        start = sum(len(turn) + 1 for turn in turns[:-turns_ago])
        statement = asked.turns[-1].partition("\n")[0]
        return Item(
            task=self.name,
            id=f"{length}-{index}",
            context="\n".join(turns),
            prompt=wording.QUESTION.format(subject=asked.subject),
            references=(asked.value,),
            evidence=((start, start + len(statement)),),
            groups={
                "length_tokens": length,
                "turns_ago": turns_ago,
                "kind": "updated" if is_updated else "stated",
            },
        )


def _facts(rng: random.Random, length: int, is_updated: bool) -> list[_Fact]:
    """Make facts of distinct subjects and values; the first is updated if asked for, the others by chance."""
    count = max(_MIN_FACTS, min(_MAX_FACTS, length // _TOKENS_PER_FACT))
    subjects = [
        (kind, text.format(owner=owner)) for owner in wording.OWNERS for kind, text in wording.SUBJECTS
    ]
    taken: set[str] = set()
    facts = []
    for number, (kind, subject) in enumerate(rng.sample(subjects, count)):
        templates = [rng.choice(wording.STATEMENTS)]
        if rng.random() < 0.5 if number else is_updated:
            templates.append(rng.choice(wording.UPDATES))
        values = [_value(rng, kind, taken) for _ in templates]
        turns = [
            _turn(template.format(subject=subject, value=value), rng.choice(wording.REPLIES))
            for template, value in zip(templates, values, strict=True)
        ]
        facts.append(_Fact(subject, turns, values[-1]))
    return facts


def _value(rng: random.Random, kind: str, taken: set[str]) -> str:
    """Draw a value that no other fact has."""
    while True:
        if kind == "number":
            value = str(rng.randrange(10_000, 100_000))
        elif kind == "name":
            value = f"{rng.choice(wording.FIRST_NAMES)} {rng.choice(wording.LAST_NAMES)}"
        elif kind == "date":
            value = f"{rng.randrange(10, 29)} {rng.choice(wording.MONTHS)}"
        else:
            value = rng.choice(wording.TOWNS)
        if value not in taken:
            taken.add(value)
            return value


def _small_talk(rng: random.Random, num_tokens: int, request: TaskRequest) -> list[str]:
    """Make turns without facts, of at most `num_tokens` together."""
    turns: list[str] = []
    while True:
        said, reply = rng.choice(wording.SMALL_TALK)
        thing, mood = rng.choice(wording.THINGS), rng.choice(wording.MOODS)
        words = {"thing": thing, "Thing": thing[0].upper() + thing[1:], "mood": mood}
        turn = _turn(said.format(**words), reply.format(**words))
        num_tokens -= _count(turn, request)
        if num_tokens < 0:
            return turns
        turns.append(turn)


def _lay_out(
    rng: random.Random, asked: _Fact, others: Sequence[_Fact], small_talk: Sequence[str], place: int
) -> list[str]:
    """Return all turns in their order; the fact asked for is last stated at `place`, counted from 0."""
    num_turns = len(small_talk) + sum(len(fact.turns) for fact in (asked, *others))
    turns: dict[int, str] = {place: asked.turns[-1]}
    if len(asked.turns) > 1:
        turns[rng.randrange(place)] = asked.turns[0]
    free = [number for number in range(num_turns) if number not in turns]
    for fact in others:
        for number, turn in zip(sorted(rng.sample(free, len(fact.turns))), fact.turns, strict=True):
            turns[number] = turn
            free.remove(number)
    turns.update(zip(free, small_talk, strict=True))
    return [turns[number] for number in range(num_turns)]


def _powers_of_two(most: int) -> list[int]:
    return [1 << exponent for exponent in range(most.bit_length())]


def _turn(said: str, reply: str) -> str:
    return f"User: {said}\nAssistant: {reply}"


def _count(turn: str, request: TaskRequest) -> int:
    return request.count_tokens(turn + "\n")
