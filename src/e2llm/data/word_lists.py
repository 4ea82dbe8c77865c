"""Words to tell needles with: those of the haystacks, made-up ones, and lists in which some stand more often.

The lists are those of RULER's aggregation tasks (arXiv 2404.06654).
"""

import itertools
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase

NUM_CODED_LETTERS = 6
_ZETA_2 = math.pi**2 / 6
# From here on the third word after the first stands at least once more often than the one after it.
LEAST_CODED_WORDS = math.ceil(_ZETA_2 / (1 / 4**2 - 1 / 5**2))

_WORD = re.compile(r"\b[a-z]{4,12}\b")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,11}\b")  # in mid-sentence, where no other word is capitalized
_LEAST_WORDS = 20


@dataclass(frozen=True)
class Vocabulary:
    """Distinct words that needles are told with.

    Attributes:
        words: In lower case.
        names: Capitalized.
    """

    words: tuple[str, ...]
    names: tuple[str, ...]

    def with_those_of(self, texts: Iterable[str]) -> "Vocabulary":
        """The distinct words of 4 to 12 letters and the names in `texts`; these ones where texts have few."""
        found: dict[str, None] = {}
        named: dict[str, None] = {}
        for text in texts:
            found.update(dict.fromkeys(_WORD.findall(text)))
            named.update(dict.fromkeys(_NAME.findall(text)))
        return Vocabulary(
            tuple(found) if len(found) >= _LEAST_WORDS else self.words,
            tuple(named) if len(named) >= _LEAST_WORDS else self.names,
        )


def numbered(words: Iterable[str]) -> str:
    """The words in one line, each after its number: `1. apple 2. pear`."""
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, start=1))


def coded_vocabulary(rng: random.Random, num_words: int) -> list[str]:
    """Distinct random words of six letters; the first is `...`, the most frequent one."""
    words: dict[str, None] = {"...": None}
    while len(words) < num_words:
        words["".join(rng.choices(ascii_lowercase, k=NUM_CODED_LETTERS))] = None
    return list(words)


def zipf_words(vocabulary: Sequence[str], num_words: int) -> list[str]:
    """Word number `k` of the vocabulary `num_words * k ** -2 / zeta(2)` times, rounded down, in order."""
    counts = (int(num_words / rank**2 / _ZETA_2) for rank in itertools.count(1))
    return [word for word, count in zip(vocabulary, counts, strict=False) for _ in range(count)]


def made_up_word(rng: random.Random, nums_syllables: Sequence[int]) -> str:
    """A word that no text holds but by chance, such as `nodavi`; of one of the given numbers of syllables."""
    syllables = (
        rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice(nums_syllables))
    )
    return "".join(syllables)
