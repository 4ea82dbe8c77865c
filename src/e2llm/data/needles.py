"""Generated recall tasks in the style of RULER: facts hidden at known places in long texts.

One record hides one or more needles (short sentences) in a stretch of a haystack and asks for what they say.
Kinds, made by `needle_kinds` and worded by `needle_wording`, after RULER (arXiv 2404.06654) but for facts:

| kind | hidden | asked | answer |
|---|---|---|---|
| `number`, `word`, `uuid` | one needle | its value | the value |
| `multi_key` | one needle among others with other keys | the value of one key | the value |
| `multi_value` | several needles with one key, and others | all values of the key | values in text order |
| `multi_query` | several needles with their own keys | the values of several keys | values as asked |
| `fact` | a fact of plain prose | what it says | a number, name, place or word |
| `facts` | several of one form | one of them | the same |
| `text_fact`, `text_facts` | the same, told with words and names of your texts | one of them | the same |
| `common_words` | a numbered list, no haystack | the words most often in it | up to ten words |
| `frequent_words` | coded words, no haystack | the three most frequent | three words |
| `variables` | chains of assignments | the variables that hold a number | names in text order |
| `variable_value` | chains of assignments | what one variable holds | the number |
"""

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from e2llm.chunk_breaks import SENTENCE_END
from e2llm.data import needle_wording as wording
from e2llm.data.converter import Converter
from e2llm.data.needle_kinds import KINDS, LISTED, TOLD_IN_WORDS_OF_TEXTS, Room, Task
from e2llm.data.parquet import ParquetConverter
from e2llm.data.plain_text import PlainTextConverter
from e2llm.errors import E2LLMError
from e2llm.records import Record, read_records

MIN_LENGTH_CHARS = 60


def generate_needles(
    haystacks: Sequence[str],
    num_records: int,
    lengths_chars: Sequence[int],
    kinds: Sequence[str] = (),
    seed: int = 0,
    noise_fraction: float = 0.1,
    needle_fraction: float = 0.7,
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
        needle_fraction: Share of a context (0..1) that needles may take; two are hidden in any case where a
            kind hides several.

    Raises:
        E2LLMError: If an argument is out of range or no haystack holds text.
    """
    chosen = tuple(kinds) or tuple(KINDS)
    _check_arguments(haystacks, num_records, lengths_chars, chosen, noise_fraction, needle_fraction)
    ends = list(accumulate(len(text) for text in haystacks))
    vocabulary = LISTED.with_those_of(haystacks) if TOLD_IN_WORDS_OF_TEXTS & set(chosen) else LISTED
    for index in range(num_records):
        rng = random.Random(f"{seed}/{index}")
        kind = rng.choice(chosen)
        length = rng.choice(lengths_chars)
        is_noise = rng.random() < noise_fraction
        task = KINDS[kind](rng, Room(length, needle_fraction, vocabulary))
        room = max(0, length - sum(len(needle) + 1 for needle in task.needles)) if task.gold else 0
        hay = _noise(rng, room) if is_noise else _stretch(rng, haystacks, ends, room)
        yield _hide(rng, task, hay, f"{kind}-{length}", index)


def _check_arguments(
    haystacks: Sequence[str],
    num_records: int,
    lengths_chars: Sequence[int],
    kinds: Sequence[str],
    noise_fraction: float,
    needle_fraction: float,
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
    for name, value in (("noise_fraction", noise_fraction), ("needle_fraction", needle_fraction)):
        if not 0 <= value <= 1:
            raise E2LLMError(f"{name} must be between 0 and 1, got {value}")
    if not any(text.strip() for text in haystacks):
        raise E2LLMError("no haystack holds text; give at least one text to hide needles in")


def _hide(rng: random.Random, task: Task, hay: str, label: str, index: int) -> Record:
    """Put the needles at sentence ends of `hay`, at depths drawn uniformly, keeping their order."""
    places = [0, *(match.end() for match in SENTENCE_END.finditer(hay)), len(hay)]
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
        id=f"{label}-{round(100 * depths[min(task.gold, default=0)])}-{index}",
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
            sentence = SENTENCE_END.search(text, start, start + 500)
            start = sentence.end() if sentence and len(text) - sentence.end() >= missing else start
        piece = text[start : start + missing].strip()
        pieces.append(piece)
        missing -= max(1, len(piece) + 2)
    return "\n\n".join(piece for piece in pieces if piece)


def _noise(rng: random.Random, length: int) -> str:
    sentences, joint = rng.choice(wording.NOISE), rng.choice((" ", "\n"))
    return joint.join([sentences] * (length // len(sentences) + 1))[:length].rstrip()


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
        needle_fraction: Share of a context that needles may take.
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
    needle_fraction: float = 0.7

    def _records(self, source: Path, split: str) -> Iterator[Record]:
        return generate_needles(
            read_haystacks(source),
            self.num_records,
            self.lengths_chars,
            self.kinds,
            self.seed,
            self.noise_fraction,
            self.needle_fraction,
        )
