"""Facts hidden at random places in your own texts, to train recall; docs/data-format.md lists the kinds.

A new kind is one function `(rng, max_needles, vocabulary) -> Needles` and one line in `KINDS`.
"""

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

from e2llm.chunk_breaks import SENTENCE_END
from e2llm.data.data_set import Conversion, Records, data_set
from e2llm.data.needles import wording
from e2llm.data.needles.hiding import draw_number, draw_words, hide
from e2llm.data.needles.wording import LISTED, Vocabulary
from e2llm.data.sets.parquet import parquet
from e2llm.data.sets.text import text
from e2llm.errors import E2LLMError
from e2llm.records import Record, read_records

MIN_LENGTH_CHARS = 60
_NEEDLE_FRACTION = 0.7  # of a context, for needles at most
_NEEDLE_CHARS = 100  # of a needle with its space, rounded up
_FULL_NAME_FRACTION = 0.2
_ONE_WORD_FRACTION = 0.7


@data_set(
    "needles",
    description="generated: facts hidden in long texts (numbers, words, keys, plain facts)",
    licence="that of your haystacks",
    home="generated from any texts of yours",
    layout="haystacks: a records .jsonl, .parquet with a column 'text', or .txt/.md files",
)
def needles(
    run: Conversion,
    *,
    num_records: int = 1000,
    lengths_chars: tuple[int, ...] = (300, 600, 1000, 2000, 4000, 8000, 16000),
    kinds: tuple[str, ...] = (),
    seed: int = 0,
) -> Records:
    """Yield needle records; see `generate_needles` for the options."""
    return generate_needles(read_haystacks(run.source), num_records, lengths_chars, kinds, seed)


def read_haystacks(source: Path) -> list[str]:
    """Return the texts of a records file (`.jsonl`), Parquet files (column `text`) or plain text files."""
    if source.suffix == ".jsonl":
        return list(dict.fromkeys(record.context for record in read_records(source)))
    is_parquet = source.suffix == ".parquet" or (source.is_dir() and any(source.glob("*.parquet")))
    conversion = parquet() if is_parquet else text()
    return [record.context for record in conversion.convert(source)]


@dataclass
class Needles:
    """The needles of one record, in text order, and its question.

    Attributes:
        texts: The sentences to hide.
        gold: Places in `texts` of those that the answer rests on.
        prompt: The question.
        answer: The answer.
    """

    texts: list[str]
    gold: list[int]
    prompt: str
    answer: str


Maker = Callable[[random.Random, int, Vocabulary], Needles]


def _keys(rng: random.Random, count: int) -> list[str]:
    """Return distinct keys such as `nimble-otter`: joined words, which prose does not have by chance."""
    return [f"{rng.choice(wording.ADJECTIVES)}-{noun}" for noun in rng.sample(wording.NOUNS, count)]


def _draw_value(rng: random.Random, noun: str) -> str:
    """Return a number of 4 to 7 digits, a word or a pair of words."""
    if noun == "number":
        return draw_number(rng, rng.choice((4, 5, 6, 7)))
    return rng.choice((draw_words(rng), rng.choice(wording.NOUNS)))


def _tell(rng: random.Random, noun: str, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return a sentence for each key, all in one wording, and their distinct values."""
    values: dict[str, None] = {}
    while len(values) < len(keys):
        values[_draw_value(rng, noun)] = None
    statement = rng.choice(wording.STATEMENTS)
    pairs = zip(keys, values, strict=True)
    return [statement.format(noun=noun, key=key, value=value) for key, value in pairs], list(values)


def _one_key(
    rng: random.Random, max_needles: int, vocabulary: Vocabulary, *, nouns: Sequence[str], most: int = 1
) -> Needles:
    noun, count = rng.choice(nouns), _draw_count(rng, max_needles, most)
    keys = _keys(rng, count)
    texts, values = _tell(rng, noun, keys)
    gold = rng.randrange(count)
    return Needles(
        texts, [gold], rng.choice(wording.QUESTIONS).format(noun=noun, key=keys[gold]), values[gold]
    )


def _multi_value(rng: random.Random, max_needles: int, vocabulary: Vocabulary) -> Needles:
    noun, count = rng.choice(("number", "word")), _draw_count(rng, max_needles, 7)
    gold = sorted(rng.sample(range(count), rng.randint(2, min(4, count))))
    key, *others = _keys(rng, 1 + count - len(gold))
    texts, values = _tell(rng, noun, [key if place in gold else others.pop() for place in range(count)])
    prompt = rng.choice(wording.QUESTIONS_FOR_ALL_VALUES).format(noun=noun, key=key)
    return Needles(texts, gold, prompt, ", ".join(values[place] for place in gold))


def _multi_query(rng: random.Random, max_needles: int, vocabulary: Vocabulary) -> Needles:
    noun, count = rng.choice(("number", "word")), _draw_count(rng, max_needles, 7)
    asked = rng.sample(range(count), rng.randint(2, min(4, count)))
    keys = _keys(rng, count)
    texts, values = _tell(rng, noun, keys)
    *names, last = [keys[place] for place in asked]
    question = rng.choice(wording.QUESTIONS_FOR_ALL_KEYS)
    prompt = question.format(noun=noun, keys=f"{', '.join(names)} and {last}")
    return Needles(texts, asked, prompt, ", ".join(values[place] for place in asked))


def _fact(
    rng: random.Random,
    max_needles: int,
    vocabulary: Vocabulary,
    *,
    forms: Sequence[wording.Fact],
    most: int = 1,
) -> Needles:
    """Return facts of plain prose, all of one form, of which exactly one answers the question."""
    statement, question, answer = rng.choice(forms)
    count = _draw_count(rng, max_needles, most)
    facts: dict[str, dict[str, str]] = {}
    while len(facts) < count:
        slots = _slots(rng)
        if forms is wording.TEXT_FACTS:
            slots |= _text_slots(rng, vocabulary)
        if facts and "{noun}" in question and "{name}" in question:
            # else the noun alone would answer the question
            slots["noun"] = next(iter(facts.values()))["noun"]
        facts.setdefault(question.format(**slots), slots)
    gold = rng.randrange(count)
    prompt, slots = list(facts.items())[gold]
    texts = [statement.format(**one) for one in facts.values()]
    return Needles(texts, [gold], prompt, answer.format(**slots))


def _draw_count(rng: random.Random, max_needles: int, most: int) -> int:
    """Return 1, or at least 2 where a kind hides several needles."""
    return 1 if most == 1 else rng.randint(2, min(most, max_needles))


def _slots(rng: random.Random) -> dict[str, str]:
    """Return something for every gap of `wording.FACTS`."""
    noun, other = rng.sample(wording.NOUNS, 2)
    thing = rng.choice((other, f"{rng.choice(wording.ADJECTIVES)} {other}"))
    return {
        "attribute": rng.choice(wording.ATTRIBUTES),
        "thing": rng.choice((f"the {thing}", f"the {thing}", f"{rng.choice(wording.NAMES)}'s {thing}")),
        "noun": noun,
        "name": rng.choice(wording.NAMES),
        "number": draw_number(rng, rng.choice((2, 3, 4, 4, 5, 6, 7))),
        "year": str(rng.randint(1100, 2099)),
        "time": f"{rng.randint(1, 23)}:{rng.randrange(60):02}",
        "place": rng.choice(wording.PLACE_BEGINNINGS) + rng.choice(wording.PLACE_ENDINGS),
        "colour": rng.choice(wording.COLOURS),
        "word": rng.choice((rng.choice(wording.NOUNS), wording.made_up_word(rng, (2, 3)))),
    }


def _text_slots(rng: random.Random, vocabulary: Vocabulary) -> dict[str, str]:
    """Return something for the gaps that words and names of the haystacks fill, a different one each."""
    some = rng.choices(vocabulary.words, k=4)
    names = rng.choices(vocabulary.names, k=3)
    name = f"{names[0]} {names[1]}" if rng.random() < _FULL_NAME_FRACTION else names[0]
    thing = f"the {some[0]}" if rng.random() < _ONE_WORD_FRACTION else f"the {some[1]} {some[0]}"
    return {"noun": some[2], "word": some[3], "name": name, "place": names[2], "thing": thing}


KINDS: dict[str, Maker] = {
    "number": partial(_one_key, nouns=["number"]),
    "word": partial(_one_key, nouns=["word"]),
    "multi_key": partial(_one_key, nouns=["number", "word"], most=8),
    "multi_value": _multi_value,
    "multi_query": _multi_query,
    "fact": partial(_fact, forms=wording.FACTS),
    "facts": partial(_fact, forms=wording.FACTS, most=8),
    "text_fact": partial(_fact, forms=wording.TEXT_FACTS),
    "text_facts": partial(_fact, forms=wording.TEXT_FACTS, most=8),
}


def generate_needles(
    haystacks: Sequence[str],
    num_records: int,
    lengths_chars: Sequence[int],
    kinds: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[Record]:
    """Yield records that each hide needles in a text; record `i` of a seed does not depend on `num_records`.

    Args:
        haystacks: Texts to hide needles in; a place is drawn uniformly over all their characters.
        num_records: The number of records.
        lengths_chars: Lengths of the contexts in characters, drawn uniformly; each at least 60.
        kinds: Keys of `KINDS`, drawn uniformly; empty for all of them.
        seed: Any integer.

    Raises:
        E2LLMError: If an argument is out of range or there is no text in the haystacks.
    """
    chosen = tuple(kinds) or tuple(KINDS)
    _check_arguments(haystacks, lengths_chars, chosen)
    ends = list(accumulate(len(text) for text in haystacks))
    needs_words = any(kind.startswith("text_") for kind in chosen)
    vocabulary = LISTED.with_those_of(haystacks) if needs_words else LISTED
    for index in range(num_records):
        rng = random.Random(f"{seed}/{index}")
        kind = rng.choice(chosen)
        length = rng.choice(lengths_chars)
        needles = KINDS[kind](rng, max(2, int(length * _NEEDLE_FRACTION) // _NEEDLE_CHARS), vocabulary)
        room = max(0, length - sum(len(text) + 1 for text in needles.texts))
        hay = _stretch(rng, haystacks, ends, room)
        depths = sorted(rng.random() for _ in needles.texts)
        passage = hide(hay, " ", needles.texts, depths)
        gold = sorted(needles.gold)
        yield Record(
            passage.text,
            needles.prompt,
            needles.answer,
            evidence=tuple(passage.spans[place] for place in gold),
            id=f"{kind}-{length}-{round(100 * depths[gold[0]])}-{index}",
            source="needles",
        )


def _check_arguments(haystacks: Sequence[str], lengths_chars: Sequence[int], kinds: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise E2LLMError(f"unknown kind(s) {', '.join(unknown)}; choose from: {', '.join(KINDS)}")
    if not lengths_chars or min(lengths_chars) < MIN_LENGTH_CHARS:
        raise E2LLMError(f"each of lengths_chars must be at least {MIN_LENGTH_CHARS}, got {lengths_chars}")
    if not any(text.strip() for text in haystacks):
        raise E2LLMError("the haystacks are empty; give at least one text to hide needles in")


def _stretch(rng: random.Random, haystacks: Sequence[str], ends: list[int], length: int) -> str:
    """Return a stretch of `length` characters that starts at a sentence; short haystacks are joined."""
    pieces: list[str] = []
    missing = length
    while missing > 0:
        place = rng.randrange(ends[-1])
        which = bisect_left(ends, place + 1)
        text = haystacks[which]
        start = max(0, min(place - (ends[which] - len(text)), len(text) - missing))
        if start:
            sentence = SENTENCE_END.search(text, start, start + 500)
            start = sentence.end() if sentence and len(text) - sentence.end() >= missing else start
        piece = text[start : start + missing].strip()
        pieces.append(piece)
        missing -= max(1, len(piece) + 2)
    return "\n\n".join(piece for piece in pieces if piece)
