import sys

import pytest
from made_samples import make_parquet

from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError, MissingExtraError


def convert(source, **options):
    return list(DATASETS["parquet"](**options).convert(source, "train"))


def test_rows_become_text_only_records_named_by_their_id(tmp_path):
    records = convert(make_parquet(tmp_path))
    assert [(record.id, record.context) for record in records] == [
        ("a", "A made row."),
        ("b", "Another made row."),
    ]


def test_without_an_id_column_rows_are_numbered(tmp_path):
    assert convert(make_parquet(tmp_path), id_column="none")[0].id == "made:1"


def test_an_absent_column_names_those_that_are_there(tmp_path):
    with pytest.raises(E2LLMError, match="no column 'body'; found id, text, year"):
        convert(make_parquet(tmp_path), column="body")


def test_a_column_of_numbers_is_an_error(tmp_path):
    with pytest.raises(E2LLMError, match="'year' contains int64, not strings"):
        convert(make_parquet(tmp_path), column="year")


def test_a_file_that_is_not_parquet_is_an_error(tmp_path):
    (tmp_path / "made.parquet").write_text("plain text")
    with pytest.raises(E2LLMError, match="not a Parquet file"):
        convert(tmp_path)


def test_without_pyarrow_the_error_names_the_extra(tmp_path, monkeypatch):
    source = make_parquet(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"e2llm\[data\]"):
        convert(source)
