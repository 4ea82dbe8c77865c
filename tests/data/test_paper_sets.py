"""GovReport, QuALITY, NarrativeQA, TriviaQA and LongBench v2, on samples made in their published layouts."""

import json

import pytest
from made_long_samples import (
    LONGBENCH_V2_ROW,
    QUALITY_ROW,
    make_govreport,
    make_govreport_tables,
    make_longbench_v2,
    make_narrativeqa,
    make_quality,
    make_triviaqa,
)
from sample_files import write_json, write_json_lines, write_text

from e2llm.data.govreport import GovReportConverter
from e2llm.data.longbench_v2 import LongBenchV2Converter
from e2llm.data.narrativeqa import NarrativeQAConverter
from e2llm.data.prepare import prepare_records
from e2llm.data.quality import QualityConverter
from e2llm.data.triviaqa import TriviaQAConverter
from e2llm.errors import E2LLMError


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- GovReport --------------------------------------------------------------------------------------------


def test_a_crs_report_is_its_sections_with_their_titles(tmp_path):
    record, _ = GovReportConverter().convert(make_govreport(tmp_path), "train")
    assert record.context == "A made opening.\n\nMade Background\nIt is made.\n\nMore\nDeep."
    assert (record.prompt, record.answer) == ("Summarize the report.", "A made summary.\nIt ends.")


def test_a_gao_summary_has_no_recommendations_and_its_letter_no_title(tmp_path):
    _, record = GovReportConverter().convert(make_govreport(tmp_path), "train")
    assert (record.id, record.context, record.answer) == ("gao:GAO-1", "Dear made reader.", "GAO made it up.")


def test_all_reads_the_folder_without_lists_of_splits(tmp_path):
    source = make_govreport(tmp_path)
    for path in (source / "split_ids").iterdir():
        path.unlink()
    records = list(GovReportConverter().convert(source, "all"))
    assert [record.id for record in records] == ["crs:R1", "crs:R2", "gao:GAO-1"]


@pytest.mark.parametrize(
    ("name", "message"), [("split_ids/gao_train.ids", r"gao_train\.ids"), ("crs/R1.json", r"R1\.json")]
)
def test_a_list_or_report_that_is_missing_is_named(name, message, tmp_path):
    source = make_govreport(tmp_path)
    (source / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{message}; govreport expects"):
        list(GovReportConverter().convert(source, "train"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reports": {"section_title": "Made", "paragraphs": "one"}},
            "'Made': paragraphs are str, not a list",
        ),
        ({"reports": [{"title": "Made"}]}, r"a section: missing key\(s\) section_title, paragraphs"),
        ({"summary": "one"}, "'summary': paragraphs are str"),
        ({"reports": "one"}, "a section: expected a JSON object, got str"),
    ],
)
def test_a_report_of_another_shape_names_the_file_and_the_key(changes, message, tmp_path):
    source = make_govreport(tmp_path)
    edit_json(source / "crs" / "R1.json", **changes)
    with pytest.raises(E2LLMError, match=rf"R1\.json: {message}"):
        list(GovReportConverter().convert(source, "train"))


def test_a_report_without_summary_is_counted(tmp_path):
    source = make_govreport(tmp_path)
    edit_json(source / "crs" / "R1.json", summary=[" "])
    converter = GovReportConverter()
    assert len(list(converter.convert(source, "train"))) == 1
    assert converter.skipped == {"report or summary is empty": 1}


def test_tables_are_read_as_json_lines_and_parquet(tmp_path):
    converter, source = GovReportConverter(), make_govreport_tables(tmp_path)
    (train,) = converter.convert(source, "train")
    assert (train.id, train.context, train.answer) == ("train:1", "A made report.", "Made.")
    (validation,) = converter.convert(source, "validation")
    assert validation.context == "Another."
    assert converter.skipped == {"report or summary is empty": 1}


def test_the_published_count_is_that_of_the_layout_that_was_read(tmp_path):
    folder, table = make_govreport(tmp_path / "folder"), make_govreport_tables(tmp_path / "table")
    reports = [prepare_records("govreport", source, tmp_path / "o.jsonl") for source in (folder, table)]
    assert [report.published_count for report in reports] == [17519, 17517]


# --- QuALITY ----------------------------------------------------------------------------------------------


def test_a_label_counts_from_one_and_becomes_a_letter(tmp_path):
    first, second = QualityConverter().convert(make_quality(tmp_path), "train")
    assert [first.answer, second.answer] == ["B", "D"]
    assert first.prompt.startswith("Which ship flew?\nA. the red one\nB. the made one\nC. none\nD. both\n")
    assert [first.groups, second.groups] == [{"difficult": "1"}, {"difficult": "0"}]
    assert (first.id, first.context) == ("52845_MADE_1", "A made ship flew.\nIt was red.")


def test_questions_without_published_labels_are_counted_and_named_if_nothing_is_left(tmp_path):
    with pytest.raises(E2LLMError, match=r"no record came out.*left out were 2: label not published"):
        prepare_records("quality", make_quality(tmp_path), tmp_path / "o.jsonl", split="test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gold_label": 0}, "gold_label is 0, not 1 to 4"),
        ({"gold_label": "2"}, "gold_label is '2', not 1 to 4"),
        ({"options": ["one", "two"]}, "2 options, not 4"),
    ],
)
def test_a_question_of_another_shape_is_named_with_file_and_line(changes, message, tmp_path):
    row = {**QUALITY_ROW, "questions": [{**QUALITY_ROW["questions"][0], **changes}]}
    path = write_json_lines(tmp_path / "made.dev", [QUALITY_ROW, row])
    with pytest.raises(E2LLMError, match=f"made.dev:2: question 1: {message}"):
        list(QualityConverter().convert(path, "validation"))


def test_a_question_with_an_empty_option_is_counted(tmp_path):
    question = {**QUALITY_ROW["questions"][0], "options": ["one", " ", "three", "four"]}
    path = write_json_lines(tmp_path / "made.dev", [{**QUALITY_ROW, "questions": [question]}])
    converter = QualityConverter()
    assert list(converter.convert(path, "validation")) == []
    assert converter.skipped == {"article, question or option is empty": 1}


# --- NarrativeQA ------------------------------------------------------------------------------------------


def test_a_story_begins_and_ends_where_its_authors_say(tmp_path):
    first, second = NarrativeQAConverter().convert(make_narrativeqa(tmp_path), "train")
    assert first.context.startswith("MADE BOOK.\nIt is made.")
    assert first.context.endswith("THE END.")
    assert (first.answer, first.references) == ("A made man.", ("the man",))
    assert (second.id, second.prompt, second.references) == ("b1:2", "Why was it made?", ())


def test_a_film_script_loses_its_tags(tmp_path):
    (record,) = NarrativeQAConverter().convert(make_narrativeqa(tmp_path), "validation")
    assert record.context.startswith("FADE IN:\nINT. MADE HOUSE\nMade & dark.\n")
    assert record.context.endswith("Made & dark.\nFADE OUT.")


def test_summaries_need_no_stories(tmp_path):
    source = make_narrativeqa(tmp_path)
    (source / "documents.csv").unlink()
    first, _ = NarrativeQAConverter(context="summary").convert(source, "train")
    assert first.context == "A made man makes a book.\nThe end."


@pytest.mark.parametrize("text", [None, "404 Not Found"])
def test_questions_on_a_story_that_was_not_downloaded_are_counted(text, tmp_path):
    source = make_narrativeqa(tmp_path)
    (source / "tmp" / "b1.content").unlink()
    if text is not None:
        write_text(source / "tmp" / "b1.content", text)
    converter = NarrativeQAConverter()
    assert list(converter.convert(source, "train")) == []
    assert converter.skipped == {"question whose story is not there": 2}


def test_a_summary_that_is_missing_is_counted(tmp_path):
    source = make_narrativeqa(tmp_path)
    write_text(source / "third_party/wikipedia/summaries.csv", "document_id,set,summary\nx,train,Made.\n")
    converter = NarrativeQAConverter(context="summary")
    assert list(converter.convert(source, "train")) == []
    assert converter.skipped == {"question whose summary is not there": 2}


def test_an_unknown_narrativeqa_context_is_an_error():
    with pytest.raises(E2LLMError, match="choose from: story, summary"):
        NarrativeQAConverter(context="book")


def test_a_narrativeqa_file_without_its_columns_is_named(tmp_path):
    source = make_narrativeqa(tmp_path)
    write_text(source / "qaps.csv", "document_id,set,question\nb1,train,Who?\n")
    with pytest.raises(E2LLMError, match=r"qaps\.csv: no column answer1, answer2"):
        list(NarrativeQAConverter().convert(source, "train"))


def test_a_cell_beyond_the_limit_of_csv_is_an_error_with_its_line(tmp_path):
    source = make_narrativeqa(tmp_path)
    write_text(
        source / "qaps.csv", f"document_id,set,question,answer1,answer2\nb1,train,{'x' * 200_000},a,b\n"
    )
    with pytest.raises(E2LLMError, match=r"qaps\.csv:2: not a row of CSV"):
        list(NarrativeQAConverter().convert(source, "train"))


# --- TriviaQA ---------------------------------------------------------------------------------------------


def test_the_pages_of_a_question_follow_each_other_and_aliases_are_references(tmp_path):
    converter = TriviaQAConverter()
    (record,) = converter.convert(make_triviaqa(tmp_path), "train")
    assert record.context == "Made Hill is high.\n\nHills are made."
    assert (record.prompt, record.answer) == ("Which made hill is the highest?", "Made Hill")
    assert (record.id, record.references) == ("made_1", ("made hill", "hill"))
    assert converter.skipped == {"question without a page": 1}


def test_a_trivia_page_that_is_missing_is_named(tmp_path):
    source = make_triviaqa(tmp_path)
    (source / "evidence" / "wikipedia" / "Hills.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"Hills\.txt; triviaqa expects"):
        list(TriviaQAConverter().convert(source, "train"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"Question": "Q?"}, r"missing key\(s\) Answer, EntityPages"),
        ({"Question": "Q?", "Answer": {}, "EntityPages": []}, r"'Answer': missing key\(s\) Value"),
        (
            {"Question": "Q?", "Answer": {"Value": "v", "NormalizedAliases": []}, "EntityPages": [{}]},
            r"'EntityPages': missing key\(s\) Filename",
        ),
    ],
)
def test_a_trivia_question_without_a_key_is_named_with_its_number(row, message, tmp_path):
    source = make_triviaqa(tmp_path)
    write_json(source / "qa" / "wikipedia-train.json", {"Data": [row]})
    with pytest.raises(E2LLMError, match=rf"wikipedia-train\.json: item 1 of 'Data'.*{message}"):
        list(TriviaQAConverter().convert(source, "train"))


# --- LongBench v2 -----------------------------------------------------------------------------------------


def test_a_longbench_v2_record_has_the_groups_of_its_breakdowns(tmp_path):
    first, _ = LongBenchV2Converter().convert(make_longbench_v2(tmp_path), "test")
    assert (first.id, first.answer) == ("made66", "C")
    assert first.groups == {
        "difficulty": "hard",
        "length": "short",
        "domain": "Single-Document QA",
        "sub_domain": "Made",
    }


def test_longbench_v2_is_no_training_data():
    assert LongBenchV2Converter.splits == ("test",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"answer": "E"}, "made66: answer is 'E'"), ({"answer": "AB"}, "made66: answer is 'AB'")],
)
def test_an_answer_that_is_no_letter_names_the_question(changes, message, tmp_path):
    write_json(tmp_path / "data.json", [{**LONGBENCH_V2_ROW, **changes}])
    with pytest.raises(E2LLMError, match=rf"data\.json: {message}"):
        list(LongBenchV2Converter().convert(tmp_path, "test"))


def test_a_longbench_v2_item_without_its_keys_is_named_with_its_number(tmp_path):
    short = {key: value for key, value in LONGBENCH_V2_ROW.items() if key != "choice_D"}
    write_json(tmp_path / "data.json", [LONGBENCH_V2_ROW, short])
    with pytest.raises(E2LLMError, match=r"data\.json: item 2: missing key\(s\) choice_D"):
        list(LongBenchV2Converter().convert(tmp_path, "test"))
