"""Items of a long JSON list come one at a time, whatever piece of the file has been read."""

import json

import pytest

from e2llm.data import json_items
from e2llm.data.json_items import read_json_items
from e2llm.errors import E2LLMError


def items(tmp_path, text, key=None):
    path = tmp_path / "made.json"
    path.write_text(text, encoding="utf-8")
    return [item for _, item in read_json_items(path, key)]


@pytest.mark.parametrize("num_chars", [1, 2, 3, 7, 64])
def test_items_do_not_depend_on_where_the_file_is_cut(num_chars, tmp_path, monkeypatch):
    monkeypatch.setattr(json_items, "_READ_CHARS", num_chars)
    rows = [{"text": 'a "made"\n\u2028 text' * 9, "list": [1.5e3, -12, True, None]}, {}, [], "\\", 123]
    assert items(tmp_path, json.dumps(rows, indent=1)) == rows
    assert (
        items(tmp_path, json.dumps({"Version": 1.25, "x": {"Data": 1}, "Data": rows, "y": 1}), "Data") == rows
    )


def test_items_are_read_before_the_rest_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_items, "_READ_CHARS", 16)
    path = tmp_path / "made.json"
    path.write_text('[{"a": 1},' + " " * 100 + "oops]")
    assert next(read_json_items(path)) == (1, {"a": 1})


def test_an_empty_list_has_no_items(tmp_path):
    assert items(tmp_path, " [ ] ") == []


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ('{"a": 1}', None, r"made.json:1: expected a list, found '\{'"),
        ('[{"a": 1},\n\n {"a": oops}]', None, "made.json:3: not valid JSON: Expecting value"),
        ('[{"a": 1}\n {"b": 2}]', None, "made.json:2: expected a comma or the end of the list after item 1"),
        ('[{"a": "cut of', None, "made.json:1: not valid JSON: Unterminated string"),
        ('[{"a": 1}', None, "expected a comma .* found 'the end of the file'"),
        ("[" + "9" * 5000 + "]", None, "not valid JSON: .*digits"),
        ("", None, "expected a list, found 'the end of the file'"),
        ('{"a": [1], "b": 2}', "Data", r"made.json:1: missing key\(s\) Data"),
        ('{"Data": {"a": 1}}', "Data", "expected a list under 'Data'"),
        ("[]", "Data", "expected a JSON object"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(text, key, message, tmp_path):
    with pytest.raises(E2LLMError, match=message):
        items(tmp_path, text, key)


def test_a_mistake_far_from_the_end_does_not_read_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_items, "_READ_CHARS", 64)
    path = tmp_path / "made.json"
    path.write_bytes(b'[{"a": oops, "b": "' + b"x" * 50_000 + b'"}] \xff')  # the last byte is not decoded
    with pytest.raises(E2LLMError, match="Expecting value"):
        list(read_json_items(path))


def test_bytes_that_are_no_utf8_are_an_error(tmp_path):
    path = tmp_path / "made.json"
    path.write_bytes(b'[{"a": "caf\xe9"}]')
    with pytest.raises(E2LLMError, match=r"made\.json: not UTF-8"):
        list(read_json_items(path))
