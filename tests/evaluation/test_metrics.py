import sys

import pytest
from rouge_score.rouge_scorer import RougeScorer

from e2llm.errors import E2LLMError, MissingExtraError
from e2llm.evaluation.metrics import (
    bleu,
    character_error_rate,
    choice_from_text,
    edit_similarity,
    exact_match,
    g_mean,
    normalize_answer,
    normalize_trivia_answer,
    rouge_l,
    rouge_scores,
    split_sentences,
    string_match,
    string_match_any,
    token_f1,
    trivia_exact_match,
    trivia_f1,
)


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
        ("‘single’", "‘single’"),
    ],
)
def test_answers_are_normalised_as_squad_does(text, expected):
    assert normalize_answer(text) == expected


# By hand from the definition in TriviaQA's evaluation script: underscores and punctuation (with ‘ ’ ´ `)
# become spaces, lower case, no articles, single spaces.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat's  hat.", "cat s hat"),
        ("a an the", ""),
        ("U.S.A.", "u s"),
        ("a-b", "b"),
        ("12,000", "12 000"),
        ("‘Single’ ´accent´ `tick`", "single accent tick"),
        ("snake_case_name", "snake case name"),
        ("rock 'n' roll", "rock n roll"),
        ("“curly” stays", "“curly” stays"),
        ("Ben-Hur (film)", "ben hur film"),
        ("theatre", "theatre"),
        ("\tÉmile\nZola ", "émile zola"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_answers_are_normalised_as_triviaqa_does(text, expected):
    assert normalize_trivia_answer(text) == expected


# By hand from the same definition; F1 is SQuAD v1.1's, 0 where no word is in common.
@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("Ben Hur", ["Ben-Hur"], 1.0, 1.0),
        ("BenHur", ["Ben-Hur"], 0.0, 0.0),
        ("the film Ben Hur", ["Ben-Hur"], 0.0, 0.8),  # 2 of 3 words, all of 2
        ("Sunset Blvd.", ["Sunset Boulevard", "Sunset Blvd"], 1.0, 1.0),
        ("rock and roll", ["rock 'n' roll"], 0.0, 2 / 3),
        ("‘Emma’", ["Emma"], 1.0, 1.0),
        ("", [""], 1.0, 0.0),
        ("the", ["a"], 1.0, 0.0),
        ("", ["Emma"], 0.0, 0.0),
        ("Emma", ["the"], 0.0, 0.0),
        ("12 000", ["12,000"], 1.0, 1.0),
        ("York York", ["New York"], 0.0, 0.5),
    ],
)
def test_triviaqa_scores_of_literal_pairs(prediction, references, exact, f1):
    assert trivia_exact_match(prediction, references) == exact
    assert trivia_f1(prediction, references) == pytest.approx(f1)


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
        ("", ["the", "blue"], 0.0),
    ],
)
def test_word_f1_of_literal_pairs(prediction, references, expected):
    assert token_f1(prediction, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("The Stone!", ["stone"], 1.0),
        ("stones", ["stone"], 0.0),
        ("nine", ["ten", "nine"], 1.0),
        ("", [""], 1.0),
        ("", ["the", "nine"], 0.0),
    ],
)
def test_exact_match_of_literal_pairs(prediction, references, expected):
    assert exact_match(prediction, references) == expected


@pytest.mark.parametrize(
    "metric",
    [exact_match, token_f1, trivia_exact_match, trivia_f1, string_match, string_match_any, rouge_scores],
)
def test_no_reference_and_a_bare_text_are_refused(metric):
    with pytest.raises(E2LLMError, match="no reference to score against"):
        metric("red", [])
    with pytest.raises(E2LLMError, match="put it in a list"):
        metric("red", "blue")


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


SENTENCES = [
    "这座塔在海边",
    "탑은 바닷가에 있다.",
    "この塔は海辺にあります。",
    "หอคอยอยู่ริมทะเล",
    "В башне 3 этажа",
    "Ο πύργος είναι ψηλός.",
    "البرج على الشاطئ",
    "המגדל על החוף",
    "मीनार समुद्र के पास है।",
    "கோபுரம் கடலோரம்",
    "ግንቡ ከባሕር አጠገብ",
    "Վանքը բարձր է",
    "Tháp ở bờ biển",
    "Ế ẻ Ỳ",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_equal_sentences_score_1_and_different_ones_0_in_any_script(sentence):
    other = SENTENCES[SENTENCES.index(sentence) - 1]
    for metric in (rouge_l, token_f1, trivia_f1):
        assert metric(sentence, [sentence]) == 1
        assert metric(sentence, [other]) == 0


def test_a_part_of_a_sentence_without_spaces_scores_by_its_characters():
    assert (
        rouge_l("塔在海边", ["这座塔在海边"])
        == token_f1("塔在海边。", ["这座塔在海边"])
        == pytest.approx(0.8)
    )
    assert rouge_l("今天是3月，天气很好", ["这座塔有3层"]) == pytest.approx(2 / 15)
    assert token_f1("今天是3月，天气很好", ["这座塔有3层"]) == pytest.approx(2 / 15)
    assert rouge_l("Нет, 3", ["В башне 3 этажа"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("Größe", "Grüße", 0),
        ("Käse", "Köse", 0),
        ("Čech", "Šech", 0),
        ("Nguyễn Văn Ánh", "Nguyên Vân Ảnh", 0),
        ("доме", "В доме", 2 / 3),
        ("CAFE\u0301, naïve ﬁle", "café naïve file", 1),
        ("Zoë counted boats", "Zoë counts a boat", 6 / 7),
        ("β-carotene", "α-carotene", 0.5),
    ],
)
def test_words_with_other_letters_count_as_they_stand(prediction, reference, expected):
    assert rouge_l(prediction, [reference]) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["Anne’s “friend” ate 3.5 m of it…", "100,000 mg — all of it", "...", ""])
def test_english_with_signs_is_split_as_the_official_package_does(text):
    other = "A naive friend of Anne's ate 3 mg of carotene."
    official = RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True).score(other, text)
    ours = rouge_scores(text, [other])
    assert [ours["rouge_1"], ours["rouge_2"], ours["rouge_lsum"]] == [
        item.fmeasure for item in official.values()
    ]


def test_rouge_l_of_a_literal_pair():
    assert rouge_l("a b c d", ["a c d e"]) == pytest.approx(0.75)


def test_rouge_of_a_literal_pair():
    # Words 3 of 4 and 4; pairs of words 1 (c d) of 3; in order a c d; by sentence too.
    expected = {"rouge_1": 0.75, "rouge_2": 1 / 3, "rouge_l": 0.75, "rouge_lsum": 0.75}
    assert rouge_scores("a b c d", ["a c d e"]) == pytest.approx(expected)


def test_each_rouge_takes_its_own_best_reference():
    scores = rouge_scores("one two three four", ["four three two one", "one two"])
    assert scores["rouge_1"] == 1.0  # the first
    assert scores["rouge_2"] == pytest.approx(0.5)  # the second: 1 of 3, 1 of 1


def test_only_rouge_lsum_forgives_sentences_in_another_order():
    scores = rouge_scores("The cat sat. A dog ran.", ["A dog ran. The cat sat."])
    assert (scores["rouge_l"], scores["rouge_lsum"]) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? four", ["One.", "Two!", "Three?", "four"]),
        ("Dr. Smith met J. R. Hartley. They left.", ["Dr. Smith met J. R. Hartley.", "They left."]),
        ("So did I. He left.", ["So did I.", "He left."]),
        ("The U.S. law of Jan. 3 costs $3.5 now.", ["The U.S. law of Jan. 3 costs $3.5 now."]),
        ('"Go!" she said. (At last.) Done', ['"Go!"', "she said.", "(At last.)", "Done"]),
        ("Wait... what? No... Yes.", ["Wait... what?", "No...", "Yes."]),
        ("first line\nsecond. Third", ["first line\nsecond.", "Third"]),
        (" . ", ["."]),
        ("", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text, expected):
    assert split_sentences(text) == expected


def test_g_mean_of_literal_scores():
    assert g_mean(rouge_1=0.4, rouge_2=0.1, rouge_l=0.2) == pytest.approx(0.2)


def test_bleu_of_literal_pairs():
    assert bleu("the cat sat on the mat", "the cat sat on the mat") == 1.0
    assert bleu("", "the cat") == 0.0
    # Orders 1 to 4: 4/5, 3/4, 2/3, 1/2; as long as the reference.
    assert bleu("the cat sat on rugs", "the cat sat on mats") == pytest.approx(0.2**0.25)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("abcd", "abcd", 1.0),
        ("abcd", "abxd", 0.75),  # 3 characters of 4 and 4
        ("ab", "ba", 0.5),
        ("abc", "", 0.0),
        ("", "", 1.0),
        ("ab", "abc", 0.8),
    ],
)
def test_edit_similarity_of_literal_pairs(prediction, reference, expected):
    assert edit_similarity(prediction, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("kitten", "sitting", 3 / 7),
        ("same", "same", 0.0),
        ("", "four", 1.0),
        ("much too long", "a", 13.0),
        ("", "", 0.0),
        ("abc", "", 3.0),
        ("é", "e", 1.0),
    ],
)
def test_character_error_rate_of_literal_pairs(prediction, reference, expected):
    assert character_error_rate(prediction, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("module", "metric"),
    [
        ("rouge_score.rouge_scorer", lambda: rouge_l("a", ["a"])),
        ("sacrebleu", lambda: bleu("a", "a")),
        ("rapidfuzz", lambda: edit_similarity("a", "a")),
        ("rapidfuzz.distance", lambda: character_error_rate("a", "a")),
    ],
)
def test_without_the_package_the_extra_is_named(monkeypatch, module, metric):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'e2llm\[eval\]'"):
        metric()


@pytest.mark.parametrize(
    ("prediction", "values", "share", "any_of_them"),
    [
        ("The numbers are 123 and 77.", ["123", "77"], 1.0, 1.0),
        ("It is 123.", ["123", "77"], 0.5, 1.0),
        ("NIMBLE-otter", ["nimble-OTTER"], 1.0, 1.0),
        ("", ["1"], 0.0, 0.0),
        ("\x00tab\tin", ["b\ni"], 1.0, 1.0),
    ],
)
def test_values_that_stand_in_the_answer(prediction, values, share, any_of_them):
    assert string_match(prediction, values) == share
    assert string_match_any(prediction, values) == any_of_them


# By hand from the definition in LongBench v2's evaluation code: asterisks go, then the first
# "The correct answer is (X)", else the first "The correct answer is X".
OFFICIAL_CHOICES = [
    ("The correct answer is (B)", 1),
    ("The correct answer is (B).", 1),
    ("The correct answer is B", 1),
    ("**The correct answer is (C)**", 2),
    ("The correct answer is **(D)**, since it rains.", 3),
    ("Not (A). The correct answer is (C), not (B).", 2),
    ("The correct answer is A. No: The correct answer is (B).", 1),
    ("The correct answer is (A). The correct answer is (B).", 0),
    ("The correct answer is All of them", 0),
    ("Thinking...\n\nThe correct answer is (D)", 3),
    ("The correct answer is E", None),
    ("The correct answer is ", None),
    ("", None),
]


@pytest.mark.parametrize(("prediction", "expected"), OFFICIAL_CHOICES)
def test_choices_are_read_as_longbench_v2_does(prediction, expected):
    assert choice_from_text(prediction, 4, lenient=False) == expected
    assert choice_from_text(prediction, 4) == expected


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("B", 1),
        ("(B)", 1),
        (" b. ", 1),
        ("[d]", 3),
        ("**C**", 2),
        ("B\n\nBecause the cat sat.", 1),
        ("(B) the cat", 1),
        ("B. the cat", 1),
        ("c) the cat", 2),
        ("D: the cat", 3),
        ("Answer: B", 1),
        ("The answer is **(C)**.", 2),
        ("the correct answer is (A)", 0),
        ("I would choose option D here.", 3),
        ("I think (B) is right, yes, (B).", 1),
        ("I think (B) or (C).", None),
        ("Answer: B. Or answer: C.", None),
        ("The answer is a cat", None),
        ("A cat sat there", None),
        ("Because it rains", None),
        ("B and C", None),
        ("E", None),
        ("7", None),
    ],
)
def test_other_wordings_count_only_for_the_lenient(prediction, expected):
    assert choice_from_text(prediction, 4) == expected
    assert choice_from_text(prediction, 4, lenient=False) is None


def test_letters_end_with_the_options():
    assert choice_from_text("E", 5) == 4
    assert choice_from_text("B", 1) is None
    with pytest.raises(E2LLMError, match="from 1 to 26"):
        choice_from_text("A", 0)
