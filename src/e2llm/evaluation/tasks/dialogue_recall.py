"""Recall in long dialogues: a user states facts between small talk, updates some, and asks for one.

The number of turns since the fact was last stated is drawn from the powers of two that the dialogue has room
for, so that near and far facts are asked for equally often. A turn is what the user says with the assistant's
reply; 1 is the last one before the question.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from e2llm.evaluation.items import Item, Task, TaskRequest
from e2llm.evaluation.metrics import string_match
from e2llm.evaluation.tasks.stretches import check_lengths

MIN_LENGTH_TOKENS = 512

_TOKENS_PER_FACT = 250  # about seven turns, so that small talk outweighs facts
_MIN_FACTS, _MAX_FACTS = 2, 60
_TURN = "User: {said}\nAssistant: {reply}"


def _listed(text: str, mark: str | None = None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(mark))


# Small talk has no names, numbers, dates or places, so a dialogue holds a value only where it is stated.
SMALL_TALK = (  # (what the user says, what the assistant says); {thing} and {mood} are the same in both
    ("I spent the whole morning with {thing} and I feel {mood} now.", "{Thing} can do that to anyone."),
    ("Do you ever get tired of {thing}?", "I have no strong feelings, but {thing} makes many people {mood}."),
    ("My friends will not stop talking about {thing}.", "It seems that {thing} is what everybody enjoys."),
    ("I tried {thing} again yesterday.", "And were you {mood} in the end?"),
    ("Everyone at work is {mood} because of {thing}.", "A short break might help all of you."),
    ("What would you say about {thing}?", "Start small, be patient, and do not expect to be {mood} at once."),
    ("I read a long article about {thing}.", "Was there something in it that left you {mood}?"),
    ("It has been raining all day, so I turned to {thing}.", "That sounds like a good day for {thing}."),
    ("I never understood why {thing} matters so much.", "For some it is a habit, for some it is a comfort."),
    ("Honestly, {thing} makes me {mood}.", "Thank you for telling me. What else do you like to do?"),
    ("Should I give up on {thing}?", "Give it a few more weeks. Nobody is {mood} on the first day."),
    ("I dreamed about {thing} last night.", "Dreams like that often leave people {mood}."),
    ("My parents used to love {thing}.", "Many of us take such habits from home, {thing} too."),
    ("There was a film about {thing} on television.", "I hope it did not leave you {mood}."),
    ("I bought a book on {thing}.", "Read a little every evening, and tell me whether it makes you {mood}."),
    ("Nothing beats {thing} after a long week.", "I can see why. It must leave you {mood}."),
)

THINGS = _listed(
    """
baking bread, cleaning the kitchen, old detective films, growing tomatoes, learning the guitar,
long walks in the woods, board games, repairing bicycles, bird watching, crossword puzzles, cooking soup,
painting the fence, yoga in the morning, jazz records, knitting scarves, sorting old photographs,
playing chess, swimming in the lake, making jam, collecting stamps, ironing shirts, model railways,
writing letters by hand, singing in a choir, polishing shoes, watching the stars, mowing the lawn,
drawing with charcoal, stand-up comedy, sewing curtains, roasting coffee, reading ghost stories,
table tennis, pottery, folding paper animals, picking mushrooms, silent films, carving wood,
dancing in the living room, making playlists
""",
    ",",
)

MOODS = _listed("""
cheerful tired calm restless proud curious grumpy hopeful sleepy content puzzled amused nervous relaxed
inspired bored grateful thoughtful hungry surprised
""")

OWNERS = ("my", "my sister's", "my brother's", "my neighbour's", "my boss's", "my aunt's", "my flatmate's")

SUBJECTS = (  # (kind of value, what it is of; {owner} is one of OWNERS)
    ("number", "the number of {owner} locker"),
    ("number", "the code of {owner} front door"),
    ("number", "the number of {owner} library card"),
    ("number", "the number of {owner} parking space"),
    ("number", "the extension of {owner} office telephone"),
    ("name", "the name of {owner} dentist"),
    ("name", "the name of {owner} landlord"),
    ("name", "the name of {owner} piano teacher"),
    ("name", "the name of {owner} lawyer"),
    ("date", "the date of {owner} driving test"),
    ("date", "the date of {owner} wedding"),
    ("date", "the date of {owner} next check-up"),
    ("date", "the date of {owner} housewarming party"),
    ("place", "the town of {owner} next holiday"),
    ("place", "the town of {owner} new office"),
    ("place", "the town of {owner} summer course"),
)

_STATEMENTS = (
    "By the way, {subject} is {value}.",
    "Before I forget, {subject} is {value}.",
    "Please remember that {subject} is {value}.",
    "Just so you know, {subject} is {value}.",
)

_UPDATES = (
    "I have to correct myself: {subject} is now {value}.",
    "Something has changed, {subject} is {value} from now on.",
    "Forget what I said before, {subject} is {value} now.",
)

_REPLIES = ("Thanks, I will keep that in mind.", "Noted.", "All right, I will remember it.", "Good to know.")

_QUESTION = "What is {subject}? Give what I told you last, and nothing else."

FIRST_NAMES = _listed("""
Adela Bruno Clara Dario Edith Felix Greta Hugo Irene Jonas Klara Leon Mathilda Nils Olga Pavel Rosa Stefan
Thea Ulrich Vera Walter Yvonne Zoltan
""")
LAST_NAMES = _listed("""
Abbott Barlow Castell Drummond Eastman Fairfax Goodwin Hartley Ingram Jessop Kendall Lockwood Merton Norwood
Osborne Pemberton Quigley Radcliffe Sheldon Thornton Underhill Vaughan Whitaker Yardley
""")
MONTHS = _listed("""
January February March April May June July August September October November December
""")
TOWNS = _listed("""
Aberdeen Bergen Bologna Cordoba Dresden Edmonton Fukuoka Galway Hobart Innsbruck Jaipur Krakow Lausanne
Malaga Nantes Odense Porto Quebec Rotterdam Salzburg Tampere Utrecht Valencia Windhoek Yokohama Zagreb
Adelaide Bruges Cusco Dundee Exeter Florence Ghent Havana Izmir Kyoto Lucerne Montreal Naples Oxford Palermo
Ravenna Seville Turin Uppsala Verona Warsaw Zurich
""")


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
        for length in request.lengths:
            for index in range(request.limit):
                yield self._item(request, length, index)

    def score(self, item: Item, prediction: str) -> dict[str, float]:
        """Return whether the prediction contains the latest value, case-insensitively."""
        return {"recall": string_match(prediction, item.references)}

    def _item(self, request: TaskRequest, length: int, index: int) -> Item:
        rng = random.Random(f"{request.seed}/{self.name}/{length}/{index}")
        is_updated = index % 2 == 1
        asked, *others = _facts(rng, length, is_updated)
        stated = [turn for fact in (asked, *others) for turn in fact.turns]
        room = length - sum(request.count_tokens(turn + "\n") for turn in stated)
        small_talk = _small_talk(rng, room, request.count_tokens)
        num_turns = len(small_talk) + len(stated)
        most = num_turns - len(asked.turns) + 1
        turns_ago = rng.choice([1 << exponent for exponent in range(most.bit_length())])
        turns = _lay_out(rng, asked, others, small_talk, num_turns - turns_ago)
        start = sum(len(turn) + 1 for turn in turns[:-turns_ago])
        statement = asked.turns[-1].partition("\n")[0]
        return Item(
            task=self.name,
            id=f"{length}-{index}",
            context="\n".join(turns),
            prompt=_QUESTION.format(subject=asked.subject),
            references=(asked.value,),
            evidence=((start, start + len(statement)),),
            groups={
                "length_tokens": length,
                "turns_ago": turns_ago,
                "kind": "updated" if is_updated else "stated",
            },
        )


def _facts(rng: random.Random, length: int, is_updated: bool) -> list[_Fact]:
    """Make facts of distinct subjects and values; the first is updated if wanted, the others by chance."""
    count = max(_MIN_FACTS, min(_MAX_FACTS, length // _TOKENS_PER_FACT))
    subjects = [(kind, text.format(owner=owner)) for owner in OWNERS for kind, text in SUBJECTS]
    taken: set[str] = set()
    facts = []
    for number, (kind, subject) in enumerate(rng.sample(subjects, count)):
        templates = [rng.choice(_STATEMENTS)]
        if rng.random() < 0.5 if number else is_updated:
            templates.append(rng.choice(_UPDATES))
        values = [_value(rng, kind, taken) for _ in templates]
        turns = [
            _TURN.format(said=template.format(subject=subject, value=value), reply=rng.choice(_REPLIES))
            for template, value in zip(templates, values, strict=True)
        ]
        facts.append(_Fact(subject, turns, values[-1]))
    return facts


def _value(rng: random.Random, kind: str, taken: set[str]) -> str:
    """Draw a value that no other fact has."""
    draws = {
        "number": lambda: str(rng.randrange(10_000, 100_000)),
        "name": lambda: f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}",
        "date": lambda: f"{rng.randrange(10, 29)} {rng.choice(MONTHS)}",
        "place": lambda: rng.choice(TOWNS),
    }
    value = draws[kind]()
    while value in taken:
        value = draws[kind]()
    taken.add(value)
    return value


def _small_talk(rng: random.Random, num_tokens: int, count_tokens: Callable[[str], int]) -> list[str]:
    """Make turns without facts, of at most `num_tokens` together."""
    turns: list[str] = []
    while True:
        said, reply = rng.choice(SMALL_TALK)
        thing, mood = rng.choice(THINGS), rng.choice(MOODS)
        words = {"thing": thing, "Thing": thing[0].upper() + thing[1:], "mood": mood}
        turn = _TURN.format(said=said.format(**words), reply=reply.format(**words))
        num_tokens -= count_tokens(turn + "\n")
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
