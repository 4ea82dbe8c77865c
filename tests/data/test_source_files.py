import json

import pytest

from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError

RUN = DATASETS["text"]()
DEEP = "[" * 100_000
LONG = "9" * 5000


@pytest.mark.parametrize("text", [DEEP, LONG, "{"])
def test_a_document_that_json_does_not_take_is_told_with_its_file(tmp_path, text):
    file = tmp_path / "set.json"
    file.write_text(text)
    with pytest.raises(E2LLMError, match=r"set\.json.*: not valid JSON"):
        RUN.json(file)


@pytest.mark.parametrize("text", [DEEP, LONG, "{"])
def test_a_line_that_json_does_not_take_is_told_with_file_and_number(tmp_path, text):
    file = tmp_path / "set.jsonl"
    file.write_text(f"{{}}\n{text}\n")
    with pytest.raises(E2LLMError, match=r"set\.jsonl:2: not a line of UTF-8 JSON"):
        list(RUN.lines(file))


def test_a_byte_order_mark_before_the_first_line_is_passed_over(tmp_path):
    file = tmp_path / "set.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"id": 1}).encode() + b'\n{"id": 2}\n')
    assert list(RUN.lines(file)) == [(1, {"id": 1}), (2, {"id": 2})]
