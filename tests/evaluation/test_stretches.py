import pytest

from e2llm.evaluation.tasks.stretches import first_lines, first_tokens, last_tokens

WORDS = " ".join(f"word{number}" for number in range(1000))


def count_words(text):
    return len(text.split())


@pytest.mark.parametrize("num_tokens", [1, 7, 199])
def test_a_beginning_and_an_end_have_the_tokens_asked_for(num_tokens):
    first, last = first_tokens(WORDS, num_tokens, count_words), last_tokens(WORDS, num_tokens, count_words)
    assert first.split() == WORDS.split()[:num_tokens]
    assert last.split() == WORDS.split()[-num_tokens:]


def test_a_long_stretch_is_never_too_long_and_hardly_shorter():
    for num_tokens in (400, 600, 999):
        stretch = first_tokens(WORDS, num_tokens, count_words)
        assert 0.99 * num_tokens <= count_words(stretch) <= num_tokens
        assert WORDS.startswith(stretch)


def test_a_text_that_fits_is_whole():
    assert first_tokens(WORDS, 2000, count_words) == WORDS
    assert last_tokens(WORDS, 1000, count_words) == WORDS
    assert first_tokens("", 5, count_words) == ""


def test_text_whose_tokens_are_uneven_is_cut_as_well():
    text = "a " * 500 + "longestwordofall " * 500
    assert count_words(first_tokens(text, 600, count_words)) in range(597, 601)
    assert count_words(last_tokens(text, 600, count_words)) in range(597, 601)


def test_a_script_without_spaces_is_cut_between_characters():
    text = "字" * 1000
    assert len(first_tokens(text, 300, len)) in range(298, 301)
    assert len(last_tokens(text, 300, len)) in range(298, 301)


def test_lines_stay_whole():
    assert first_lines("one two\nthree\nfour five\n", 4, count_words) == "one two\nthree\n"
    assert first_lines("one two\nthree\n", 1, count_words) == ""


def test_few_guesses_are_enough():
    calls = []

    def count(text):
        calls.append(text)
        return count_words(text)

    first_tokens(WORDS * 50, 20_000, count)
    assert len(calls) <= 6
