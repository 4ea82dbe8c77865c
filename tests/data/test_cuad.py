"""CUAD in its published layout."""

import pytest
from made_samples import make_cuad
from sample_files import write_text

from e2llm.data.registry import DATASETS
from e2llm.data.sets.cuad import CLAUSES, NOT_STATED, TERMS
from e2llm.errors import E2LLMError


def by_category(converter, source):
    return {record.id.rpartition(":")[2]: record for record in converter.convert(source, "train")}


def test_terms_are_answered_in_few_words(tmp_path):
    records = by_category(DATASETS["cuad"](), make_cuad(tmp_path))
    answers = {category: records[category].answer for category in TERMS}
    assert answers == {
        "Document Name": "MADE AGREEMENT",
        "Parties": "Made Inc; Other Ltd",
        "Agreement Date": "May 8, 2014",
        "Effective Date": NOT_STATED,
        "Expiration Date": "December 31, 2016",
        "Renewal Term": NOT_STATED,
        "Notice Period To Terminate Renewal": NOT_STATED,
        "Governing Law": "Nevada",
    }


def test_clauses_are_answered_with_yes_or_no(tmp_path):
    records = by_category(DATASETS["cuad"](), make_cuad(tmp_path))
    assert records["Audit Rights"].answer == "Yes"
    assert {records[category].answer for category in CLAUSES if category != "Audit Rights"} == {"No"}
    assert records["Insurance"].evidence == ()


def test_evidence_is_found_across_line_ends_and_omissions(tmp_path):
    records = by_category(DATASETS["cuad"](), make_cuad(tmp_path))
    context = records["Audit Rights"].context
    assert context.startswith("MADE AGREEMENT\n\nThis")
    (law,) = records["Governing Law"].evidence
    assert context[slice(*law)] == "It is governed by the laws of\nNevada."
    parts = [context[slice(*span)] for span in records["Audit Rights"].evidence]
    assert parts == ["The Buyer", "audit the books."]


def test_a_term_that_was_never_filled_in_is_counted(tmp_path):
    source = make_cuad(tmp_path)
    table = source / "master_clauses.csv"
    write_text(table, table.read_text(encoding="utf-8").replace("['May 8, 2014']", "['[●] 2014']"))
    converter = DATASETS["cuad"]()
    assert "Agreement Date" not in by_category(converter, source)
    assert converter.skipped["term is left blank or has no short answer"] == 1


def test_a_damaged_cell_names_the_table_and_the_contract(tmp_path):
    source = make_cuad(tmp_path)
    table = source / "master_clauses.csv"
    write_text(table, table.read_text(encoding="utf-8").replace("['MADE AGREEMENT']", "MADE AGREEMENT"))
    with pytest.raises(E2LLMError, match=r"master_clauses.csv: MADE & CO_EX-10: not a list of texts"):
        list(DATASETS["cuad"]().convert(source, "train"))
