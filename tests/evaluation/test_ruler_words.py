import itertools
import random
import re
from collections import Counter

import pytest
from ruler_samples import HAYSTACKS, count_words, request

from e2llm.data.needles.wording import ADJECTIVES, NOUNS
from e2llm.evaluation.tasks import TASKS
from e2llm.evaluation.tasks.ruler.word_lists import EndlessWords


def items(name, **options):
    return list(TASKS[name]().items(request(**options)))


def lists_of(item):
    """The three numbered lists of a context: the solved one, its answer, the one that is asked about."""
    texts = re.findall(r"(?:^|\n|Answer: )(1\. [^\n]*)", item.context)
    for text in texts:
        numbers = [int(number) for number in re.findall(r"(\d+)\. ", text)]
        assert numbers == list(range(1, len(numbers) + 1))
    return [re.findall(r"\d+\. (\S+)", text) for text in texts]


@pytest.mark.parametrize(
    ("length", "repeats", "example_repeats", "example_words"),
    [
        (1024, (6, 1), (3, 1), 20),
        (4095, (6, 1), (3, 1), 20),
        (4096, (30, 3), (10, 3), 40),
        (20_000, (30, 3), (10, 3), 40),
    ],
)
def test_ten_words_stand_often_and_all_others_rarely(length, repeats, example_repeats, example_words):
    for item in items("cwe", limit=2, lengths=(length,)):
        solved, answer, asked = map(Counter, lists_of(item))
        assert {word for word, count in asked.items() if count == repeats[0]} == set(item.references)
        assert set(asked.values()) == set(repeats)
        assert {word for word, count in solved.items() if count == example_repeats[0]} == set(answer)
        assert (len(item.references), len(answer), len(solved)) == (10, 10, example_words)
        assert not set(solved) & set(asked)


def test_no_common_word_is_part_of_another_word():
    for item in items("cwe", limit=4, lengths=(8000,)):
        solved, _, asked = lists_of(item)
        for word in item.references:
            assert [other for other in {*asked, *solved} if word in other] == [word]


def test_no_common_word_stands_in_the_question():
    asked = "What are the 10 most common words in the above list?"
    haystack = " ".join(["common words above list most what"] * 40)
    for item in TASKS["cwe"]().items(request(limit=12, lengths=(4096,), haystacks=[haystack])):
        assert item.prompt == asked
        assert [word for word in item.references if word in asked.lower()] == []


def test_common_words_are_shuffled_among_the_others():
    (item,) = items("cwe", limit=1, lengths=(8192,))
    asked = lists_of(item)[-1]
    common = [place / len(asked) for place, word in enumerate(asked) if word in item.references]
    assert 0.4 < sum(common) / len(common) < 0.6


def test_words_come_from_the_needles_then_the_haystacks_then_are_made_up():
    words = list(itertools.islice(EndlessWords(HAYSTACKS).shuffled(random.Random(1)), 4000))
    assert len(set(words)) == 4000
    first = set(words[:2000])
    assert set(ADJECTIVES) | set(NOUNS) <= first
    assert {"walker", "paragraphs", "pebbled"} <= first
    assert not {"and", "The", "went along"} & first
    assert all(re.fullmatch("([bdfgklmnprstvz][aeiou]){3,4}", word) for word in words[2000:])


def test_words_do_not_depend_on_what_was_drawn_before():
    vocabulary = EndlessWords(HAYSTACKS)
    list(itertools.islice(vocabulary.shuffled(random.Random(2)), 5000))
    later = list(itertools.islice(vocabulary.shuffled(random.Random(1)), 2500))
    assert later == list(itertools.islice(EndlessWords(HAYSTACKS).shuffled(random.Random(1)), 2500))


@pytest.mark.parametrize("length", [1024, 4096, 16384])
def test_coded_words_have_zipf_frequencies_and_the_first_three_are_asked(length):
    for item in items("fwe", limit=2, lengths=(length,)):
        counts = Counter(item.context.split()).most_common()
        assert counts[0][0] == "..."
        assert tuple(word for word, _ in counts[1:4]) == item.references
        assert counts[3][1] > counts[4][1]
        assert all(re.fullmatch("[a-z]{6}", word) for word, _ in counts[1:])
        # of N words, rank k has N k^-2 / zeta(2), rounded down
        total = counts[0][1] * 3.14159**2 / 6
        for rank, (_, count) in enumerate(counts[:20], start=1):
            assert abs(count - total * rank**-2 * 6 / 3.14159**2) <= 1.7


def test_the_smallest_coded_text_still_has_three_answers():
    (item,) = items("fwe", limit=1, lengths=(80,))
    counts = Counter(item.context.split()).most_common(5)
    assert counts[3][1] > counts[4][1] if len(counts) > 4 else len(counts) == 4
    assert {word for word, _ in counts[1:4]} == set(item.references)
    assert count_words(item.context) <= 80
