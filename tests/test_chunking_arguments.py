"""Overlap, empty texts, wrong arguments, and what a chunker loads."""

import subprocess
import sys

import pytest

from chunk_texts import CHAR_KINDS, byte_tokenizer, minilm_tokenizer, texts_of
from e2llm.chunking import CHUNKERS, Chunk, split_text
from e2llm.errors import E2LLMError


@pytest.mark.parametrize(
    ("text", "overlap", "expected"),
    [
        ("aaaa bbbb cccc dddd", 7, ["aaaa bbbb ", "bbbb cccc ", "cccc dddd"]),
        ("abcdefghijklmno", 3, ["abcdefghij", "hijklmno"]),
        ("aaaa bbbb cccc dddd", 0, ["aaaa bbbb ", "cccc dddd"]),
    ],
    ids=["begins at a word", "no word to begin at", "none"],
)
def test_overlap_repeats_the_end_of_the_chunk_before(text, overlap, expected):
    assert texts_of(split_text(text, 10, overlap)) == expected


@pytest.mark.parametrize("kind", CHAR_KINDS)
def test_an_empty_text_gives_no_chunks(kind):
    assert split_text("", kind=kind) == []


def test_an_empty_text_gives_no_token_chunks():
    assert split_text("", kind="tokens", tokenizer=byte_tokenizer(), max_tokens=8) == []


def test_a_short_text_is_one_chunk():
    assert split_text("Short. Text.") == [Chunk(0, 12, "Short. Text.")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": b"bytes"}, "text must be a string, got bytes; decode"),
        ({"kind": "poem"}, "kind='poem' is unknown; choose one of: prose, code, tokens"),
        ({"chunk_size_chars": 0}, "chunk_size_chars must be a whole number of 1 or more, got 0"),
        ({"chunk_size_chars": 1.5}, "of 1 or more, got 1.5"),
        ({"chunk_size_chars": True}, "of 1 or more, got True"),
        ({"overlap_chars": -1}, "overlap_chars must be a whole number of 0 or more, got -1"),
        ({"overlap_chars": 512}, "overlap_chars=512 must be below chunk_size_chars=512; lower"),
        ({"max_tokens": 8}, "tokenizer is missing; pass tokenizer and max_tokens together"),
        ({"tokenizer": object()}, "max_tokens is missing; pass"),
        ({"tokenizer": object(), "max_tokens": 8}, "object is not a fast tokenizer; load"),
        ({"kind": "tokens"}, "kind='tokens' needs tokenizer and max_tokens; pass both"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_to_change(arguments, message):
    with pytest.raises(E2LLMError) as caught:
        split_text(**{"text": "some text", **arguments})
    assert message in str(caught.value)


def test_a_limit_that_special_tokens_fill_is_refused():
    with pytest.raises(E2LLMError, match="max_tokens must be a whole number above 2"):
        split_text("some text", tokenizer=minilm_tokenizer(), max_tokens=2)


def test_a_lone_surrogate_is_refused_before_the_tokenizer_meets_it():
    with pytest.raises(E2LLMError, match="character 2 is a lone surrogate"):
        split_text("ab\ud800", tokenizer=byte_tokenizer(), max_tokens=8)


def test_a_size_in_characters_that_tokens_do_not_use_warns():
    with pytest.warns(UserWarning, match="chunk_size_chars=100 has no effect with kind='tokens'"):
        split_text("text", 100, kind="tokens", tokenizer=byte_tokenizer(), max_tokens=8)


def test_a_new_kind_is_one_function_and_one_dict_line(monkeypatch):
    monkeypatch.setitem(CHUNKERS, "fixed", lambda text, start, floor, stop: stop)
    assert texts_of(split_text("One. Two. Three.", 6, kind="fixed")) == ["One. T", "wo. Th", "ree."]


def test_splitting_loads_neither_torch_nor_transformers():
    script = (
        "import sys, e2llm; e2llm.split_text('a b'); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("kind", ["prose", "code", "tokens"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_texts_known_to_fit_change_nothing(kind, share):
    from tiny_models import TEXT, tiny_encoder_tokenizer

    options = {"tokenizer": tiny_encoder_tokenizer(), "max_tokens": 24, "kind": kind}
    size = {} if kind == "tokens" else {"chunk_size_chars": 60}
    expected = split_text(TEXT * 3, **size, **options)
    known = {chunk.text for number, chunk in enumerate(expected) if number < share * len(expected)}
    assert split_text(TEXT * 3, **size, fitting=known, **options) == expected
