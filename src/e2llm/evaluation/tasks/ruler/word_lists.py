"""RULER's aggregation tasks: common and frequent words (Hsieh et al. 2024, arXiv 2404.06654, section 3.3)."""

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

from e2llm.data.needles.hiding import Passage
from e2llm.data.needles.wording import (
    ADJECTIVES,
    LEAST_CODED_WORDS,
    NOUNS,
    coded_vocabulary,
    made_up_word,
    numbered,
    zipf_words,
)
from e2llm.evaluation.items import TaskRequest
from e2llm.evaluation.tasks.ruler.ruler_task import Draft, RulerTask

WORD_LIST = "This is a numbered list of words, some of which stand in it more often than the others.\n"
COMMON_QUESTION = "What are the 10 most common words in the above list?"
FREQUENT_QUESTION = (
    "What are the three most frequently appeared words in the above coded text? "
    "Ignore the dots and answer with the words alone."
)
SHORT_LENGTH_TOKENS = 4096  # below it, the published code makes lists with fewer repetitions
_WORD = re.compile(r"(?<![\w'’-])[a-z]{4,12}(?![\w'’-])")
_WORD_SOURCE_CHARS = 20_000_000
_BLOCK_WORDS = 2000


class CommonWords(RulerTask):
    """A numbered list with 10 words 30 times and all others 3 times; the question asks for the 10.

    A short solved list comes before it. Below 4,096 tokens the words occur 6 times and once, as in the
    published code, since there is no room for more.
    """

    name: ClassVar[str] = "cwe"
    description: ClassVar[str] = "RULER: the ten most frequent words of a long list"
    max_new_tokens: ClassVar[int] = 120
    num_common: ClassVar[int] = 10

    def _prepare(self, request: TaskRequest) -> "EndlessWords":
        return EndlessWords(request.haystacks)

    def _draft(self, shared: "EndlessWords", rng: random.Random, length: int, index: int) -> Draft:
        is_short = length < SHORT_LENGTH_TOKENS
        num_example, example_repeats = (20, (3, 1)) if is_short else (40, (10, 3))
        num_answer_repeats, num_other_repeats = (6, 1) if is_short else (30, 3)
        words = shared.shuffled(rng)
        example_words = list(itertools.islice(words, num_example))
        example = self._example(rng, example_words, *example_repeats)
        answers = self._answers(words, example_words)
        others = (word for word in words if not any(answer in word for answer in answers))
        taken: list[str] = []
        seed = rng.getrandbits(64)

        def build(num_others: int) -> Passage:
            taken.extend(itertools.islice(others, max(0, num_others - len(taken))))
            listed = answers * num_answer_repeats + taken[:num_others] * num_other_repeats
            random.Random(seed).shuffle(listed)
            return Passage(f"{example}\n\n{WORD_LIST}{numbered(listed)}")

        first_size = length // (8 * num_other_repeats)
        return Draft(build, first_size, COMMON_QUESTION, tuple(answers), smallest_size=1)

    def _example(
        self, rng: random.Random, words: Sequence[str], num_common_repeats: int, num_other_repeats: int
    ) -> str:
        common, others = list(words[: self.num_common]), list(words[self.num_common :])
        listed = common * num_common_repeats + others * num_other_repeats
        rng.shuffle(listed)
        return f"{WORD_LIST}{numbered(listed)}\nQuestion: {COMMON_QUESTION}\nAnswer: {numbered(common)}"

    def _answers(self, words: Iterator[str], example_words: Sequence[str]) -> list[str]:
        """Take the next words that are no part of each other, the example or the question.

        The score looks for strings: an answer that repeats the question would count for a word of it.
        """
        answers: list[str] = []
        while len(answers) < self.num_common:
            word = next(words)
            is_part = any(word in other for other in (*example_words, *answers, COMMON_QUESTION.lower()))
            if not is_part and not any(answer in word for answer in answers):
                answers.append(word)
        return answers


class FrequentWords(RulerTask):
    """Coded words of six letters with Zipf frequencies; the question asks for the top three after the dots.

    Word number `k` occurs `num_words * k ** -2 / zeta(2)` times, rounded down; number 1 is `...`.
    """

    name: ClassVar[str] = "fwe"
    description: ClassVar[str] = "RULER: the three most frequent coded words of a long text"
    max_new_tokens: ClassVar[int] = 50
    num_answers: ClassVar[int] = 3

    def _draft(self, shared: None, rng: random.Random, length: int, index: int) -> Draft:
        vocabulary = coded_vocabulary(rng, max(length // 50, self.num_answers + 2))
        seed = rng.getrandbits(64)

        def build(num_words: int) -> Passage:
            drawn = zipf_words(vocabulary, num_words)
            random.Random(seed).shuffle(drawn)
            return Passage(" ".join(drawn))

        answers = tuple(vocabulary[1 : 1 + self.num_answers])
        return Draft(build, length // 2, FREQUENT_QUESTION, answers, smallest_size=LEAST_CODED_WORDS)


class EndlessWords:
    """Words without end: those of the needles, then those of the haystacks, then made-up ones.

    Args:
        haystacks: Texts whose lower-case words of 4 to 12 letters are taken, in the order they come.
    """

    def __init__(self, haystacks: Sequence[str]) -> None:
        self._words = _distinct_words(haystacks)
        self._blocks: list[list[str]] = []

    def shuffled(self, rng: random.Random) -> Iterator[str]:
        """Yield all words once each, in shuffled blocks, so that few texts are read for a short list."""
        for number in itertools.count():
            if number == len(self._blocks):
                self._blocks.append(list(itertools.islice(self._words, _BLOCK_WORDS)))
            block = list(self._blocks[number])
            random.Random(rng.getrandbits(64)).shuffle(block)
            yield from block


def _distinct_words(haystacks: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for word in itertools.chain(ADJECTIVES, NOUNS, _words_of(haystacks)):
        if word not in seen:
            seen.add(word)
            yield word
    rng = random.Random("made-up words")
    while True:
        word = made_up_word(rng, (3, 4))  # of three and more syllables, such as `nodavi`
        if word not in seen:
            seen.add(word)
            yield word


def _words_of(haystacks: Sequence[str]) -> Iterator[str]:
    missing = _WORD_SOURCE_CHARS
    for text in haystacks:
        if missing <= 0:
            return
        yield from (match.group() for match in _WORD.finditer(text, 0, missing))
        missing -= len(text)
