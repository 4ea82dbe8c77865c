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
        ("préféré Größe NAÏVE élèves", "prefer gross naiv elev"),
        ("fooBär", "foo bar foobar"),
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
        ("1,234,567.5 12,34,567.5", "1234567 1 234 567 5 1234567 12 34 567 5"),
        ("3,000,000-4,000,000", "3000000 4000000 3 000 000 4 000 000"),
        ("1.234.567-1.300.000", "1234567 1300000 1 234 567 1 300 000"),
        ("Row 12 123,456,789", "row 123456789 12 123 456 789"),
        ("USD1,234,567 A1,234,567", "1234567 usd 1 usd1 234 567 1234567 a 1 a1 234 567"),
        ("10.0.123.234 id_1_234 1.234.5", "10 0 123 234 id 1 234 id_1_234 1 234 5"),
        ("1 234\n567", "1234 1 234 567"),
        ("İSTANBUL Łódź Nguye\u0302\u0303n", "istanbul lodz nguyen"),
        ("שָׁלוֹם קֻרְאָן", "שלום קראן"),
        ("كِتَابٌ مُحَمَّد العـــربية", "كتاب محمد العربية"),
        ("йога Ёлка ปู่", "йога ёлка ปู ู่"),
        ("exam-\n\nple exam\u00ad\n \nple", "exam ple exampl exampl"),
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
    "text",
    [
        "a" * 50_000 + "1",
        "a-" * 20_000,
        "1,234" * 20_000,
        "1" + " 234" * 20_000 + ",567",
        "a." * 20_000,
        "ก" * 50_000,
    ],
)
def test_words_take_time_in_proportion_to_the_text(text):
    assert [word for run in runs_of(text) for word in words_in(run)]
