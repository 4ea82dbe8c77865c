import json

import pytest
from made_samples import MEETING, PAPER, make_covid_qa, make_qmsum, make_scisummnet, make_squality
from sample_files import write_json, write_text

from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError


def test_a_meeting_is_one_line_per_turn_without_the_transcribers_marks(tmp_path):
    general, _ = DATASETS["qmsum"]().convert(make_qmsum(tmp_path), "train")
    assert (
        general.context
        == "Ann: Hello , the LCD is here .\nBob: Which colour ?\nAnn: Green I think .\nBob: Fine ."
    )
    assert general.evidence == ()


def test_a_specific_query_knows_its_turns(tmp_path):
    _, specific = DATASETS["qmsum"]().convert(make_qmsum(tmp_path), "train")
    (span,) = specific.evidence
    assert specific.context[slice(*span)] == "Bob: Which colour ?\nAnn: Green I think ."


def test_a_span_beyond_the_meeting_is_an_error_that_names_the_file(tmp_path):
    query = {"query": "Q?", "answer": "A.", "relevant_text_span": [["1", "9"]]}
    write_json(tmp_path / "train" / "Made1.json", {**MEETING, "specific_query_list": [query]})
    with pytest.raises(E2LLMError, match=r"Made1.json: relevant_text_span 1-9 of 4 turns"):
        list(DATASETS["qmsum"]().convert(tmp_path, "train"))


def test_squality_has_one_answer_and_three_references(tmp_path):
    (record,) = DATASETS["squality"]().convert(make_squality(tmp_path), "train")
    assert record.context == "Made Ship\n\nIt flew."
    assert record.answer == "Made summary 1."
    assert record.references == ("Made summary 2.", "Made summary 3.", "Made summary 4.")


def test_a_squality_line_without_its_keys_is_named(tmp_path):
    write_text(tmp_path / "train.jsonl", '{"document": "x"}\n')
    with pytest.raises(E2LLMError, match=r"train.jsonl:1: missing key 'questions'"):
        list(DATASETS["squality"]().convert(tmp_path, "train"))


def test_a_value_of_a_wrong_type_is_an_error_that_names_the_source(tmp_path):
    row = {"metadata": {"passage_id": "1"}, "document": None, "questions": []}
    write_text(tmp_path / "train.jsonl", json.dumps(row))
    with pytest.raises(E2LLMError, match=r"train.jsonl:1: a value has the wrong type.*squality expects"):
        list(DATASETS["squality"]().convert(tmp_path, "train"))


def test_a_covid_qa_offset_that_is_one_off_is_mended(tmp_path):
    (record,) = DATASETS["covid_qa"]().convert(make_covid_qa(tmp_path), "train")
    assert record.answer == "Masks help"
    assert record.context[slice(*record.evidence[0])] == "Masks help"


def test_the_whole_covid_qa_is_read_where_it_is_there(tmp_path):
    source = make_covid_qa(tmp_path)
    (batch,) = source.rglob("*.json")
    whole = json.loads(batch.read_text())
    whole["data"][0]["paragraphs"][0]["document_id"] = 8
    write_json(batch.with_name("COVID-QA.json"), whole)
    (record,) = DATASETS["covid_qa"]().convert(source, "train")
    assert record.id == "8:1"


def test_a_paper_is_read_without_its_abstract_and_summary_without_its_title(tmp_path):
    (record,) = DATASETS["scisummnet"]().convert(make_scisummnet(tmp_path), "train")
    assert record.context == "A Made Paper\n\n1 Introduction\nWe made it “up”. It is short."
    assert (record.prompt, record.answer) == ("Summarize the paper.", "It is made up. And short.")


def test_a_paper_with_only_a_title_is_left_out(tmp_path):
    source = make_scisummnet(tmp_path)
    (path,) = source.rglob("*.xml")
    path.write_text('<PAPER><S sid="0">A Made Paper</S><ABSTRACT/></PAPER>')
    converter = DATASETS["scisummnet"]()
    assert list(converter.convert(source, "train")) == []
    assert converter.skipped == {"no text but the title": 1}


def test_broken_xml_names_the_file(tmp_path):
    source = make_scisummnet(tmp_path)
    (path,) = source.rglob("*.xml")
    path.write_text(PAPER[:-10])
    with pytest.raises(E2LLMError, match=r"X00-0001\.xml: not valid XML"):
        list(DATASETS["scisummnet"]().convert(source, "train"))
