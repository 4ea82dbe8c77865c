"""Our metrics are the published ones, to the last digit, on pairs whose scores published packages gave.

The pairs and the packages with their versions are in official_pairs.json, made by make_official_pairs.py. No
package was found to carry TriviaQA's and LongBench v2's own scripts: their pairs are in test_metrics.py, by
hand from the published definitions.
"""

import json
import math
import re
from pathlib import Path

import pytest

from e2llm.evaluation.metrics import (
    bleu,
    character_error_rate,
    edit_similarity,
    exact_match,
    normalize_answer,
    rouge_scores,
    string_match,
    string_match_any,
    token_f1,
)

DATA = json.loads(Path(__file__).with_name("official_pairs.json").read_text(encoding="utf-8"))
PAIRS = [(pair["prediction"], pair["references"], pair["official"]) for pair in DATA["pairs"]]


IN_LATIN = [pair for pair in PAIRS if not re.search("[\u0370-\u1cff\u3040-\ud7ff]", str(pair[:2]))]
IN_ASCII_LETTERS = [pair for pair in PAIRS if not re.search(r"[^\W\x00-\x7f]|\u0301", str(pair[:2]))]


def departures(ours, official, pairs=PAIRS):
    """The pairs on which two scores are not the same float."""
    found = []
    for prediction, references, scores in pairs:
        mine, theirs = ours(prediction, references), official(prediction, references, scores)
        if mine != theirs:
            found.append((prediction, references, mine, theirs))
    return found


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("squad_exact", exact_match),
        ("ruler_all", string_match),
        ("ruler_any", string_match_any),
    ],
)
def test_answer_metrics_equal_the_official_ones(name, ours):
    assert departures(ours, lambda *pair: pair[2][name]) == []


def test_word_f1_is_squad_s_in_latin_letters():
    assert departures(token_f1, lambda *pair: pair[2]["squad_f1"], IN_LATIN) == []
    assert 0 < len(PAIRS) - len(IN_LATIN) < 20


@pytest.mark.parametrize("name", ["rouge_1", "rouge_2", "rouge_l", "rouge_lsum"])
def test_rouge_equals_that_of_the_official_scripts_in_ascii_letters(name):
    def ours(prediction, references):
        return rouge_scores(prediction, references)[name]

    assert departures(ours, lambda *pair: pair[2][name], IN_ASCII_LETTERS) == []
    assert 0 < len(PAIRS) - len(IN_ASCII_LETTERS) < 40


def test_word_f1_is_longbench_s_too_wherever_no_side_is_empty():
    def official(prediction, references, scores):
        is_empty = [not normalize_answer(text) for text in (prediction, *references)]
        return token_f1(prediction, references) if any(is_empty) else scores["longbench_f1"]

    assert departures(token_f1, official, IN_LATIN) == []


def test_bleu_is_sacrebleu_s_as_a_fraction_of_at_most_one():
    def ours(prediction, references):
        return bleu(prediction, references[0])

    assert departures(ours, lambda *pair: min(1.0, pair[2]["bleu_percent"] / 100)) == []


def test_character_errors_are_those_of_another_package():
    def official(prediction, references, scores):
        return scores["character_edits"] / max(1, len(references[0]))

    assert departures(lambda *pair: character_error_rate(pair[0], pair[1][0]), official) == []


def test_edit_similarity_is_the_ratio_of_another_package():
    def official(prediction, references, scores):
        return pytest.approx(scores["levenshtein_ratio"], abs=1e-15)

    assert departures(lambda *pair: edit_similarity(pair[0], pair[1][0]), official) == []


@pytest.mark.parametrize("name", ["thefuzz_percent", "fuzzywuzzy_percent"])
def test_edit_similarity_in_whole_percents_is_that_of_code_benchmarks(name):
    def official(prediction, references, scores):
        both_empty = not prediction and not references[0]
        return 100 if both_empty else scores[name]

    assert departures(lambda *pair: round(100 * edit_similarity(pair[0], pair[1][0])), official) == []


def test_the_pairs_are_many_and_their_scores_differ():
    assert len(PAIRS) >= 200
    for name in ("rouge_2", "squad_f1", "bleu_percent", "character_edits", "ruler_all"):
        values = {scores[name] for _, _, scores in PAIRS}
        assert len(values) >= 4, name
        assert not any(map(math.isnan, values)), name


def test_every_score_has_a_package_and_its_version():
    named = {name for names in DATA["sources"] for name in names.split(", ")}
    assert named == set(PAIRS[0][2])
    assert all(len(package.split()) == 2 for packages in DATA["sources"].values() for package in packages)
