"""The kinds of generated recall tasks: what each hides in a text, asks, and takes as the answer.

A new kind is one function `(rng, room) -> Task` and one line in `KINDS`.
"""

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TypeVar

from e2llm.data import needle_wording as wording
from e2llm.data.word_lists import (
    LEAST_CODED_WORDS,
    NUM_CODED_LETTERS,
    Vocabulary,
    coded_vocabulary,
    made_up_word,
    numbered,
    zipf_words,
)

_NEEDLE_ROOM_CHARS = 100  # a needle with its space, rounded up: how many fit is reckoned with it
_RULER_FRACTION = 0.3
_FULL_NAME_FRACTION = 0.2
_ONE_WORD_FRACTION = 0.7
_ITEM_CHARS = 11  # of a numbered list of words, with its number and spaces
LISTED = Vocabulary(wording.NOUNS, wording.NAMES)
_Phrase = TypeVar("_Phrase")


@dataclass(frozen=True)
class Room:
    """What a context has room for.

    Attributes:
        length_chars: Length of the whole context in characters.
        needle_fraction: Share of it (0..1) that needles may take, so that there is a haystack.
        vocabulary: Words and names of the haystacks, for facts that are told in them.
    """

    length_chars: int
    needle_fraction: float
    vocabulary: Vocabulary = LISTED

    @property
    def max_needles(self) -> int:
        """How many needles may be hidden, at least 2."""
        return max(2, int(self.length_chars * self.needle_fraction) // _NEEDLE_ROOM_CHARS)


@dataclass
class Task:
    """What one record hides, in text order, and asks.

    Attributes:
        needles: The sentences to hide.
        gold: Places in `needles` of those that the answer rests on; empty where it rests on all of the text.
        prompt: The question.
        answer: The answer.
    """

    needles: list[str]
    gold: list[int]
    prompt: str
    answer: str


Maker = Callable[[random.Random, Room], Task]


def _keys(rng: random.Random, count: int) -> list[str]:
    """Distinct keys such as `nimble-otter`: joined words, which prose does not hold by chance."""
    return [f"{rng.choice(wording.ADJECTIVES)}-{noun}" for noun in rng.sample(wording.NOUNS, count)]


def _values(rng: random.Random, noun: str, count: int) -> list[str]:
    """Distinct values: numbers of 4 to 7 digits, words or pairs of words, or UUIDs."""
    values: dict[str, None] = {}
    while len(values) < count:
        if noun == "number":
            num_digits = rng.choice((4, 5, 6, 7, 7, 7))  # RULER has 7
            value = str(rng.randrange(10 ** (num_digits - 1), 10**num_digits))
        elif noun == "uuid":
            value = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        else:
            value = rng.choice(wording.NOUNS)
            value = value if rng.random() < 0.5 else f"{rng.choice(wording.ADJECTIVES)}-{value}"
        values[value] = None
    return list(values)


def _wording(rng: random.Random, phrases: Sequence[_Phrase]) -> _Phrase:
    """A way to say it; the first, RULER's own, more often than the others."""
    return phrases[0] if rng.random() < _RULER_FRACTION else rng.choice(phrases)


def _single(noun: str) -> Maker:
    def make(rng: random.Random, room: Room) -> Task:
        (key,), (value,) = _keys(rng, 1), _values(rng, noun, 1)
        needle = _wording(rng, wording.STATEMENTS).format(noun=noun, key=key, value=value)
        return Task([needle], [0], _wording(rng, wording.QUESTIONS).format(noun=noun, key=key), value)

    return make


def _multi_key(rng: random.Random, room: Room) -> Task:
    noun = rng.choice(("number", "number", "word", "uuid"))
    count = rng.randint(2, min(8, room.max_needles))
    keys, values = _keys(rng, count), _values(rng, noun, count)
    statement = _wording(rng, wording.STATEMENTS)
    gold = rng.randrange(count)
    needles = [
        statement.format(noun=noun, key=key, value=value) for key, value in zip(keys, values, strict=True)
    ]
    prompt = _wording(rng, wording.QUESTIONS).format(noun=noun, key=keys[gold])
    return Task(needles, [gold], prompt, values[gold])


def _multi_value(rng: random.Random, room: Room) -> Task:
    noun = rng.choice(("number", "word"))
    count = rng.randint(2, min(7, room.max_needles))
    num_gold = rng.randint(2, min(4, count))
    gold = sorted(rng.sample(range(count), num_gold))
    key, *others = _keys(rng, 1 + count - num_gold)
    values = _values(rng, noun, count)
    statement = _wording(rng, wording.STATEMENTS)
    needles = [
        statement.format(noun=noun, key=key if place in gold else others.pop(), value=value)
        for place, value in enumerate(values)
    ]
    prompt = _wording(rng, wording.QUESTIONS_FOR_ALL_VALUES).format(noun=noun, key=key)
    return Task(needles, gold, prompt, ", ".join(values[place] for place in gold))


def _multi_query(rng: random.Random, room: Room) -> Task:
    noun = rng.choice(("number", "word"))
    count = rng.randint(2, min(7, room.max_needles))
    asked = rng.sample(range(count), rng.randint(2, min(4, count)))
    keys, values = _keys(rng, count), _values(rng, noun, count)
    statement = _wording(rng, wording.STATEMENTS)
    needles = [
        statement.format(noun=noun, key=key, value=value) for key, value in zip(keys, values, strict=True)
    ]
    names = [keys[place] for place in asked]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    prompt = _wording(rng, wording.QUESTIONS_FOR_ALL_KEYS).format(noun=noun, keys=listed)
    return Task(needles, asked, prompt, ", ".join(values[place] for place in asked))


def _variable_names(rng: random.Random, count: int) -> list[str]:
    """Distinct names of one style: `QWERT` as in RULER, `QX`, or `X17`."""
    style = rng.choice((5, 5, 2, 0))
    names: dict[str, None] = {}
    while len(names) < count:
        if style:
            names["".join(rng.choices(ascii_uppercase, k=style))] = None
        else:
            names[f"{rng.choice('ABCNVXYZ')}{rng.randint(10, 99)}"] = None
    return list(names)


def _variables(asks_for_names: bool) -> Maker:
    def make(rng: random.Random, room: Room) -> Task:
        num_links = rng.randint(2, min(5, room.max_needles))
        num_chains = rng.randint(1, max(1, min(3, room.max_needles // num_links)))
        names = iter(_variable_names(rng, num_chains * num_links))
        chains = [[next(names) for _ in range(num_links)] for _ in range(num_chains)]
        values = _values(rng, "number", num_chains)
        first, further = _wording(rng, wording.ASSIGNMENTS)
        order = [number for number in range(num_chains) for _ in range(num_links)]
        rng.shuffle(order)  # chains run through one another, each in its own order
        needles: list[str] = []
        gold: list[int] = []
        reached = [0] * num_chains
        for number in order:
            place, chain = reached[number], chains[number]
            reached[number] += 1
            gold += [len(needles)] if number == 0 else []
            template = further if place else first
            other = chain[place - 1] if place else ""
            needles.append(template.format(name=chain[place], other=other, value=values[number]))
        if asks_for_names:
            question = _wording(rng, wording.QUESTIONS_FOR_VARIABLES)
            prompt = question.format(value=values[0], count=num_links)
            return Task(needles, gold, prompt, ", ".join(chains[0]))
        asked = rng.randrange(num_links)
        prompt = rng.choice(wording.QUESTIONS_FOR_A_VARIABLE).format(name=chains[0][asked])
        return Task(needles, gold[: asked + 1], prompt, values[0])

    return make


def _one_fact(rng: random.Random, room: Room) -> Task:
    return _facts(rng, 1, wording.FACTS)


def _several_facts(rng: random.Random, room: Room) -> Task:
    return _facts(rng, rng.randint(2, min(8, room.max_needles)), wording.FACTS)


def _one_text_fact(rng: random.Random, room: Room) -> Task:
    return _facts(rng, 1, wording.TEXT_FACTS, room.vocabulary)


def _several_text_facts(rng: random.Random, room: Room) -> Task:
    return _facts(rng, rng.randint(2, min(8, room.max_needles)), wording.TEXT_FACTS, room.vocabulary)


def _facts(
    rng: random.Random, count: int, forms: Sequence[wording.Fact], vocabulary: Vocabulary | None = None
) -> Task:
    """Facts of plain prose, all of one form; one of them is asked, and no other answers the question."""
    statement, question, answer = rng.choice(forms)
    facts: dict[str, dict[str, str]] = {}
    while len(facts) < count:
        slots = _slots(rng) | (_text_slots(rng, vocabulary) if vocabulary else {})
        if facts and "{noun}" in question and "{name}" in question:
            # else it would be told by the noun, not by who is meant
            slots["noun"] = next(iter(facts.values()))["noun"]
        facts.setdefault(question.format(**slots), slots)
    gold = rng.randrange(count)
    prompt, slots = list(facts.items())[gold]
    return Task([statement.format(**one) for one in facts.values()], [gold], prompt, answer.format(**slots))


def _slots(rng: random.Random) -> dict[str, str]:
    """Something for every gap of `wording.FACTS`."""
    noun, other = rng.sample(wording.NOUNS, 2)
    name = rng.choice(wording.NAMES)
    thing = rng.choice((other, f"{rng.choice(wording.ADJECTIVES)} {other}"))
    num_digits = rng.choice((2, 3, 4, 4, 5, 6, 7))
    return {
        "attribute": rng.choice(wording.ATTRIBUTES),
        "thing": rng.choice((f"the {thing}", f"the {thing}", f"{rng.choice(wording.NAMES)}'s {thing}")),
        "noun": noun,
        "name": name,
        "number": str(rng.randrange(10 ** (num_digits - 1), 10**num_digits)),
        "year": str(rng.randint(1100, 2099)),
        "time": f"{rng.randint(1, 23)}:{rng.randrange(60):02}",
        "place": rng.choice(wording.PLACE_BEGINNINGS) + rng.choice(wording.PLACE_ENDINGS),
        "colour": rng.choice(wording.COLOURS),
        "word": rng.choice((rng.choice(wording.NOUNS), made_up_word(rng, (2, 3)))),
    }


def _text_slots(rng: random.Random, vocabulary: Vocabulary) -> dict[str, str]:
    """The gaps that words and names of the haystacks fill, a different one each."""
    words = rng.choices(vocabulary.words, k=4)
    names = rng.choices(vocabulary.names, k=3)
    name = f"{names[0]} {names[1]}" if rng.random() < _FULL_NAME_FRACTION else names[0]
    thing = f"the {words[0]}" if rng.random() < _ONE_WORD_FRACTION else f"the {words[1]} {words[0]}"
    return {"noun": words[2], "word": words[3], "name": name, "place": names[2], "thing": thing}


def _common_words(rng: random.Random, room: Room) -> Task:
    """A numbered list in which some words stand more often than the others; up to 10 of them are asked."""
    num_items = max(4, (room.length_chars - len(wording.WORD_LIST)) // _ITEM_CHARS)
    num_repeats = rng.choice((3, 4, 6))
    num_common = max(1, min(10, int(0.6 * num_items) // num_repeats))
    words = rng.sample(wording.NOUNS, min(len(wording.NOUNS), num_items))
    common, others = words[:num_common], words[num_common:]
    listed = [*common * num_repeats, *others[: max(0, num_items - num_common * num_repeats)]]
    rng.shuffle(listed)
    text = wording.WORD_LIST + numbered(listed)
    is_one = num_common == 1
    question = wording.COMMON_QUESTION_FOR_ONE if is_one else wording.COMMON_QUESTION.format(count=num_common)
    return Task([text], [], question, ", ".join(common))


def _frequent_words(rng: random.Random, room: Room) -> Task:
    """Coded words whose numbers fall with the square of their rank; the three after the dots are asked."""
    num_words = max(LEAST_CODED_WORDS, room.length_chars // (NUM_CODED_LETTERS + 1))
    vocabulary = coded_vocabulary(rng, num_words)
    listed = zipf_words(vocabulary, num_words)
    rng.shuffle(listed)
    return Task([" ".join(listed)], [], wording.FREQUENT_QUESTION, ", ".join(vocabulary[1:4]))


KINDS: dict[str, Maker] = {
    "number": _single("number"),
    "word": _single("word"),
    "uuid": _single("uuid"),
    "multi_key": _multi_key,
    "multi_value": _multi_value,
    "multi_query": _multi_query,
    "fact": _one_fact,
    "facts": _several_facts,
    "text_fact": _one_text_fact,
    "text_facts": _several_text_facts,
    "common_words": _common_words,
    "frequent_words": _frequent_words,
    "variables": _variables(asks_for_names=True),
    "variable_value": _variables(asks_for_names=False),
}
TOLD_IN_WORDS_OF_TEXTS = frozenset({"text_fact", "text_facts"})
"""The kinds that take words from the haystacks (`Room.vocabulary`)."""
