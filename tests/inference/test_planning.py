import pytest

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.dial import Level
from e2llm.inference.planning import choose_expanded, fill_window, make_plan

# 100 positions, 15 for template and question and 5 for the answer leave 80.
ROOM = {"overhead": 15, "window": 100, "max_new_tokens": 5}


def levels(num_chunks, most=8, least=1):
    return [Level([number] * num_chunks, soft_tokens=number) for number in range(most, least - 1, -1)]


def plan(num_chunks, *, expand=(), wanted=None, overflow="error", scores=None, tokens=10, **changes):
    return make_plan(
        [tokens] * num_chunks,
        levels(num_chunks) if wanted is None else levels(num_chunks, wanted, wanted),
        expand=expand,
        is_wanted=wanted is not None,
        overflow=overflow,
        rank=lambda: scores or [0.0] * num_chunks,
        **{**ROOM, **changes},
    )


@pytest.mark.parametrize(
    ("num_chunks", "expected"), [(1, 8), (10, 8), (11, 7), (40, 2), (41, 1), (80, 1), (0, 8)]
)
def test_the_largest_number_of_soft_tokens_that_fits_is_chosen(num_chunks, expected):
    assert plan(num_chunks).soft_tokens == expected


def test_a_wanted_number_is_kept_when_it_fits_exactly():
    assert plan(20, wanted=4).positions == 95


@pytest.mark.parametrize(
    ("num_chunks", "wanted", "words"),
    [
        (21, 4, r"need 104 positions; .* has 100: 4 too many; use at most 3 soft token\(s\) per chunk"),
        (81, None, "need 101 positions; .* has 100: 1 too many; use overflow='select' to keep the 80"),
        (81, 1, "1 too many; use overflow='select' to keep the 80 most relevant chunks"),
    ],
)
def test_an_overflow_says_by_how_much_and_what_to_turn(num_chunks, wanted, words):
    with pytest.raises(ContextOverflowError, match=words):
        plan(num_chunks, wanted=wanted)


@pytest.mark.parametrize("overflow", ["error", "select"])
@pytest.mark.parametrize("num_chunks", [1, 3])
def test_raw_text_alone_can_overflow(num_chunks, overflow):
    with pytest.raises(ContextOverflowError, match="too many; lower max_new_tokens, shorten the question"):
        plan(num_chunks, overhead=90, max_new_tokens=20, overflow=overflow)


def test_a_decoder_without_a_stated_window_takes_the_most():
    assert plan(10**4, window=None).soft_tokens == 8
    assert plan(10**4, window=None, wanted=2).soft_tokens == 2


def test_expanded_chunks_take_their_text_and_no_soft_tokens():
    found = plan(12, expand=[7, 3, 7])
    assert (found.expand, found.soft_tokens, found.left_out) == ([3, 7], 6, 0)
    assert found.positions == 15 + 20 + 10 * 6
    assert found.kept == list(range(12))


def test_selection_keeps_the_most_relevant_chunks_in_document_order():
    scores = [float(number % 50) for number in range(200)]
    found = plan(200, overflow="select", scores=scores)
    assert (found.soft_tokens, len(found.kept), found.left_out) == (1, 80, 120)
    assert found.kept == sorted(found.kept)
    assert min(scores[index] for index in found.kept) >= 30
    assert found.positions == 95


def test_selection_keeps_what_is_expanded():
    found = plan(200, expand=[150], overflow="select", scores=[float(-number) for number in range(200)])
    assert found.kept == [*range(70), 150]
    assert found.positions == 95


def test_nothing_is_selected_where_all_fits():
    assert plan(80, overflow="select").left_out == 0


@pytest.mark.parametrize("expand", [[-1], [3], [0, 9]])
def test_a_chunk_that_does_not_exist_is_refused(expand):
    with pytest.raises(E2LLMError, match=r"do not exist: .*; there are 0 to 2"):
        plan(3, expand=expand)


def test_the_best_chunks_are_expanded_in_document_order():
    options = {"count": 2, "max_tokens": None, "only_positive": True}
    assert choose_expanded([0.1, 0.9, 0.0, 0.5], [10] * 4, **options) == [1, 3]


def test_chunks_without_a_shared_word_are_not_expanded():
    options = {"count": 3, "max_tokens": None}
    assert choose_expanded([0.0, 0.9, 0.0], [10] * 3, only_positive=True, **options) == [1]
    assert choose_expanded([0.0, 0.9, 0.0], [10] * 3, only_positive=False, **options) == [0, 1, 2]


def test_a_budget_passes_over_what_is_too_long():
    options = {"count": None, "max_tokens": 25, "only_positive": True}
    assert choose_expanded([0.9, 0.8, 0.7, 0.6], [20, 10, 5, 1], **options) == [0, 2]


@pytest.mark.parametrize("num_chunks", [1, 4, 12, 30, 79])
def test_filling_takes_as_much_of_the_window_as_there_is_use_for(num_chunks):
    counts = [10] * num_chunks
    found = fill_window(
        counts, levels(num_chunks), [float(n) for n in range(num_chunks)], overflow="error", **ROOM
    )
    assert found.positions <= 95
    assert found.left_out == 0
    all_raw = len(found.expand) == num_chunks
    spare = 95 - found.positions
    assert all_raw or spare < 10 or found.soft_tokens == 8
    assert found.expand == list(range(num_chunks - len(found.expand), num_chunks))  # the best ones


def test_filling_says_what_it_chose():
    found = fill_window([10] * 12, levels(12), [0.0] * 12, overflow="error", **ROOM)
    assert str(found) == (
        f"{12 - len(found.expand)} chunks at {found.soft_tokens} soft token(s), {len(found.expand)} as raw "
        f"text: {found.positions} positions and 5 for the answer in a window of 100"
    )


def test_filling_a_window_too_small_is_an_error_or_leaves_chunks_out():
    with pytest.raises(ContextOverflowError):
        fill_window([10] * 200, levels(200), [0.0] * 200, overflow="error", **ROOM)
    found = fill_window([10] * 200, levels(200), [float(n) for n in range(200)], overflow="select", **ROOM)
    assert found.expand == [196, 197, 198, 199]
    assert found.positions == 95
    assert found.left_out == 200 - len(found.kept)
