"""The words and wordings of generated needles: lists, words of the haystacks, and made-up ones.

RULER's tasks (arXiv 2404.06654) take their words from here, too. No wording of training needles is RULER's,
so that RULER tests what a model has learned.
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


# --- wordings of training needles ---------------------------------------------------------------------------

Fact = tuple[str, str, str]

# (statement, question, answer): facts of plain prose. `{thing}` or `{name}` tells one fact from another.
FACTS: tuple[Fact, ...] = (
    ("The {attribute} of {thing} is {number}.", "What is the {attribute} of {thing}?", "{number}"),
    ("The {attribute} for {thing} is {number}.", "What is the {attribute} for {thing}?", "{number}"),
    ("The {attribute} of {thing} was {number}.", "What was the {attribute} of {thing}?", "{number}"),
    ("Remember: the {attribute} of {thing} is {number}.", "Tell me the {attribute} of {thing}.", "{number}"),
    ("{number} is the {attribute} of {thing}.", "Which {attribute} does {thing} have?", "{number}"),
    ("The {attribute} of {thing} is now {number}.", "Give the {attribute} of {thing}.", "{number}"),
    ("{name}'s {attribute} is {number}.", "What is {name}'s {attribute}?", "{number}"),
    ("{name} paid {number} dollars for {thing}.", "How many dollars did {name} pay?", "{number}"),
    ("{name} owns {number} {noun}s.", "How many {noun}s does {name} own?", "{number}"),
    ("{name} was born in {year}.", "In which year was {name} born?", "{year}"),
    ("{name} left in the year {year}.", "When did {name} leave?", "{year}"),
    ("The coach to {place} leaves at {time}.", "When does the coach to {place} leave?", "{time}"),
    ("{name} arrives at {time}.", "When does {name} arrive?", "{time}"),
    ("{name} lives in {place}.", "Where does {name} live?", "{place}"),
    ("{name} came from {place}.", "Where did {name} come from?", "{place}"),
    ("The owner of {thing} is {name}.", "Who is the owner of {thing}?", "{name}"),
    ("{name} gave away {thing}.", "Who gave away {thing}?", "{name}"),
    ("The colour of {thing} is {colour}.", "What is the colour of {thing}?", "{colour}"),
    ("The password of {thing} is {word}.", "What is the password of {thing}?", "{word}"),
    ("The secret word of {name} is {word}.", "What is the secret word of {name}?", "{word}"),
    ("{name} hid the {noun} under {thing}.", "Where did {name} hide the {noun}?", "under {thing}"),
)

# The gaps of these get words and names of the haystacks.
TEXT_FACTS: tuple[Fact, ...] = (
    ("The password of {thing} is {word}.", "What is the password of {thing}?", "{word}"),
    ("The secret word of {name} is {word}.", "What is the secret word of {name}?", "{word}"),
    ("The word for {thing} is {word}.", "What is the word for {thing}?", "{word}"),
    ("{name} whispered the word {word}.", "Which word did {name} whisper?", "{word}"),
    ("The {noun} is called {name}.", "What is the {noun} called?", "{name}"),
    ("The name of the {noun} is {name}.", "What is the name of the {noun}?", "{name}"),
    ("My {noun} {name} lives in {place}.", "Where does my {noun} {name} live?", "{place}"),
    ("{name} lives in {place}.", "Where does {name} live?", "{place}"),
    ("{name} was born in {place}.", "Where was {name} born?", "{place}"),
    ("{name} went to {place}.", "Where did {name} go?", "{place}"),
    ("{name} sent a letter to {place}.", "Where did {name} send a letter?", "{place}"),
    ("{name} met {place} at {thing}.", "Whom did {name} meet at {thing}?", "{place}"),
    ("{name} is the owner of {thing}.", "Who is the owner of {thing}?", "{name}"),
    ("{thing} belongs to {name}.", "To whom does {thing} belong?", "{name}"),
    ("{name} found {thing}.", "Who found {thing}?", "{name}"),
    ("{name} found {thing} again.", "What did {name} find again?", "{thing}"),
    ("{name} hid the {noun} under {thing}.", "Where did {name} hide the {noun}?", "under {thing}"),
    ("{name} keeps the {noun} behind {thing}.", "Where does {name} keep the {noun}?", "behind {thing}"),
    ("{name} is afraid of {thing}.", "What is {name} afraid of?", "{thing}"),
    ("{name} likes {word} best.", "What does {name} like best?", "{word}"),
    ("The colour of {thing} is {colour}.", "What is the colour of {thing}?", "{colour}"),
    ("{name} is {number} years old.", "How old is {name}?", "{number}"),
    ("The number of {thing} is {number}.", "What is the number of {thing}?", "{number}"),
    ("The code of {thing} is {number}.", "What is the code of {thing}?", "{number}"),
)

STATEMENTS = (
    "The secret {noun} for {key} is {value}.",
    "Remember that the {noun} for {key} is {value}.",
    "Note that {key} has the hidden {noun} {value}.",
    "The {noun} kept for {key} is {value}.",
    "Whoever asks about {key} must be told this {noun}: {value}.",
    "They wrote down {value} as a {noun} for {key}.",
    "In the list, the {noun} next to {key} is {value}.",
)

QUESTIONS = (
    "What is the secret {noun} for {key}?",
    "Which {noun} does the text give for {key}?",
    "Find the {noun} for {key}.",
    "The text hides a {noun} for {key}. What is it?",
    "Which {noun} belongs to {key}?",
)

QUESTIONS_FOR_ALL_VALUES = (
    "What are all the {noun}s for {key} in the text?",
    "List every {noun} that the text gives for {key}, separated by commas.",
    "Several {noun}s are hidden for {key}. Name all of them.",
)

QUESTIONS_FOR_ALL_KEYS = (
    "What are the {noun}s for {keys}?",
    "Give the {noun}s for {keys}, in this order, separated by commas.",
)
