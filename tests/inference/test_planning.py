"""The plan of a window: what each policy gives to whom, in what budget."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.dial import Level
from e2llm.inference.planning import (
    POLICIES,
    TEXT_FORM,
    Policy,
    Room,
    Spending,
    best_first,
    give_level,
    give_named,
    spend,
    spend_uniformly,
)

LADDER = Policy("ladder", widths=(1, 0, 2), coarse_share=0.5)
RATES = (2, 4, 8, "one")


def levels_of(token_counts):
    divisors = (2, 4, 8, 10**6)
    return [
        Level([max(1, -(-size // divisor)) for size in token_counts], rate=rate)
        for divisor, rate in zip(divisors, RATES, strict=True)
    ]


def spent(token_counts, room, policy, order=None):
    spending = Spending(token_counts, levels_of(token_counts))
    spend(spending, range(len(token_counts)) if order is None else order, room, policy)
    return spending


def plan_of(*args, **options):
    return spent(*args, **options).plan(0)


def test_mixed_gives_text_to_the_best_and_one_soft_token_to_each_other():
    plan = plan_of([16] * 10, 54, POLICIES["mixed"], order=[7, 3, 9, 0, 1, 2, 4, 5, 6, 8])
    assert plan.expand == [3, 7]
    assert plan.kept == list(range(10))
    assert plan.positions == 16 + 16 + 8 + 7  # what is left makes the third best finer
    assert dict(zip(plan.kept, plan.levels, strict=True))[9] == 2
    assert plan.positions_by_level == {"one": 7, "text": 32, "2": 8}


def test_half_of_the_room_is_for_text_even_if_some_chunks_then_get_nothing():
    plan = plan_of([16] * 100, 64, POLICIES["mixed"])
    assert plan.expand == [0, 1]
    assert plan.left_out == 100 - 32
    assert plan.kept == list(range(32))


def test_raw_gives_text_alone_and_stops_at_the_first_chunk_that_does_not_fit():
    plan = plan_of([10, 10, 30, 5], 40, POLICIES["raw"])
    assert (plan.kept, plan.expand, plan.num_soft_tokens) == ([0, 1], [0, 1], 0)


def test_soft_gives_no_text_and_finer_rates_to_better_chunks():
    plan = plan_of([32] * 12, 80, POLICIES["soft"])
    assert plan.expand == []
    assert len(plan.kept) == 12
    assert plan.counts == sorted(plan.counts, reverse=True)
    assert plan.positions <= 80
    assert len(set(plan.levels)) > 2


def test_a_policy_may_put_levels_between_text_and_the_coarsest():
    plan = plan_of([16] * 10, 41, LADDER)
    assert plan.levels == ["text", 2, 8, 8, *["one"] * 6]


@pytest.mark.parametrize(
    ("room", "expected"),
    [(60, "text"), (59, 2), (30, 2), (29, 4), (15, 4), (14, 8), (9, 8), (8, "one"), (3, "one")],
)
def test_uniform_gives_all_chunks_the_finest_form_that_fits(room, expected):
    spending = Spending([20] * 3, levels_of([20] * 3))
    spend_uniformly(spending, room, gives_text=True)
    assert set(spending.plan(0).levels) == {expected}


def test_uniform_keeps_the_first_chunks_where_not_one_soft_token_each_fits():
    spending = Spending([20] * 9, levels_of([20] * 9))
    spend_uniformly(spending, 4, gives_text=False)
    assert spending.plan(0).kept == [0, 1, 2, 3]


SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=25)


@given(SIZES, st.integers(0, 900), st.sampled_from([*POLICIES.values(), LADDER]), st.randoms())
def test_a_budget_is_never_exceeded(sizes, room, policy, random):
    order = random.sample(range(len(sizes)), len(sizes))
    if policy.is_uniform:
        spending = Spending(sizes, levels_of(sizes))
        spend_uniformly(spending, room, gives_text=True)
    else:
        spending = spent(sizes, room, policy, order)
    assert spending.plan(0).positions == spending.used <= room


def _fineness(form):
    """Nothing, the coarsest level, ..., the finest, text: 0, 1, ..., 4, 5."""
    return 0 if form is None else len(RATES) - form


@given(SIZES, st.integers(0, 900), st.integers(0, 60), st.sampled_from([*POLICIES.values(), LADDER]))
def test_a_larger_budget_takes_nothing_away_from_a_chunk(sizes, room, more, policy):
    if policy.is_uniform:
        return
    less, large = (spent(sizes, size, policy).forms for size in (room, room + more))
    for before, after in zip(less, large, strict=True):
        assert (after == TEXT_FORM) or (before != TEXT_FORM)
        assert _fineness(after) >= _fineness(before) or before in range(len(RATES) - 1)


@given(SIZES, st.integers(0, 900))
def test_a_better_chunk_never_gets_text_later_than_a_worse_one(sizes, room):
    expand = spent(sizes, room, POLICIES["mixed"]).plan(0).expand
    assert expand == list(range(len(expand)))


def test_a_million_tokens_are_planned_in_an_instant():
    sizes = [128] * 8000
    started = time.perf_counter()
    for policy in (POLICIES["mixed"], POLICIES["soft"]):
        spent(sizes, 8000, policy, best_first([float(i % 977) for i in range(8000)]))
    assert time.perf_counter() - started < 5  # a bound that no load reaches; see docs/results.md


# --- what the user chooses ----------------------------------------------------------------------------------


def room_of(limit, budget=2048):
    return Room(budget, limit, 0)


def test_named_chunks_get_text_beyond_the_default_budget_but_not_beyond_the_window():
    spending = Spending([30] * 4, levels_of([30] * 4))
    give_named(spending, [2, 0, 2], room_of(60, budget=10))
    assert spending.plan(0).expand == [0, 2]
    with pytest.raises(ContextOverflowError, match="takes 90 positions, but there is room for 60: 30 too"):
        give_named(Spending([30] * 4, levels_of([30] * 4)), [0, 1, 2], room_of(60))


@pytest.mark.parametrize("named", [[4], [-1], [0, 9]])
def test_named_chunks_must_exist(named):
    with pytest.raises(E2LLMError, match=r"do not exist: .*; there are 0 to 3"):
        give_named(Spending([30] * 4, levels_of([30] * 4)), named, room_of(None))


@pytest.mark.parametrize(
    ("level", "count", "room", "words"),
    [
        (
            Level([4] * 21, rate=8),
            21,
            83,
            "21 chunks at rate 8 take 84 .* room for 83: 1 too many; use a",
        ),
        (Level([4] * 21, soft_tokens=4), 21, 80, r"4 too many; use at most 3 soft tokens per chunk"),
        (Level([1] * 81, soft_tokens=1), 81, 80, "1 too many; use overflow='select' to keep the 80 most"),
    ],
)
def test_a_level_that_does_not_fit_is_refused_with_advice(level, count, room, words):
    with pytest.raises(ContextOverflowError, match=words):
        give_level(Spending([9] * count, [level]), range(count), room_of(room), select=False)


def test_selection_keeps_the_most_relevant_chunks():
    spending = Spending([9] * 6, [Level([4] * 6, rate=8)])
    give_level(spending, [5, 1, 3, 0, 2, 4], room_of(12), select=True)
    assert spending.plan(0).kept == [1, 3, 5]


@pytest.mark.parametrize(
    ("budget", "window", "expected"),
    [
        (None, None, (2028, None)),
        (None, 8192, (2028, 8108)),
        (None, 512, (428, 428)),
        (100, 512, (80, 80)),
        (4096, 8192, (4076, 4076)),
    ],
)
def test_a_budget_is_what_the_input_may_take(budget, window, expected):
    room = Room.of(budget, window, 20, 64)
    assert (room.budget, room.limit) == expected


def test_a_budget_beyond_the_window_and_a_question_beyond_the_budget_are_refused():
    with pytest.raises(E2LLMError, match=r"budget is 500 and the answer may take 64, .* window has 512"):
        Room.of(500, 512, 20, 64)
    with pytest.raises(ContextOverflowError, match="take 30 positions, and the input may take 20"):
        Room.of(20, 512, 30, 64)


def test_best_first_breaks_ties_by_document_order():
    assert best_first([1.0, 3.0, 1.0, 3.0]) == [1, 3, 0, 2]


def test_a_long_question_leaves_room_for_chunks_by_default():
    assert Room.of(None, 8192, 3000, 64).budget == 1024
    assert Room.of(None, 4000, 3500, 64).budget == 436
