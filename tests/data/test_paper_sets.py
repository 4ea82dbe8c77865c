"""GovReport, QuALITY, NarrativeQA, TriviaQA and LongBench v2, on samples made in their published layouts."""

import pytest
from made_long_samples import (
    LONGBENCH_V2_ROW,
    QUALITY_ROW,
    make_govreport,
    make_longbench_v2,
    make_narrativeqa,
    make_quality,
    make_triviaqa,
)
from sample_files import write_json, write_json_lines, write_text

from e2llm.data.prepare import prepare_records
from e2llm.data.registry import DATASETS
from e2llm.data.sets.narrativeqa import cut_between, read_page
from e2llm.errors import E2LLMError


def test_a_report_without_summary_is_counted(tmp_path):
    converter = DATASETS["govreport"]()
    (record,) = converter.convert(make_govreport(tmp_path), "validation")
    assert (record.prompt, record.answer) == ("Summarize the report.", "Made.")
    assert (record.id, record.context) == ("validation-00000-of-00001:1", "A made report.")
    assert converter.skipped == {"context, question, option or answer is empty": 1}


# --- QuALITY ----------------------------------------------------------------------------------------------


def test_a_label_counts_from_one_and_becomes_a_letter(tmp_path):
    first, second = DATASETS["quality"]().convert(make_quality(tmp_path), "train")
    assert [first.answer, second.answer] == ["B", "D"]
    assert first.prompt.startswith("Which ship flew?\nA. the red one\nB. the made one\nC. none\nD. both\n")
    assert [first.groups, second.groups] == [{"difficult": "1"}, {"difficult": "0"}]
    assert (first.id, first.context) == ("52845_MADE_1", "A made ship flew.\nIt was red.")


def test_questions_without_published_labels_are_counted_and_named_if_nothing_is_left(tmp_path):
    with pytest.raises(E2LLMError, match=r"no records were found.*left out: 2: label not published"):
        prepare_records("quality", make_quality(tmp_path), tmp_path / "o.jsonl", split="test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gold_label": 0}, "4 options and gold_label 0, not"),
        ({"gold_label": "2"}, "4 options and gold_label '2', not"),
        ({"options": ["one", "two"]}, "2 options and gold_label 2, not"),
    ],
)
def test_a_question_of_another_shape_is_named_with_file_and_line(changes, message, tmp_path):
    row = {**QUALITY_ROW, "questions": [{**QUALITY_ROW["questions"][0], **changes}]}
    path = write_json_lines(tmp_path / "made.dev", [QUALITY_ROW, row])
    with pytest.raises(E2LLMError, match=f"made.dev:2: question 1 has {message}"):
        list(DATASETS["quality"]().convert(path, "validation"))


# --- NarrativeQA ------------------------------------------------------------------------------------------


def test_a_story_begins_and_ends_where_its_authors_say(tmp_path):
    first, second = DATASETS["narrativeqa"]().convert(make_narrativeqa(tmp_path), "train")
    assert first.context.startswith("MADE BOOK.\nIt is made.")
    assert first.context.endswith("THE END.")
    assert (first.answer, first.references) == ("A made man.", ("the man",))
    assert (second.id, second.prompt, second.references) == ("b1:2", "Why was it made?", ())


def test_a_film_script_loses_its_tags(tmp_path):
    (record,) = DATASETS["narrativeqa"]().convert(make_narrativeqa(tmp_path), "validation")
    assert record.context.startswith("FADE IN:\nINT. MADE HOUSE\nMade & dark.\n")
    assert record.context.endswith("Made & dark.\nFADE OUT.")


def test_summaries_need_no_stories(tmp_path):
    source = make_narrativeqa(tmp_path)
    (source / "documents.csv").unlink()
    first, _ = DATASETS["narrativeqa"](context="summary").convert(source, "train")
    assert first.context == "A made man makes a book.\nThe end."


@pytest.mark.parametrize("text", [None, "404 Not Found"])
def test_questions_on_a_story_that_was_not_downloaded_are_counted(text, tmp_path):
    source = make_narrativeqa(tmp_path)
    (source / "tmp" / "b1.content").unlink()
    if text is not None:
        write_text(source / "tmp" / "b1.content", text)
    converter = DATASETS["narrativeqa"]()
    assert list(converter.convert(source, "train")) == []
    assert converter.skipped == {"question whose story is missing": 2}


def test_a_summary_that_is_missing_is_counted(tmp_path):
    source = make_narrativeqa(tmp_path)
    write_text(source / "third_party/wikipedia/summaries.csv", "document_id,set,summary\nx,train,Made.\n")
    converter = DATASETS["narrativeqa"](context="summary")
    assert list(converter.convert(source, "train")) == []
    assert converter.skipped == {"question whose summary is missing": 2}


def test_a_cell_beyond_the_limit_of_csv_is_an_error_with_its_line(tmp_path):
    source = make_narrativeqa(tmp_path)
    write_text(
        source / "qaps.csv", f"document_id,set,question,answer1,answer2\nb1,train,{'x' * 200_000},a,b\n"
    )
    with pytest.raises(E2LLMError, match=r"qaps\.csv:2: not a row of CSV"):
        list(DATASETS["narrativeqa"]().convert(source, "train"))


def test_a_page_loses_its_tags_scripts_and_title(tmp_path):
    path = tmp_path / "made.content"
    path.write_text(
        "<HTML><head><title>Made</title><script>if (a < b) run();</script></head>"
        "<body>One<br>two &amp; three<p>four <b>five</b></body></HTML>"
    )
    assert read_page(path) == "One\ntwo & three\nfour five"


def test_a_text_file_keeps_its_angle_brackets(tmp_path):
    path = tmp_path / "made.content"
    path.write_bytes("\ufeffA <made> text.\r\n\r\n\r\n\r\nEnd.\r\n".encode())
    assert read_page(path) == "A <made> text.\n\nEnd."


def test_a_file_that_is_not_utf8_is_read_as_latin_1(tmp_path):
    path = tmp_path / "made.content"
    path.write_bytes(b"caf\xe9")
    assert read_page(path) == "caf\u00e9"


def test_a_text_is_cut_at_its_first_and_last_words_however_they_are_spaced():
    text = "Menu\nMADE\n  FILM, by\nTHE END. Again THE END.\nAds"
    assert cut_between(text, "MADE FILM ,", "THE END .") == "MADE\n  FILM, by\nTHE END. Again THE END."


def test_words_that_are_not_there_cut_nothing():
    assert cut_between("A made text.", "if ( window", "FADE OUT .") == "A made text."
    assert cut_between("A made text.", "", "") == "A made text."


def test_last_words_ahead_of_the_first_ones_are_not_the_end():
    assert cut_between("END. Menu. START of it", "START", "END .") == "START of it"


# --- TriviaQA ---------------------------------------------------------------------------------------------


def test_the_pages_of_a_question_follow_each_other_and_aliases_are_references(tmp_path):
    converter = DATASETS["triviaqa"]()
    (record,) = converter.convert(make_triviaqa(tmp_path), "train")
    assert record.context == "Made Hill is high.\n\nHills are made."
    assert (record.prompt, record.answer) == ("Which made hill is the highest?", "Made Hill")
    assert (record.id, record.references) == ("made_1", ("made hill", "hill"))
    assert converter.skipped == {"context, question, option or answer is empty": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"Question": "Q?"}, "missing key 'Answer'"),
        ({"Question": "Q?", "Answer": {}, "EntityPages": []}, "missing key 'Value'"),
        ({"Question": None}, "a value has the wrong type"),
    ],
)
def test_a_trivia_question_without_a_key_is_named_with_its_number(row, message, tmp_path):
    source = make_triviaqa(tmp_path)
    write_json(source / "qa" / "wikipedia-train.json", {"Data": [row]})
    with pytest.raises(E2LLMError, match=rf"wikipedia-train\.json: question 1: {message}"):
        list(DATASETS["triviaqa"]().convert(source, "train"))


# --- LongBench v2 -----------------------------------------------------------------------------------------


def test_a_longbench_v2_record_has_the_groups_of_its_breakdowns(tmp_path):
    first, _ = DATASETS["longbench_v2"]().convert(make_longbench_v2(tmp_path), "test")
    assert (first.id, first.answer) == ("made66", "C")
    assert first.groups == {
        "difficulty": "hard",
        "length": "short",
        "domain": "Single-Document QA",
        "sub_domain": "Made",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "E"}, "the answer must be A, B, C or D, got 'E'"),
        ({"answer": "AB"}, "the answer must be A, B, C or D, got 'AB'"),
    ],
)
def test_an_answer_that_is_no_letter_names_the_question(changes, message, tmp_path):
    write_json(tmp_path / "data.json", [{**LONGBENCH_V2_ROW, **changes}])
    with pytest.raises(E2LLMError, match=rf"data\.json: question 1: {message}"):
        list(DATASETS["longbench_v2"]().convert(tmp_path, "test"))
