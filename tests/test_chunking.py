"""Every chunker: chunks cover the text, keep their size and fit the encoder."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunk_texts import (
    CHAR_KINDS,
    HARD_TEXTS,
    PIECES,
    PROSE,
    TEXTS,
    TOKENIZERS,
    assert_covers,
    byte_tokenizer,
    count_tokens,
    minilm_tokenizer,
    texts_of,
)
from e2llm import chunking
from e2llm.chunking import CHUNKERS, split_text
from e2llm.errors import E2LLMError

PIECES += [
    "\u200d",
    "\u0301",
    "e\u0301",
    "👩\u200d👩\u200d👧",
    "🇩🇪",
    "def f():\n",
    "@d\n",
    "    class A:\n",
    "# c\n",
]


@pytest.mark.parametrize("kind", CHAR_KINDS)
@given(text=TEXTS, chunk_size_chars=st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_chunks_join_back_to_the_text_and_keep_the_size(kind, text, chunk_size_chars):
    chunks = split_text(text, chunk_size_chars, kind=kind)
    assert "".join(texts_of(chunks)) == text
    assert all(len(chunk.text) <= chunk_size_chars for chunk in chunks)
    assert_covers(text, chunks)


@pytest.mark.parametrize("kind", CHAR_KINDS)
@given(text=TEXTS, chunk_size_chars=st.integers(1, 60), share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=150, deadline=None)
def test_overlapping_chunks_cover_the_text_and_keep_the_size(kind, text, chunk_size_chars, share):
    overlap_chars = int(chunk_size_chars * share)
    chunks = split_text(text, chunk_size_chars, overlap_chars, kind)
    assert all(len(chunk.text) <= chunk_size_chars for chunk in chunks)
    assert_covers(text, chunks, overlap_chars)


@pytest.mark.parametrize("kind", CHUNKERS)
@given(text=TEXTS, max_tokens=st.integers(4, 40), overlap_chars=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_chunks_of_any_text_fit_the_token_limit(kind, text, max_tokens, overlap_chars):
    tokenizer = byte_tokenizer()
    chunks = split_text(text, 512, overlap_chars, kind, tokenizer=tokenizer, max_tokens=max_tokens)
    assert all(count_tokens(tokenizer, chunk.text) <= max_tokens for chunk in chunks)
    assert_covers(text, chunks, overlap_chars)


@given(text=TEXTS, chunk_size_chars=st.integers(2, 40))
@settings(max_examples=150, deadline=None)
def test_a_line_end_of_two_characters_is_never_torn(text, chunk_size_chars):
    for chunk in split_text(text, chunk_size_chars)[1:]:
        assert text[chunk.start - 1 : chunk.start + 1] != "\r\n"


@pytest.mark.parametrize("overlap_chars", [0, 40])
@pytest.mark.parametrize("kind", CHUNKERS)
@pytest.mark.parametrize("name", HARD_TEXTS)
@pytest.mark.parametrize("make_tokenizer", TOKENIZERS)
def test_every_chunk_fits_the_encoder(make_tokenizer, name, kind, overlap_chars):
    text, tokenizer = HARD_TEXTS[name], make_tokenizer()
    chunks = split_text(text, 512, overlap_chars, kind, tokenizer=tokenizer, max_tokens=32)
    assert max(count_tokens(tokenizer, chunk.text) for chunk in chunks) <= 32
    assert_covers(text, chunks, overlap_chars)


@pytest.mark.parametrize(
    ("make_tokenizer", "name"),
    [
        (minilm_tokenizer, "cjk without marks"),
        (minilm_tokenizer, "punctuation"),
        (byte_tokenizer, "base64"),
        (byte_tokenizer, "no spaces"),
    ],
)
def test_token_chunks_use_the_room_they_have(make_tokenizer, name):
    text, tokenizer = HARD_TEXTS[name], make_tokenizer()
    chunks = split_text(text, kind="tokens", tokenizer=tokenizer, max_tokens=32)
    assert min(count_tokens(tokenizer, chunk.text) for chunk in chunks[:-1]) >= 16


def test_control_like_text_counts_as_text():
    tokenizer = minilm_tokenizer()
    chunks = split_text("[SEP] " * 20, kind="tokens", tokenizer=tokenizer, max_tokens=17)
    assert texts_of(chunks) == ["[SEP] " * 5] * 4  # "[", "sep", "]" each, beside [CLS] and [SEP]


def test_token_chunks_end_at_sentence_ends():
    tokenizer = byte_tokenizer()
    chunks = split_text("One two. Three four five six.", kind="tokens", tokenizer=tokenizer, max_tokens=20)
    assert texts_of(chunks) == ["One two. ", "Three four five six."]


def test_a_text_longer_than_a_tokenizer_block_is_split_by_tokens(monkeypatch):
    whole = split_text(PROSE * 20, kind="tokens", tokenizer=minilm_tokenizer(), max_tokens=32)
    monkeypatch.setattr(chunking, "_BLOCK_CHARS", 300)
    monkeypatch.setattr(chunking, "_MEASURE_BATCH", 7)
    assert split_text(PROSE * 20, kind="tokens", tokenizer=minilm_tokenizer(), max_tokens=32) == whole


def test_chunks_that_fit_are_left_as_they_are():
    plain = split_text(PROSE * 20, 120)
    assert split_text(PROSE * 20, 120, tokenizer=minilm_tokenizer(), max_tokens=512) == plain


def test_the_tokenizer_keeps_its_own_settings():
    tokenizer = minilm_tokenizer()
    before = tokenizer("[SEP] " + "word " * 300).input_ids
    split_text("word " * 300, tokenizer=tokenizer, max_tokens=16)
    assert tokenizer("[SEP] " + "word " * 300).input_ids == before


def test_a_character_that_exceeds_the_limit_alone_is_named():
    with pytest.raises(E2LLMError, match=r"max_tokens=3 .* '😀' at 2 .* raise max_tokens"):
        split_text("ab😀", tokenizer=byte_tokenizer(), max_tokens=3)


def test_an_overlap_beyond_the_token_limit_repeats_half_a_chunk_at_most():
    chunks = split_text("x" * 200, 512, 100, "tokens", tokenizer=byte_tokenizer(), max_tokens=20)
    assert [(chunk.start, chunk.end) for chunk in chunks[:3]] == [(0, 20), (10, 30), (20, 40)]
    assert len(chunks) == 19


class MisplacingTokenizer:
    """One token per character, each said to start at the end of the text."""

    is_fast = True

    def num_special_tokens_to_add(self, pair):
        return 0

    def __call__(self, texts, **_):
        return {
            "input_ids": [[0] * len(text) for text in texts],
            "offset_mapping": [[(len(text), len(text))] * len(text) for text in texts],
        }


def test_splitting_ends_even_if_the_offsets_are_useless():
    chunks = split_text("x" * 20, tokenizer=MisplacingTokenizer(), max_tokens=15)
    assert max(len(chunk.text) for chunk in chunks) <= 15
    assert_covers("x" * 20, chunks)
