from e2llm.data.web_text import cut_between, read_web_text


def test_a_page_loses_its_tags_scripts_and_title(tmp_path):
    path = tmp_path / "made.content"
    path.write_text(
        "<HTML><head><title>Made</title><script>if (a < b) run();</script></head>"
        "<body>One<br>two &amp; three<p>four <b>five</b></body></HTML>"
    )
    assert read_web_text(path) == "One\ntwo & three\nfour five"


def test_a_text_file_keeps_its_angle_brackets(tmp_path):
    path = tmp_path / "made.content"
    path.write_bytes("\ufeffA <made> text.\r\n\r\n\r\n\r\nEnd.\r\n".encode())
    assert read_web_text(path) == "A <made> text.\n\nEnd."


def test_a_file_that_is_not_utf8_is_read_as_latin_1(tmp_path):
    path = tmp_path / "made.content"
    path.write_bytes(b"caf\xe9")
    assert read_web_text(path) == "caf\u00e9"


def test_a_text_is_cut_at_its_first_and_last_words_however_they_are_spaced():
    text = "Menu\nMADE\n  FILM, by\nTHE END. Again THE END.\nAds"
    assert cut_between(text, "MADE FILM ,", "THE END .") == "MADE\n  FILM, by\nTHE END. Again THE END."


def test_words_that_are_not_there_cut_nothing():
    assert cut_between("A made text.", "if ( window", "FADE OUT .") == "A made text."
    assert cut_between("A made text.", "", "") == "A made text."


def test_last_words_ahead_of_the_first_ones_are_not_the_end():
    assert cut_between("END. Menu. START of it", "START", "END .") == "START of it"
