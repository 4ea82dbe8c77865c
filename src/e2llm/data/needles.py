"""Generated recall tasks in the style of RULER: facts hidden at known places in long texts.

One record hides one or more needles (short sentences) in a stretch of a haystack and asks for what they say.
Kinds, after RULER (arXiv 2404.06654), worded by `needle_wording`:

| kind | hidden | asked | answer |
|---|---|---|---|
| `number`, `word`, `uuid` | one needle | its value | the value |
| `multi_key` | one needle among others with other keys | the value of one key | the value |
| `multi_value` | several needles with one key, and others | all values of the key | values in text order |
| `multi_query` | several needles with their own keys | the values of several keys | values as asked |
| `variables` | chains of assignments | the variables that hold a number | names in text order |
| `variable_value` | chains of assignments | what one variable holds | the number |
"""

import random
import re
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from string import ascii_uppercase
from typing import TypeVar

from e2llm.data import needle_wording as wording
from e2llm.data.converter import Converter
from e2llm.data.parquet import ParquetConverter
from e2llm.data.plain_text import PlainTextConverter
from e2llm.errors import E2LLMError
from e2llm.records import Record, read_records

MIN_LENGTH_CHARS = 60
_NEEDLE_ROOM_CHARS = 100  # a needle with its space, rounded up: how many fit is reckoned with it
_MAX_NEEDLE_FRACTION = 0.7  # of the context, so that there is a haystack
_RULER_FRACTION = 0.3
_Phrase = TypeVar("_Phrase")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s)")


@dataclass
class _Task:
    """What one record hides, in text order, and asks; `gold` lists the needles that the answer rests on."""

    needles: list[str]
    gold: list[int]
    prompt: str
    answer: str


def generate_needles(
    haystacks: Sequence[str],
    num_records: int,
    lengths_chars: Sequence[int],
    kinds: Sequence[str] = (),
    seed: int = 0,
    noise_fraction: float = 0.1,
) -> Iterator[Record]:
    """Generate needle records; record `i` of a seed is the same however many are drawn.

    Args:
        haystacks: Texts to hide needles in; a place is drawn uniformly over all their characters.
        num_records: How many records, at least 0.
        lengths_chars: Lengths of the contexts in characters, drawn uniformly; each at least 60.
        kinds: Which kinds, drawn uniformly; empty means every kind of `KINDS`.
        seed: Any integer.
        noise_fraction: Share of the records (0..1) whose haystack is a few dull sentences over and over,
            as in RULER's first task.

    Raises:
        E2LLMError: If an argument is out of range or no haystack holds text.
    """
    chosen = tuple(kinds) or tuple(KINDS)
    _check_arguments(haystacks, num_records, lengths_chars, chosen, noise_fraction)
    ends = list(accumulate(len(text) for text in haystacks))
    for index in range(num_records):
        rng = random.Random(f"{seed}/{index}")
        kind = rng.choice(chosen)
        length = rng.choice(lengths_chars)
        is_noise = rng.random() < noise_fraction
        max_needles = max(2, int(length * _MAX_NEEDLE_FRACTION) // _NEEDLE_ROOM_CHARS)
        task = KINDS[kind](rng, max_needles)
        room = max(0, length - sum(len(needle) + 1 for needle in task.needles))
        hay = _noise(rng, room) if is_noise else _stretch(rng, haystacks, ends, room)
        yield _hide(rng, task, hay, f"{kind}-{length}", index)


def _check_arguments(
    haystacks: Sequence[str],
    num_records: int,
    lengths_chars: Sequence[int],
    kinds: Sequence[str],
    noise_fraction: float,
) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise E2LLMError(f"unknown kind(s) {', '.join(unknown)}; choose from: {', '.join(KINDS)}")
    if num_records < 0:
        raise E2LLMError(f"num_records must be at least 0, got {num_records}")
    if not lengths_chars or min(lengths_chars) < MIN_LENGTH_CHARS:
        raise E2LLMError(
            f"lengths_chars must hold lengths of at least {MIN_LENGTH_CHARS}, got {lengths_chars}"
        )
    if not 0 <= noise_fraction <= 1:
        raise E2LLMError(f"noise_fraction must be between 0 and 1, got {noise_fraction}")
    if not any(text.strip() for text in haystacks):
        raise E2LLMError("no haystack holds text; give at least one text to hide needles in")


def _hide(rng: random.Random, task: _Task, hay: str, label: str, index: int) -> Record:
    """Put the needles at sentence ends of `hay`, at depths drawn uniformly, keeping their order."""
    places = [0, *(match.end() for match in _SENTENCE_END.finditer(hay)), len(hay)]
    depths = sorted(rng.random() for _ in task.needles)
    context = ""
    spans: list[tuple[int, int]] = []
    done = 0
    for needle, depth in zip(task.needles, depths, strict=True):
        place = places[bisect_left(places, depth * len(hay))]
        context = _joined(_joined(context, hay[done:place]), needle)
        spans.append((len(context) - len(needle), len(context)))
        done = place
    return Record(
        _joined(context, hay[done:]),
        task.prompt,
        task.answer,
        evidence=tuple(spans[place] for place in sorted(task.gold)),
        id=f"{label}-{round(100 * depths[min(task.gold)])}-{index}",
        source=NeedlesConverter.name,
    )


def _joined(left: str, right: str) -> str:
    """Both texts with a space between them where neither brings white space."""
    is_open = bool(left and right) and not left[-1].isspace() and not right[0].isspace()
    return f"{left} {right}" if is_open else left + right


def _stretch(rng: random.Random, haystacks: Sequence[str], ends: list[int], length: int) -> str:
    """A stretch of `length` characters that starts at a sentence; short haystacks are joined."""
    pieces: list[str] = []
    missing = length
    while missing > 0:
        place = rng.randrange(ends[-1])
        which = bisect_left(ends, place + 1)
        text = haystacks[which]
        start = max(0, min(place - (ends[which] - len(text)), len(text) - missing))
        if start:
            sentence = _SENTENCE_END.search(text, start, start + 500)
            start = sentence.end() if sentence and len(text) - sentence.end() >= missing else start
        piece = text[start : start + missing].strip()
        pieces.append(piece)
        missing -= max(1, len(piece) + 2)
    return "\n\n".join(piece for piece in pieces if piece)


def _noise(rng: random.Random, length: int) -> str:
    sentences, joint = rng.choice(wording.NOISE), rng.choice((" ", "\n"))
    return joint.join([sentences] * (length // len(sentences) + 1))[:length].rstrip()


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


def _single(noun: str) -> Callable[[random.Random, int], _Task]:
    def make(rng: random.Random, max_needles: int) -> _Task:
        (key,), (value,) = _keys(rng, 1), _values(rng, noun, 1)
        needle = _wording(rng, wording.STATEMENTS).format(noun=noun, key=key, value=value)
        return _Task([needle], [0], _wording(rng, wording.QUESTIONS).format(noun=noun, key=key), value)

    return make


def _multi_key(rng: random.Random, max_needles: int) -> _Task:
    noun = rng.choice(("number", "word"))
    count = rng.randint(2, min(8, max_needles))
    keys, values = _keys(rng, count), _values(rng, noun, count)
    statement = _wording(rng, wording.STATEMENTS)
    gold = rng.randrange(count)
    needles = [
        statement.format(noun=noun, key=key, value=value) for key, value in zip(keys, values, strict=True)
    ]
    prompt = _wording(rng, wording.QUESTIONS).format(noun=noun, key=keys[gold])
    return _Task(needles, [gold], prompt, values[gold])


def _multi_value(rng: random.Random, max_needles: int) -> _Task:
    noun = rng.choice(("number", "word"))
    count = rng.randint(2, min(7, max_needles))
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
    return _Task(needles, gold, prompt, ", ".join(values[place] for place in gold))


def _multi_query(rng: random.Random, max_needles: int) -> _Task:
    noun = rng.choice(("number", "word"))
    count = rng.randint(2, min(7, max_needles))
    asked = rng.sample(range(count), rng.randint(2, min(4, count)))
    keys, values = _keys(rng, count), _values(rng, noun, count)
    statement = _wording(rng, wording.STATEMENTS)
    needles = [
        statement.format(noun=noun, key=key, value=value) for key, value in zip(keys, values, strict=True)
    ]
    names = [keys[place] for place in asked]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    prompt = _wording(rng, wording.QUESTIONS_FOR_ALL_KEYS).format(noun=noun, keys=listed)
    return _Task(needles, asked, prompt, ", ".join(values[place] for place in asked))


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


def _variables(asks_for_names: bool) -> Callable[[random.Random, int], _Task]:
    def make(rng: random.Random, max_needles: int) -> _Task:
        num_links = rng.randint(2, min(5, max_needles))
        num_chains = rng.randint(1, max(1, min(3, max_needles // num_links)))
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
            return _Task(needles, gold, prompt, ", ".join(chains[0]))
        asked = rng.randrange(num_links)
        prompt = rng.choice(wording.QUESTIONS_FOR_A_VARIABLE).format(name=chains[0][asked])
        return _Task(needles, gold[: asked + 1], prompt, values[0])

    return make


KINDS: dict[str, Callable[[random.Random, int], _Task]] = {
    "number": _single("number"),
    "word": _single("word"),
    "uuid": _single("uuid"),
    "multi_key": _multi_key,
    "multi_value": _multi_value,
    "multi_query": _multi_query,
    "variables": _variables(asks_for_names=True),
    "variable_value": _variables(asks_for_names=False),
}


def read_haystacks(source: Path) -> list[str]:
    """The texts of a records file (`.jsonl`, its contexts), Parquet (column `text`), or plain text files.

    Raises:
        FileNotFoundError: If `source` does not exist.
        E2LLMError: If it holds no readable text.
    """
    if source.suffix == ".jsonl":
        return list(dict.fromkeys(record.context for record in read_records(source)))
    is_parquet = source.suffix == ".parquet" or (source.is_dir() and any(source.glob("*.parquet")))
    converter: Converter = ParquetConverter() if is_parquet else PlainTextConverter()
    return [record.context for record in converter.convert(source, "train")]


@dataclass
class NeedlesConverter(Converter):
    """Needle records from the user's own haystacks; see `generate_needles` for the options.

    Attributes:
        num_records: How many records.
        lengths_chars: Lengths of the contexts in characters.
        kinds: Which kinds of `KINDS`; empty means all.
        seed: Any integer; the same seed and haystacks give the same records.
        noise_fraction: Share of the records with a dull repeated haystack.
    """

    name = "needles"
    description = (
        "generated: facts hidden in long texts (numbers, words, keys, variables), in the style of RULER"
    )
    licence = "that of your haystacks"
    home = "generated from any texts of yours"
    layout = "haystacks: a records .jsonl, .parquet with a column 'text', or .txt/.md files"

    num_records: int = 1000
    lengths_chars: tuple[int, ...] = (300, 600, 1000, 2000, 4000, 8000, 16000)
    kinds: tuple[str, ...] = ()
    seed: int = 0
    noise_fraction: float = 0.1

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        return generate_needles(
            read_haystacks(source),
            self.num_records,
            self.lengths_chars,
            self.kinds,
            self.seed,
            self.noise_fraction,
        )
