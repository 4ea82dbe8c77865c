import pytest

from e2llm.errors import ContextOverflowError
from e2llm.inference.window import fit_soft_tokens
from tiny_models import TEXT


@pytest.mark.parametrize(
    ("num_chunks", "expected"),
    [(1, 8), (10, 8), (11, 7), (40, 2), (41, 1), (80, 1), (0, 8)],
)
def test_the_largest_number_that_fits_is_chosen(num_chunks, expected):
    # 100 positions, 15 for the question and 5 for the answer leave 80
    options = {"window": 100, "raw_tokens": 15, "max_new_tokens": 5, "wanted": None, "limit": 8}
    assert fit_soft_tokens(num_chunks=num_chunks, **options) == expected


def test_a_wanted_number_is_kept_when_it_fits_exactly():
    options = {"window": 100, "raw_tokens": 15, "max_new_tokens": 5, "limit": 8}
    assert fit_soft_tokens(num_chunks=20, wanted=4, **options) == 4


@pytest.mark.parametrize(
    ("num_chunks", "wanted", "words"),
    [
        (21, 4, r"need 104 positions; .* has 100: 4 too many; use 3 soft token\(s\) per chunk or fewer"),
        (81, None, "need 101 positions; .* has 100: 1 too many; shorten the context to 80 chunks"),
        (81, 1, "1 too many; shorten the context to 80 chunks"),
    ],
)
def test_an_overflow_says_by_how_much_and_what_to_turn(num_chunks, wanted, words):
    with pytest.raises(ContextOverflowError, match=words):
        fit_soft_tokens(
            window=100, num_chunks=num_chunks, raw_tokens=15, max_new_tokens=5, wanted=wanted, limit=8
        )


@pytest.mark.parametrize("num_chunks", [0, 3])
def test_raw_text_alone_can_overflow(num_chunks):
    with pytest.raises(ContextOverflowError, match="too many; lower max_new_tokens, shorten the question"):
        fit_soft_tokens(
            window=100, num_chunks=num_chunks, raw_tokens=90, max_new_tokens=20, wanted=None, limit=8
        )


def test_a_decoder_without_a_stated_window_takes_the_most():
    options = {"num_chunks": 10**6, "raw_tokens": 5, "max_new_tokens": 5, "limit": 8}
    assert fit_soft_tokens(window=None, wanted=None, **options) == 8
    assert fit_soft_tokens(window=None, wanted=2, **options) == 2


def test_the_engine_turns_the_dial_down_for_a_long_context(engine):
    context = engine.read(TEXT * 40, progress=False)
    usage = engine.ask(context, "Where is the key?", max_new_tokens=16).usage
    assert usage.soft_tokens_per_chunk == 2
    assert usage.soft_tokens + usage.raw_tokens + 16 <= engine.window
    with pytest.raises(ContextOverflowError, match="use 2 soft"):
        engine.ask(context, "Where is the key?", soft_tokens=3, max_new_tokens=16)


def test_the_engine_uses_the_window_to_its_last_position(engine, context):
    raw = engine.ask(context, "Where?", soft_tokens=1, max_new_tokens=1).usage.raw_tokens
    room = engine.window - raw - len(context)
    engine.stream(context, "Where?", soft_tokens=1, max_new_tokens=room)
    with pytest.raises(ContextOverflowError, match="1 too many"):
        engine.stream(context, "Where?", soft_tokens=1, max_new_tokens=room + 1)
