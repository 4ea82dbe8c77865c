import pytest

from e2llm.modeling.bm25 import Bm25Index, words_of

PAGES = [f"Page {i}: the man went to the house of the safe keeper and said what he said." for i in range(50)]


def test_a_needle_is_found_among_common_words():
    texts = [*PAGES[:20], "The code of the safe is 4817.", *PAGES[20:]]
    scores = Bm25Index(texts).scores("What is the code of the safe?")
    assert max(range(51), key=scores.__getitem__) == 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The boats of Mira", ["boat", "mira"]),
        ("read_pages readPages HTTPServer2", ["read", "page", "read_page"]),
        ("bus class this", ["bus", "class"]),
        ("4817 and 3.14", ["4817", "3", "14"]),
        ("図書館で読む", ["図書", "書館", "館で", "で読", "読む"]),
        ("préféré Größe NAÏVE", ["préféré", "grösse", "naïve"]),
        ("fooBär", ["foo", "bär", "foobär"]),
        ("Anne's cat’s", ["anne", "cat"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("ที่นี่", ["ที", "ี่", "่น", "นี", "ี่"]),
        ("도서관에서", ["도서", "서관", "관에", "에서"]),
        ("日Bを本", ["日", "を本", "b"]),
        ("__init__ _private", ["init", "__init__", "private", "_private"]),
        ("", []),
    ],
)
def test_words_by_which_passages_are_found(text, expected):
    assert words_of(text)[: len(expected)] == expected


def test_a_word_with_an_accent_is_not_found_by_its_pieces():
    index = Bm25Index(["La clé de Zoé est rouge.", "Le pr de la forêt."])
    assert index.scores("préféré") == [0.0, 0.0]
    assert index.scores("ZOÉ")[0] > 0


def test_an_identifier_is_found_by_its_parts_and_whole():
    index = Bm25Index(["def parse_header(line):", "class HeaderParser:", "nothing to see here"])
    assert index.scores("where is parse_header?")[0] == max(index.scores("where is parse_header?"))
    assert index.scores("the header")[1] > 0
    assert index.scores("the header")[2] == 0


@pytest.mark.parametrize("texts", [[], ["the"], ["", " "]])
def test_texts_without_words_score_zero(texts):
    assert Bm25Index(texts).scores("What is the code?") == [0.0] * len(texts)


def test_a_question_without_known_words_scores_zero():
    assert Bm25Index(["A boat.", "A key."]).scores("Zebra?") == [0.0, 0.0]


def test_one_text_that_shares_a_word_scores_above_zero():
    assert Bm25Index(["A boat."]).scores("Which boat?")[0] > 0
