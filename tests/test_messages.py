import pytest

from e2llm.messages import counted


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [
        (1, "chunk", "1 chunk"),
        (0, "chunk", "0 chunks"),
        (1234, "soft token", "1,234 soft tokens"),
        (2, "copy", "2 copies"),
    ],
)
def test_a_number_comes_with_the_right_form_of_its_noun(number, noun, words):
    assert counted(number, noun) == words
