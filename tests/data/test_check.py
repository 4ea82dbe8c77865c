import json

import pytest

from e2llm.data.check import DataCheck, is_in_text
from e2llm.errors import E2LLMError
from e2llm.records import BadLine, Record, read_numbered, write_records

BOAT = Record("The boat has 7 red sails.", "How many sails?", "7")
HARBOUR = Record("The harbour lights went out at nine.", "", "")


def read_all(check, path, part="train"):
    return list(check.read(path, part))


def counts(check):
    return {kind: finding.count for kind, finding in check.findings.items()}


@pytest.fixture
def messy(tmp_path):
    """Two good lines among one of each kind of bad ones."""
    file = tmp_path / "messy.jsonl"
    lines = [
        b'{"context": "a", "prompt": "", "answer": ""}',
        b"nonsense",
        b'{"context": "a"}',
        b'{"context": 5, "prompt": "", "answer": ""}',
        b'{"context": "caf\xe9", "prompt": "", "answer": ""}',
        b"",
        b"[" * 100_000,
        b'{"context": "b", "prompt": "", "answer": ""}',
    ]
    file.write_bytes(b"\n".join(lines))
    return file


def test_reading_with_numbers_goes_on_behind_bad_lines_and_names_them(messy):
    bad = []
    good = [(number, record.context) for number, record in read_numbered(messy, bad.append)]
    assert good == [(1, "a"), (8, "b")]
    assert [(line.number, line.fault) for line in bad] == [
        (2, "not_json"),
        (3, "missing_keys"),
        (4, "wrong_value"),
        (5, "not_utf8"),
        (7, "not_json"),
    ]
    assert str(BadLine("f.jsonl", 3, "not_json", "what")) == "f.jsonl:3: what"


def test_bad_lines_are_findings_by_kind_with_their_places(messy):
    check = DataCheck()
    assert [number for number, _ in check.read(messy, "train")] == [1, 8]
    assert counts(check) == {"not_json": 2, "missing_keys": 1, "wrong_value": 1, "not_utf8": 1}
    assert check.findings["missing_keys"].examples[0].startswith(f"{messy}:3 (missing key(s)")
    assert f"error: lines that are not JSON: 2, {messy}:2 (not valid JSON" in "\n".join(check.lines())


def test_only_the_first_places_of_a_kind_are_kept_but_all_are_counted(tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text("x\n" * 9)
    check = DataCheck()
    read_all(check, file)
    assert counts(check) == {"not_json": 9, "no_records": 1}
    assert [item.split(" ")[0] for item in check.findings["not_json"].examples] == [
        f"{file}:{number}" for number in (1, 2, 3)
    ]
    assert check.findings["not_json"].line().endswith(", ...")


def test_lengths_count_each_context_once_and_no_empty_prompts(tmp_path):
    write_records(tmp_path / "a.jsonl", [BOAT, Record(BOAT.context, "Which colour?", "red"), HARBOUR])
    check = DataCheck()
    read_all(check, tmp_path / "a.jsonl")
    part = check.to_dict()["parts"]["train"]
    assert (part["num_records"], part["num_text_only"], part["num_contexts"]) == (3, 1, 2)
    assert part["chars"]["context"] == {"min": 25, "median": 30, "max": 36}
    assert part["chars"]["answer"] == {"min": 1, "median": 2, "max": 3}
    assert check.findings == {}


def test_the_same_record_again_is_a_duplicate_and_another_question_is_none(tmp_path):
    other = Record(BOAT.context, "Which colour?", "red")
    write_records(tmp_path / "a.jsonl", [BOAT, other])
    write_records(tmp_path / "b.jsonl", [HARBOUR, BOAT])
    check = DataCheck()
    read_all(check, tmp_path / "a.jsonl")
    assert len(read_all(check, tmp_path / "b.jsonl")) == 2
    assert check.findings["duplicate"].examples == [f"{tmp_path / 'b.jsonl'}:2"]
    assert check.errors == []
    assert [finding.kind for finding in check.warnings] == ["duplicate"]


def test_a_file_that_a_recipe_names_twice_is_tallied_once(tmp_path, messy):
    write_records(tmp_path / "a.jsonl", [BOAT, HARBOUR])
    check = DataCheck()
    for _ in range(2):
        assert len(read_all(check, tmp_path / "a.jsonl")) == 2
        read_all(check, messy)
    assert check.parts["train"].num_records == 4
    assert sum(counts(check).values()) == 5


def test_a_context_of_validation_is_left_out_of_train_whatever_its_spaces(tmp_path):
    write_records(tmp_path / "valid.jsonl", [HARBOUR, BOAT])
    leak = Record(BOAT.context.replace(" ", "  "), "Which colour?", "red")
    write_records(tmp_path / "train.jsonl", [leak, Record("Another boat.", "", "")])
    check = DataCheck()
    read_all(check, tmp_path / "valid.jsonl", "validation")
    assert [number for number, _ in check.read(tmp_path / "train.jsonl", "train")] == [2]
    place = f"{tmp_path / 'train.jsonl'}:1"
    assert check.findings["leak"].examples == [f"{place} (it is that of {tmp_path / 'valid.jsonl'}:2)"]
    assert check.parts["train"].num_records == 1


@pytest.mark.parametrize(
    ("answer", "context", "found"),
    [
        ("7", "It has 7 sails.", True),
        ("7", "It has 17 sails.", False),
        ("7", "It has 17 or 7.", True),
        ("Red  sails", "It has “RED, sails”!", True),
        ("red sails", "It has sails, red.", False),
        ("U.S.", "in the u s of old", True),
        ("答案", "这是答案吗", True),
        ("?", "Really?", True),
        ("!", "Really?", False),
        ("STRASSE", "in der Straße", True),
    ],
)
def test_an_answer_is_found_as_whole_words(answer, context, found):
    assert is_in_text(answer, context) is found


def test_the_letter_of_an_option_need_not_stand_in_the_context(tmp_path):
    record = Record("It rained.", "Which?", "B", options=("snow", "rain"))
    write_records(tmp_path / "a.jsonl", [record])
    check = DataCheck()
    read_all(check, tmp_path / "a.jsonl")
    assert check.findings == {}


def test_answers_out_of_nowhere_are_a_note_and_many_of_them_a_warning(tmp_path):
    absent = Record("It rained.", "What did it do?", "It snowed.")
    write_records(tmp_path / "a.jsonl", [BOAT, absent, HARBOUR])
    check = DataCheck()
    read_all(check, tmp_path / "a.jsonl")
    assert check.errors == check.warnings == []
    assert check.lines()[-1].startswith("note: questions whose answer is not in the context: 1 of 2, ")
    write_records(tmp_path / "b.jsonl", [Record("It hailed.", "What did it do?", "It snowed.")])
    read_all(check, tmp_path / "b.jsonl")
    assert [finding.count for finding in check.warnings] == [2]
    assert check.lines()[-1].startswith("warning: ")


def test_records_beyond_the_window_are_findings_with_what_they_need():
    check = DataCheck()
    fits = check.check_window("a.jsonl", [(4, BOAT), (9, HARBOUR)], lambda record: len(record.context), 30)
    assert fits == [True, False]
    assert check.findings["overflow"].line().endswith("1, a.jsonl:9 (needs 36 of 30 positions)")
    assert check.to_dict()["window"] == 30


def test_a_text_that_cannot_be_counted_is_named_with_its_line():
    def fail(record):
        raise E2LLMError("the text encodes to the placeholder")

    with pytest.raises(E2LLMError, match=r"^a\.jsonl:4: the text encodes"):
        DataCheck().check_window("a.jsonl", [(4, BOAT)], fail, 30)


def test_what_is_left_out_is_called_so_and_an_empty_file_stays_an_error(messy, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    check = DataCheck()
    read_all(check, messy)
    read_all(check, tmp_path / "empty.jsonl")
    levels = [line.partition(":")[0] for line in check.lines(leaves_out=True)]
    assert levels == ["train", "left out", "left out", "left out", "left out", "error"]
    assert json.loads(json.dumps(check.to_dict()))["findings"][-1]["kind"] == "no_records"
