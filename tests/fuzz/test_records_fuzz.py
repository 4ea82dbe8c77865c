import json

from fuzzing import DEEP, HUGE, altered, as_json, bounded, damaged, json_values, refused
from hypothesis import example, given
from hypothesis import strategies as st

from e2llm.data.check import DataCheck
from e2llm.records import Record, read_numbered, read_records, record_to_dict

RECORD = record_to_dict(
    Record(
        "A blue stone lay on the quay.", "Where?", "B", evidence=((2, 12),), id="1", source="s",
        references=("here",), options=("on", "under"), groups={"kind": "easy"},
    )
)  # fmt: skip
LINES = as_json(RECORD) + b"\n" + json.dumps({"context": "é漢", "prompt": "", "answer": ""}).encode() + b"\n"


def check(file, content):
    """Whatever a file holds, it gives valid records or one error with file and line, and a check goes on."""
    file.write_bytes(content)
    found = refused(lambda: list(read_records(file)), f"{file}:")
    bad = []
    numbered = list(read_numbered(file, bad.append))
    assert found is None or (found == [record for _, record in numbered] and not bad)
    assert (found is None) == bool(bad)
    for _, record in numbered:
        assert record.context.strip()
        assert all(0 <= start < end <= len(record.context) for start, end in record.evidence)
        as_json(record_to_dict(record)).decode("ascii")
    tally = DataCheck()
    assert len(list(tally.read(file, "train"))) <= len(numbered)
    "\n".join(tally.lines()).encode(errors="strict")
    as_json(tally.to_dict())


@bounded
@given(damaged(LINES))
@example(f'{{"context": {HUGE}}}'.encode())
@example(DEEP.encode())
@example(b'{"context": ' + b'{"a":' * 20_000)
@example(b"\xff\xfe" + LINES)
@example(b"\xef\xbb\xbf" + LINES)
def test_damaged_lines_are_refused_by_their_place(tmp_path, content):
    check(tmp_path / "records.jsonl", content)


@bounded
@given(altered(RECORD))
@example({**RECORD, "evidence": "12"})
@example({**RECORD, "evidence": [[float("nan"), 2]]})
@example({**RECORD, "evidence": [[0, 1e300]]})
@example({**RECORD, "evidence": 7})
@example({**RECORD, "groups": {"\ud800": "x"}})
@example({**RECORD, "id": ["\ud800"]})
@example({**RECORD, "context": "\ud800"})
def test_other_values_in_a_record_are_refused_or_valid(tmp_path, content):
    check(tmp_path / "records.jsonl", as_json(content) + b"\n")


@bounded
@given(st.lists(json_values, max_size=4))
def test_json_that_is_no_record_is_refused(tmp_path, values):
    check(tmp_path / "records.jsonl", b"\n".join(as_json(value) for value in values))
