import pytest

from e2llm.words import _STOP_WORDS, runs_of, words_in, words_of_question


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The boats of Mira", "the boat of mira"),
        ("live lives living", "live live live"),
        (
            "read_pages readPages HTTPServer2",
            "read page read_pages read page readpages http server 2 httpserver2",
        ),
        ("bus class this", "bus class this"),
        ("4817 and 3.14", "4817 and 3 14"),
        ("図書館で読む", "図書 書館 館で で読 読む"),
        ("图书\r\n馆", "图书 书馆"),
        ("préféré Größe NAÏVE élèves", "préféré grösse naïve élève"),
        ("fooBär", "foo bär foobär"),
        ("Anne's cat’s we'll DOESN'T doesnʼt", "ann cat we"),
        ("O'Brien l'eau", "o brien l eau"),
        ("हिन्दी में", "हिन्दी में"),
        ("ที่นี่", "ที ี่ ่น นี ี่"),
        ("도서관에서", "도서 서관 관에 에서"),
        ("日Bを本", "日 を本 b"),
        ("__init__ _private", "init __init__ privat _private"),
        ("to-night COVID-19 2019-05-03", "to night tonight covid 19 2019 05 03"),
        ("apothe-\n  cary ac\u00ad\ncount", "apoth cari apothecari account"),
        ("U.S. e.g. x.yz", "us US eg x yz"),
        ("IT, it, I", "it IT it i"),
        ("1,234,567.89", "1234567 1 234 567 89"),
        ("1 234 1.234.567 4'000 12,34,567", "1234 1 234 1234567 1 234 567 4000 4 000 1234567 12 34 567"),
        ("0.125 12345,678 192.168.1.10", "0 125 12345 678 192 168 1 10"),
        ("٤٨١٧ ４８１７", "4817 4817"),
        ("👍🏽\ufe0f", ""),
    ],
)
def test_words_by_which_passages_are_found(text, expected):
    assert [word for run in runs_of(text) for word in words_in(run)] == expected.split()


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who leads the WHO?", "lead WHO"),
        ("WHO LEADS THE WHO?", "lead"),
        ("What is hepatitis A?", "hepat A"),
        ("A cat?", "cat"),
        ("To be or not to be?", "to be or not to be"),
        ("Which was 1,234,567?", "1234567"),
        ("Which was 4.000?", "4000 4 000"),
    ],
)
def test_words_of_a_question(question, expected):
    assert words_of_question(question) == expected.split()


@pytest.mark.parametrize("word", sorted(_STOP_WORDS))
def test_no_stop_word_counts_beside_another_word(word):
    assert words_of_question(f"safe {word}") == ["safe"]


@pytest.mark.parametrize(
    "text", ["a" * 50_000 + "1", "a-" * 20_000, "1,234" * 20_000, "a." * 20_000, "ก" * 50_000]
)
def test_words_take_time_in_proportion_to_the_text(text):
    assert [word for run in runs_of(text) for word in words_in(run)]
