"""One bad line stops the reader with file and line; good ones come back as they were."""

import pytest

from e2llm import Record, read_records
from e2llm.errors import E2LLMError
from e2llm.records import read_numbered, record_to_dict, write_records

GOOD = '{"context": "A tower.", "prompt": "What?", "answer": "A tower"}'


def with_field(field: str) -> str:
    return GOOD[:-1] + ", " + field + "}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"context": ', "not valid JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"context": "a"}', r"missing key\(s\) prompt, answer"),
        ('{"context": 5, "prompt": "", "answer": ""}', "'context' must be a string, got int"),
        ('{"context": " ", "prompt": "", "answer": ""}', "'context' is empty"),
        ('{"context": "a", "prompt": "What?", "answer": ""}', "'answer' is empty"),
        ('{"context": "a\\ud800", "prompt": "", "answer": ""}', "'context': character 1 is a lone surrogate"),
        ('{"context": "a\\u0000", "prompt": "", "answer": ""}', r"'context': character 1 is zero \(NUL\)"),
        (with_field('"references": 5'), "'references' must be a list of strings"),
        (with_field('"references": {"a": 1}'), "'references' must be a list of strings"),
        (with_field('"references": ["\\udfff"]'), "'references': character 0 is a lone surrogate"),
        (with_field('"evidence": [[0, 99]]'), "within 0 to 8"),
        (with_field('"evidence": [[0, Infinity]]'), "'evidence' must be a list"),
        (with_field('"evidence": true'), "'evidence' must be a list"),
        (with_field('"options": "A"'), "'options' must be a list of strings"),
        (with_field('"options": ["A tower"]'), "'options' must have 2 to 26 texts, got 1"),
        (with_field('"options": ["one", " "]'), "'options': option B is empty"),
        (with_field('"options": ["one", "\\ud800"]'), "'options': character 0 is a lone surrogate"),
        (with_field('"options": ["one", "two"]'), "letter of one of the 'options', A to B, got 'A tower'"),
        (with_field('"groups": ["hard"]'), "'groups' must be an object whose values are strings"),
        (with_field('"groups": {"length": 7}'), "'groups' must be an object whose values are strings"),
        (with_field('"groups": {"length": "\\udfff"}'), "'groups': character 0 is a lone surrogate"),
        (with_field('"evidence": [["0", "3"]]'), "'evidence' must be a list"),
        (with_field('"evidence": [[false, 3]]'), "'evidence' must be a list"),
        (with_field('"evidence": [[0, 3.0]]'), "'evidence' must be a list"),
        (with_field('"id": 7'), "'id' must be a string, got int"),
        (with_field('"id": 0'), "'id' must be a string, got int"),
        (with_field('"references": ""'), "'references' must be a list of strings"),
        (with_field('"size": ' + "9" * 5000), "digits"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(tmp_path, line, message):
    file = tmp_path / "notes.jsonl"
    file.write_text(f"{GOOD}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(E2LLMError, match=rf"notes\.jsonl:3: .*{message}"):
        list(read_records(file))


def test_bytes_that_are_no_utf8_are_named(tmp_path):
    file = tmp_path / "notes.jsonl"
    file.write_bytes(GOOD.encode() + b'\n{"context": "caf\xe9"}\n')
    with pytest.raises(E2LLMError, match=r"notes\.jsonl:2: not UTF-8"):
        list(read_records(file))


def test_a_byte_order_mark_is_passed_over(tmp_path):
    file = tmp_path / "notes.jsonl"
    file.write_text(GOOD + "\n", encoding="utf-8-sig")
    assert [record.answer for record in read_records(file)] == ["A tower"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            b'[\n  {"context": "a"},\n  {}\n]',
            r"a JSON array, .*; convert it: jq -c '\.\[\]' r.jsonl > records",
        ),
        (b'\n[["a"]]', "a JSON array"),
        ('{"context": "a"}\n{}\n'.encode("utf-16"), "UTF-16 text, .*; save it as JSON Lines in UTF-8"),
        (b"PK\x03\x04", "a ZIP archive, .*; name a file of records"),
        (b"<!DOCTYPE html><p>", "a web page, .*; save it as JSON Lines"),
        (b"PAR1", r"a table \(Parquet\)"),
    ],
)
def test_a_file_of_another_format_is_one_fault_that_names_it(tmp_path, data, words):
    path = tmp_path / "r.jsonl"
    path.write_bytes(data)
    with pytest.raises(E2LLMError, match=rf"r\.jsonl:1: the file is {words}"):
        list(read_records(path))
    faults = []
    assert list(read_numbered(path, faults.append)) == []
    assert [(fault.number, fault.fault) for fault in faults] == [(1, "not_json")]


def test_records_come_back_as_they_were_written(tmp_path):
    records = [
        Record("Ein Türm.", "Wie?", "So", references=("Anders",), evidence=((0, 3),), id="1", source="mine"),
        Record("Nur Text \u2028 hier", "", ""),
        Record("A text.", "Which?", "B", options=("one", "two"), groups={"difficulty": "hard"}),
    ]
    assert write_records(tmp_path / "a" / "r.jsonl", records) == 3
    assert list(read_records(tmp_path / "a" / "r.jsonl")) == records


@pytest.mark.parametrize("answer", ["D", "b", "AB", "", "1"])
def test_the_answer_of_a_multiple_choice_question_is_one_of_its_letters(answer):
    with pytest.raises(E2LLMError, match=r"'answer'"):
        Record("A text.", "Which?", answer, options=("one", "two", "three"))


def test_records_without_options_and_groups_are_written_as_before():
    record = Record("A text.", "Which?", "one")
    assert record_to_dict(record) == {"context": "A text.", "prompt": "Which?", "answer": "one"}


def test_records_with_groups_can_be_hashed():
    assert (
        len({Record("A text.", "", "", groups={"a": "b"}), Record("A text.", "", "", groups={"a": "b"})}) == 1
    )


def test_an_error_among_records_leaves_the_older_file_and_nothing_else(tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text("old")
    with pytest.raises(E2LLMError):
        write_records(file, (Record(text, "", "") for text in ("good", "")))
    assert (file.read_text(), list(tmp_path.iterdir())) == ("old", [file])
