import pytest

from e2llm.modeling.bm25 import Bm25Index

PAGES = [f"Page {i}: the man went to the house of the safe keeper and said what he said." for i in range(50)]


def test_a_needle_is_found_among_common_words():
    texts = [*PAGES[:20], "The code of the safe is 4817.", *PAGES[20:]]
    scores = Bm25Index(texts).scores("What is the code of the safe?")
    assert max(range(51), key=scores.__getitem__) == 20


def test_a_word_with_an_accent_is_not_found_by_its_pieces():
    index = Bm25Index(["La clé de Zoé est rouge.", "Le pr de la forêt."])
    assert index.scores("préféré") == [0.0, 0.0]
    assert index.scores("ZOÉ")[0] > 0


def test_an_identifier_is_found_by_its_parts_and_whole():
    index = Bm25Index(["def parse_header(line):", "class HeaderParser:", "nothing to see here"])
    assert index.scores("where is parse_header?")[0] == max(index.scores("where is parse_header?"))
    assert index.scores("the header")[1] > 0
    assert index.scores("the header")[2] == 0


@pytest.mark.parametrize("texts", [[], ["--"], ["", " "]])
def test_texts_without_words_score_zero(texts):
    assert Bm25Index(texts).scores("What is the code?") == [0.0] * len(texts)


def test_a_question_without_known_words_scores_zero():
    assert Bm25Index(["A boat.", "A key."]).scores("Zebra?") == [0.0, 0.0]


def test_one_text_that_shares_a_word_scores_above_zero():
    assert Bm25Index(["A boat."]).scores("Which boat?")[0] > 0


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("The IT department is on floor 3.", "Where is IT?"),
        ("The US and the EU agreed in May.", "What did the US do?"),
        ("The U.S. and the EU agreed in May.", "What did the US do?"),
        ("Vitamin A is good for it.", "Is it A or B?"),
        ("To be or not to be, that is the question.", "To be or not to be?"),
        ("Matthew lives at number 9.", "Where does Matthew live?"),
        ("The cost is 1,234,567 dollars.", "What costs 1234567?"),
        ("The cost is 1234567 dollars.", "What costs 1 234 567?"),
        ("The cost is 4.000 euros.", "What costs 4000 euros?"),
        ("Ask the apothe-\n  cary.", "Who is the apothecary?"),
        ("Send an e-mail.", "Which email?"),
        ("The ac\u00adcount of the baker.", "Which account?"),
        ("The pass\u200bword is x.", "What is the password?"),
        ("The co\u2011operation was good.", "Was there cooperation?"),
        ("می\u200cخواهم کتاب", "میخواهم"),
        ("这座塔有三层。", "哪座塔最高？"),
        ("図書\n館で読む。", "書館はどこですか"),
        ("รหัสของตู้เซฟคือสี่แปด", "ตู้เซฟ"),
        ("도서관에서 읽는다", "도서관은 어디에"),
        ("Οι άνθρωποι ήρθαν.", "Ποιος είναι ο άνθρωπος;"),
        ("Les garçons préférés.", "Quel garçon ?"),
    ],
)
def test_a_passage_is_found_by_a_question_that_writes_its_words_in_another_way(text, question):
    others = [
        f"The {who} went along the river; it doesn't rest and does go." for who in ("fox", "boat", "boy")
    ]
    scores = Bm25Index([*others, text, *others]).scores(question)
    assert scores.index(max(scores)) == 3


def test_a_question_finds_a_grouped_number_whole_only():
    scores = Bm25Index(["It is 8,641,969.", "It is 7,407,969.", "It is 969."]).scores("Which has 8,641,969?")
    assert scores[0] > scores[1] == scores[2] == 0


def test_words_like_does_and_parts_of_contractions_do_not_count():
    scores = Bm25Index(["She does, doesn't, didn't and won't.", "Matthew asks.", "A boat."]).scores(
        "What doesn't Matthew ask, and what does he?"
    )
    assert scores[1] > scores[0] == scores[2] == 0
