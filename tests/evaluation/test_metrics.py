import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from e2llm.errors import MissingExtraError
from e2llm.evaluation.metrics import bootstrap_interval, normalize_answer, rouge_l, string_match, token_f1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat's  hat.", "cats hat"),
        ("a an the", ""),
        ("An apple a day, the best!", "apple day best"),
        ("theatre another", "theatre another"),
        ("U.S.A.", "usa"),
        ("", ""),
        ("12,000", "12000"),
        ("a-b", "ab"),
    ],
)
def test_answers_are_normalised_as_squad_does(text, expected):
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("the blue stone", ["blue stone"], 1.0),
        ("under the blue stone", ["the blue stone"], 0.8),  # 2 of 3 words, all of 2
        ("red", ["blue"], 0.0),
        ("blue blue", ["blue"], 2 / 3),
        ("", ["blue"], 0.0),
        ("blue", [""], 0.0),
        ("", [""], 1.0),
        ("the", ["a"], 1.0),
        ("nine", ["at ten", "nine"], 1.0),
        ("The Stone!", ["stone"], 1.0),
    ],
)
def test_word_f1_of_literal_pairs(prediction, references, expected):
    assert token_f1(prediction, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("the key is under the stone", "under the blue stone lies the key"),
        ("He counted the boats again.", "Counting boats, again and again"),
        ("", "something"),
        ("same text", "same text"),
    ],
)
def test_rouge_l_is_that_of_the_official_package(prediction, reference):
    official = RougeScorer(["rougeL"], use_stemmer=True).score(reference, prediction)["rougeL"].fmeasure
    assert rouge_l(prediction, [reference]) == official


def test_rouge_l_of_a_literal_pair():
    assert rouge_l("a b c d", ["a c d e"]) == pytest.approx(0.75)


def test_rouge_l_counts_the_best_reference():
    assert rouge_l("one two", ["three", "one two"]) == 1.0


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'e2llm\[eval\]'"):
        rouge_l("a", ["a"])


@pytest.mark.parametrize(
    ("prediction", "values", "expected"),
    [
        ("The numbers are 123 and 77.", ["123", "77"], 1.0),
        ("It is 123.", ["123", "77"], 0.5),
        ("NIMBLE-otter", ["nimble-OTTER"], 1.0),
        ("", ["1"], 0.0),
    ],
)
def test_the_share_of_values_that_stand_in_the_answer(prediction, values, expected):
    assert string_match(prediction, values) == expected


def test_the_interval_is_the_same_every_time_and_leaves_other_chance_alone():
    random.seed(5)
    before = random.getstate()
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert random.getstate() == before


def test_the_interval_holds_the_mean_and_narrows_with_more_records():
    few, many = [0.0, 1.0] * 5, [0.0, 1.0] * 200
    (low, high), (tight_low, tight_high) = bootstrap_interval(few), bootstrap_interval(many)
    assert low < tight_low < 0.5 < tight_high < high


def test_equal_values_have_an_interval_without_width():
    assert bootstrap_interval([0.25, 0.25, 0.25]) == (0.25, 0.25)
