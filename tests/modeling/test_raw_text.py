import pytest

from e2llm.modeling.raw_text import (
    Passages,
    RawText,
    best_passages,
    head_and_tail,
    lay_out_raw,
    longest_prefix,
)
from tiny_models import TEXT, tiny_processor

LONG = TEXT * 6


def words(text):
    """As many tokens as words, and two more for words on several lines: joining adds tokens."""
    return len(text.split()) + 2 * ("\n" in text and len(text.split()) > 1)


def test_a_head_and_a_tail_fit_also_where_joining_adds_tokens():
    raw = head_and_tail("one two three four five six seven eight nine ten", 6, words)
    assert words(raw.text) <= 6
    (_, head), (tail, _) = raw.spans
    assert raw.text.startswith("one")
    assert 0 < head < tail


def test_without_room_for_a_word_of_each_end_nothing_is_given():
    assert head_and_tail("one two three four five", 2, words) == RawText("")


@pytest.fixture
def processor():
    return tiny_processor()


@pytest.mark.parametrize("room", [0, 20, 60, 200])
def test_passages_fill_the_room_and_never_exceed_it(processor, room):
    def count(text):
        return len(processor.encode(text))

    passages = Passages.of(processor, LONG)
    scores = passages.index.scores("Where is the key?")
    raw = best_passages(LONG, room, passages, scores, count)
    assert count(raw.text) <= room
    assert list(raw.spans) == sorted(raw.spans)
    assert bool(raw.text) == (room > 0)


def test_the_worst_passage_is_left_out_where_joined_ones_have_a_token_more():
    passages = Passages(["one two", "three", "four five"], [(0, 7), (8, 13), (14, 23)], [1, 1, 1])
    text = "one two three four five"
    raw = best_passages(text, 6, passages, [3.0, 1.0, 2.0], words)  # six by their counts, seven together
    assert raw == RawText("one two\nfour five", ((0, 7), (14, 23)))


def test_raw_text_stands_where_the_chunks_of_a_context_would(processor):
    sample = lay_out_raw(processor, TEXT[:60], "Where is the key?", "under the stone")
    bare = lay_out_raw(processor, "", "Where is the key?", "under the stone")
    assert sample.chunks == bare.chunks == []
    before = len(processor.template.before_context)
    ids = processor.encode(TEXT[:60])
    assert sample.input_ids == [*bare.input_ids[:before], *ids, *bare.input_ids[before:]]


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("one two three", 2, "one two "),
        ("one two three", 3, "one two three"),
        ("one two three", 99, "one two three"),
        ("one two three", None, "one two three"),
        ("one two three", 0, ""),
        ("a " * 5000, 4000, "a " * 4000),
    ],
)
def test_the_longest_start_of_a_text_is_found(text, limit, expected):
    prefix = longest_prefix(text, limit, lambda part: len(part.split()))
    assert prefix == expected
