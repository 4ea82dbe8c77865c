"""Text as tokens come: pieces joined are the text, stop texts end it and are never told in part."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2llm.inference.decoding.streaming import AnswerText


def letters(ids):
    return "".join(map(chr, ids)).strip()


def tell(text, stop=()):
    answer = AnswerText(letters, stop)
    pieces = [answer.put(ord(letter)) for letter in text]
    return [*pieces, answer.end()], answer


def test_pieces_joined_are_the_text():
    pieces, answer = tell("the key is red ")
    assert "".join(pieces) == answer.text == "the key is red"
    assert pieces[0] == "t"


def test_a_stop_text_ends_the_answer_and_is_not_told():
    pieces, answer = tell("one\nTwo\nthree", ["\nT"])
    assert "".join(pieces) == "one"
    assert answer.stopped


def test_the_first_of_several_stop_texts_to_be_whole_counts():
    assert tell("a b c d", ["d", "b"])[1].text == "a "


def test_what_only_looked_like_a_stop_text_is_told_in_the_end():
    pieces, answer = tell("ab STO", ["STOP"])
    assert answer.text == "ab STO"
    assert pieces[-1] == "STO"
    assert not answer.stopped


@pytest.mark.parametrize("word", ["é", "日本", "🙂"])
def test_characters_of_several_bytes_come_whole(word):
    def decode(ids):
        return bytes(ids).decode("utf-8", "replace").strip()

    answer = AnswerText(decode, [])
    pieces = [answer.put(byte) for byte in f"a{word}b".encode()]
    assert "�" not in "".join(pieces)
    assert "".join([*pieces, answer.end()]) == f"a{word}b"


@settings(max_examples=200)
@given(st.text("ab ", max_size=30), st.text("ab", min_size=1, max_size=4))
def test_the_text_is_what_comes_before_the_stop_text(text, stop):
    assert tell(text, [stop])[1].text == letters(map(ord, text)).split(stop)[0]
