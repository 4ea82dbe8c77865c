"""Facts hidden at random places in long texts, to train recall; docs/data-format.md lists the kinds."""

import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from e2llm.chunk_breaks import SENTENCE_END
from e2llm.data.needles.hiding import hide
from e2llm.data.needles.kinds import KINDS
from e2llm.data.needles.words import LISTED
from e2llm.errors import E2LLMError
from e2llm.records import Record

MIN_LENGTH_CHARS = 60
_NEEDLE_FRACTION = 0.7  # of a context, for needles at most
_NEEDLE_CHARS = 100  # of a needle with its space, rounded up


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
        raise E2LLMError(
            f"lengths_chars must have lengths of at least {MIN_LENGTH_CHARS}, got {lengths_chars}"
        )
    if not any(text.strip() for text in haystacks):
        raise E2LLMError("there is no text in the haystacks; give at least one text to hide needles in")


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
