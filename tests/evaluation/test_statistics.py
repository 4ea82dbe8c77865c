import random

import numpy
import pytest

from e2llm.errors import E2LLMError
from e2llm.evaluation.statistics import PairedTest, bootstrap_interval, holm, paired_test


def test_the_interval_is_the_same_every_time_and_leaves_other_chance_alone():
    random.seed(5)
    before, numpy_before = random.getstate(), numpy.random.get_state()[1].tolist()
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert random.getstate() == before
    assert numpy.random.get_state()[1].tolist() == numpy_before


def test_the_interval_and_the_test_are_the_same_on_every_machine():
    values = [0.1 * (number % 7) for number in range(30)]
    other = [0.09 * (number % 5) for number in range(30)]
    assert bootstrap_interval(values, seed=3) == pytest.approx((0.21, 0.35666666666666663), abs=1e-12)
    assert paired_test(values, other, seed=3).p_value == pytest.approx(0.0362963703629637, abs=1e-12)


def test_another_seed_draws_otherwise():
    values = [0.0, 0.3, 0.5, 1.0, 0.7, 0.2]
    assert len({bootstrap_interval(values, seed=seed) for seed in range(5)}) > 1


def test_the_interval_holds_the_mean_and_narrows_with_more_records():
    few, many = [0.0, 1.0] * 5, [0.0, 1.0] * 200
    (low, high), (tight_low, tight_high) = bootstrap_interval(few), bootstrap_interval(many)
    assert low < tight_low < 0.5 < tight_high < high


def test_the_interval_is_as_wide_as_the_normal_one_for_many_values():
    low, high = bootstrap_interval([0.0, 1.0] * 500, num_draws=4000)
    half_width = 1.96 * 0.5 / 1000**0.5
    assert (low, high) == pytest.approx((0.5 - half_width, 0.5 + half_width), abs=0.003)


@pytest.mark.parametrize("values", [[0.25, 0.25, 0.25], [0.25]])
def test_equal_values_have_an_interval_without_width(values):
    assert bootstrap_interval(values) == (0.25, 0.25)


def test_draws_made_in_blocks_are_the_draws_made_at_once(monkeypatch):
    values = [0.0, 0.3, 0.5, 1.0, 0.7, 0.2]
    at_once = bootstrap_interval(values), paired_test(values * 4, [0.4] * 24)
    monkeypatch.setattr("e2llm.evaluation.statistics._BLOCK_ENTRIES", 50)
    assert bootstrap_interval(values) == at_once[0]
    assert paired_test(values * 4, [0.4] * 24).p_value == at_once[1].p_value


def test_values_that_repeat_within_clusters_count_once():
    per_context = [0.0, 1.0, 0.5, 0.8, 0.1, 0.9]
    repeated = [value for value in per_context for _ in range(20)]
    clusters = [number for number in range(6) for _ in range(20)]
    assert bootstrap_interval(repeated, clusters=clusters) == pytest.approx(bootstrap_interval(per_context))
    low, high = bootstrap_interval(repeated)
    assert high - low < 0.3 < bootstrap_interval(repeated, clusters=clusters)[1]


def test_a_drawn_cluster_brings_all_its_values_and_their_number():
    # Drawn twice, the cluster of one value has the mean 1, not 2 of 10.
    assert bootstrap_interval([0.0] * 9 + [1.0], clusters="aaaaaaaaab") == (0.0, 1.0)


def test_the_interval_of_a_difference_keeps_clusters_together():
    a, b = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [0.0] * 6
    assert paired_test(a, b).interval_95[0] > 0.0
    assert paired_test(a, b, clusters="aaabbb").interval_95 == (0.0, 1.0)


def test_clusters_of_one_are_no_clusters():
    values = [0.0, 0.3, 0.5, 1.0, 0.7, 0.2]
    assert bootstrap_interval(values, clusters="abcdef") == bootstrap_interval(values)
    other = [0.1, 0.1, 0.4, 0.6, 0.9, 0.2]
    assert paired_test(values, other, clusters="abcdef") == paired_test(values, other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([]), "no scores"),
        (lambda: paired_test([], []), "no scores"),
        (lambda: bootstrap_interval([0.5, float("nan")]), "finite numbers, got nan"),
        (lambda: bootstrap_interval([0.5, 1.0], clusters=["a"]), "got 2 scores and 1 clusters"),
    ],
)
def test_what_cannot_be_tested_is_refused(call, message):
    with pytest.raises(E2LLMError, match=message):
        call()


def test_a_single_pair_and_equal_scores_prove_nothing():
    assert paired_test([1.0], [0.0]) == PairedTest(1.0, (1.0, 1.0), 1.0, 1)
    assert paired_test([0.3, 0.7], [0.3, 0.7]) == PairedTest(0.0, (0.0, 0.0), 1.0, 2)


def test_few_pairs_are_tested_exactly():
    # All five differences point one way: 2 of the 32 sign choices are as extreme.
    test = paired_test([1.0, 0.9, 0.8, 0.7, 0.6], [0.0, 0.0, 0.0, 0.0, 0.0])
    assert (test.p_value, test.difference) == (2 / 32, pytest.approx(0.8))
    # Differences 3, 2, -1: sums of at least 4 in size are +-4 and +-6, 4 of 8 choices.
    assert paired_test([3.0, 2.0, 0.0], [0.0, 0.0, 1.0]).p_value == 4 / 8


def test_pairs_without_a_difference_do_not_change_the_p_value():
    few = paired_test([1.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    many = paired_test([1.0, 1.0, 0.0] + [0.5] * 500, [0.0, 0.0, 1.0] + [0.5] * 500)
    assert few.p_value == many.p_value == 1.0
    assert many.num_pairs == 503


def test_random_sign_choices_agree_with_all_of_them(monkeypatch):
    rng = random.Random("agree")
    a, b = ([rng.random() for _ in range(12)] for _ in range(2))
    exact = paired_test(a, b).p_value
    monkeypatch.setattr("e2llm.evaluation.statistics._MAX_EXACT_UNITS", 0)
    assert 0.05 < exact < 0.95
    assert paired_test(a, b).p_value == pytest.approx(exact, abs=0.02)


def test_a_clear_difference_is_found_and_its_interval_excludes_zero():
    rng = random.Random("clear")
    b = [rng.random() for _ in range(100)]
    test = paired_test([value + 0.05 + 0.1 * rng.random() for value in b], b)
    assert test.p_value == 1 / 10_001
    assert 0.09 < test.interval_95[0] < test.difference < test.interval_95[1] < 0.11


def test_the_order_of_the_systems_turns_the_sign_only():
    a, b = [0.5, 0.1, 0.9, 0.4, 0.8], [0.2, 0.3, 0.4, 0.1, 0.9]
    one, other = paired_test(a, b), paired_test(b, a)
    assert (one.difference, one.p_value) == (-other.difference, other.p_value)


def test_one_difference_repeated_on_one_context_is_one_difference():
    a, b = [1.0] * 30, [0.0] * 30
    assert paired_test(a, b).p_value == 1 / 10_001
    assert paired_test(a, b, clusters=["one context"] * 30).p_value == 1.0


def test_p_values_are_uniform_where_there_is_no_difference():
    rng = random.Random("null")
    p_values = []
    for seed in range(400):
        a, b = ([rng.gauss(0.5, 0.2) for _ in range(20)] for _ in range(2))
        p_values.append(paired_test(a, b, num_draws=400, seed=seed).p_value)
    # Three standard errors of a share of 400.
    for level in (0.05, 0.25, 0.5, 0.75):
        share = sum(p_value <= level for p_value in p_values) / 400
        assert share == pytest.approx(level, abs=3 * (level * (1 - level) / 400) ** 0.5 + 0.003)


@pytest.mark.parametrize("questions_per_context", [1, 10])
def test_95_of_100_intervals_hold_the_true_mean(questions_per_context):
    rng = random.Random(f"coverage-{questions_per_context}")
    num_held = 0
    for _ in range(300):
        values, clusters = [], []
        for context in range(40):
            difficulty = rng.gauss(0.5, 0.2)
            for _ in range(questions_per_context):
                values.append(difficulty + rng.gauss(0, 0.1))
                clusters.append(context)
        low, high = bootstrap_interval(values, num_draws=400, clusters=clusters)
        num_held += low <= 0.5 <= high
    assert 0.90 <= num_held / 300 <= 0.98


def test_without_clusters_the_interval_of_questions_on_few_contexts_is_too_narrow():
    rng = random.Random("narrow")
    num_held = 0
    for _ in range(100):
        values = [
            mean + rng.gauss(0, 0.1) for mean in (rng.gauss(0.5, 0.2) for _ in range(20)) for _ in range(10)
        ]
        low, high = bootstrap_interval(values, num_draws=200)
        num_held += low <= 0.5 <= high
    assert num_held < 70


def test_holm_of_literal_p_values():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
