"""The words of generated needles: lists, those of the haystacks, and made-up ones.

RULER's tasks (arXiv 2404.06654) take their words from here, too.
"""

import itertools
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words("""
amber ancient bitter blue bold brave bright brisk broken calm careful cheerful clever cold copper crimson
curious damp dark dear deep distant dusty eager early empty faint famous fancy fast fierce final fine
foggy forgotten fresh friendly gentle giant glad golden grand gray great green happy hasty heavy hidden
hollow honest humble hungry icy idle iron jolly keen kind large late lazy light little lively lonely loud
lucky mellow merry mighty misty modest narrow neat nimble noble odd old orange pale patient plain polite
proud purple quick quiet rapid rare red restless rich rough round royal rusty sad scarlet secret shallow
sharp shiny shy silent silver simple sleepy slow small smooth snowy soft solid sour spare stormy strange
strong sunny sweet swift tall tame tender thin tiny tough vast violet warm weary wet white wide wild wise
wooden yellow young
""")

NOUNS = _words("""
acorn anchor apple arrow badge bakery barn basket beacon bear bell berry bird blanket boat book bottle
bridge broom bucket butter button cabin camel candle captain carpet castle cellar chair cherry chimney
circle clock cloud coat comet corner cottage cousin cradle crane crown cup dagger daisy desert diamond
doctor dragon drum eagle engine falcon farmer feather fence ferry field fiddle finger forest fountain fox
garden garlic gate ghost glacier glove goat goose grape hammer harbor harp hat hawk helmet hill honey
horse island jacket jewel judge kettle kitchen kite ladder lake lamp lantern lemon letter lion lizard
locket market meadow melon mill mirror monkey moon morning mountain museum needle nest oak ocean onion
orchard otter owl palace parrot pebble pencil pepper piano pigeon pillow pirate planet pocket pond potato
prince puzzle queen rabbit raven ribbon river robin rocket rose sailor salmon school seal shadow sheep
ship shoe sister sparrow spider spoon spring squirrel stable statue stone storm summer sword table tailor
temple thimble tiger tower town train tree trumpet turtle umbrella uncle valley village violin wagon
walnut water weaver whale wheel willow window winter wolf
""")

NAMES = _words("""
Ada Agnes Albert Alice Amos Anna Arthur Basil Beatrice Ben Bertha Bruno Carl Cecil Clara Conrad Cora Daisy
Daniel Dora Edgar Edith Edmund Ella Elsa Emil Emma Eric Ernest Esther Eva Felix Fiona Flora Frank Fred
Frieda George Gilbert Grace Greta Gus Hannah Harold Harriet Hector Helen Henry Herman Hilda Hugo Ida Ines
Iris Isaac Ivan Ivy Jacob Jane Jasper Joan Jonas Judith Julia Karl Kate Klara Laura Lena Leo Lewis Lily
Louis Lucy Luke Mabel Magnus Marian Mark Martha Martin Mary Maud Max Milo Minna Mira Nancy Ned Nina Nora
Oliver Olga Oscar Otto Paul Peggy Percy Peter Philip Phoebe Polly Ralph Rhoda Robert Roland Rosa Ruben Rufus
Ruth Sam Sarah Silas Simon Sophie Stella Susan Sybil Thea Theo Thomas Tilda Tobias Ursula Vera Victor Viola
Walter Wanda Wilma Yara Zoe
""")

PLACE_BEGINNINGS = _words("Ash Bram Brin Cor Dal Elm Fen Gar Hal Kel Lan Mar Nor Oak Pel Rav Sel Tor Wex Yar")
PLACE_ENDINGS = _words("bridge bury by combe dale field ford ham holm hurst ley mere mouth ton wick worth")

COLOURS = _words("black blue brown crimson golden green grey orange pink purple red silver white yellow")

ATTRIBUTES = _words("""
account address age badge balance code combination depth height key length licence limit number order password
pin price rank reference registration room score serial size speed ticket total value weight width
""")

_NUM_CODED_LETTERS = 6
_ZETA_2 = math.pi**2 / 6
# From here on the third word after the first is more frequent than the next one.
LEAST_CODED_WORDS = math.ceil(_ZETA_2 / (1 / 4**2 - 1 / 5**2))

_WORD = re.compile(r"\b[a-z]{4,12}\b")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,11}\b")  # in mid-sentence, where no other word is capitalized
_LEAST_WORDS = 20


@dataclass(frozen=True)
class Vocabulary:
    """Distinct words in lower case and distinct names, for facts."""

    words: tuple[str, ...]
    names: tuple[str, ...]

    def with_those_of(self, texts: Iterable[str]) -> "Vocabulary":
        """Return the words of 4 to 12 letters and the names in `texts`, or these ones if texts have few."""
        found: dict[str, None] = {}
        named: dict[str, None] = {}
        for text in texts:
            found.update(dict.fromkeys(_WORD.findall(text)))
            named.update(dict.fromkeys(_NAME.findall(text)))
        return Vocabulary(
            tuple(found) if len(found) >= _LEAST_WORDS else self.words,
            tuple(named) if len(named) >= _LEAST_WORDS else self.names,
        )


LISTED = Vocabulary(NOUNS, NAMES)


def numbered(words: Iterable[str]) -> str:
    """Return the words in one line, each after its number: `1. apple 2. pear`."""
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, start=1))


def coded_vocabulary(rng: random.Random, num_words: int) -> list[str]:
    """Return distinct random words of six letters; the first is `...`, the most frequent one."""
    words: dict[str, None] = {"...": None}
    while len(words) < num_words:
        words["".join(rng.choices(ascii_lowercase, k=_NUM_CODED_LETTERS))] = None
    return list(words)


def zipf_words(vocabulary: Sequence[str], num_words: int) -> list[str]:
    """Return word number `k` of the vocabulary `num_words * k ** -2 / zeta(2)` times, rounded down."""
    counts = (int(num_words / rank**2 / _ZETA_2) for rank in itertools.count(1))
    return [word for word, count in zip(vocabulary, counts, strict=False) for _ in range(count)]


def made_up_word(rng: random.Random, nums_syllables: Sequence[int]) -> str:
    """Return a word such as `nodavi`, of one of these numbers of syllables."""
    syllables = (
        rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.choice(nums_syllables))
    )
    return "".join(syllables)
