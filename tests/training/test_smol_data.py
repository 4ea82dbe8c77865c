"""The data of the recipe smol, on tiny made sets."""

import importlib
import json
import lzma
import random
import sys
from pathlib import Path

import pytest

from e2llm.errors import E2LLMError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes" / "smol"


@pytest.fixture(scope="module")
def load():
    """Imports a module of the recipe, whose folder is no package."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))


@pytest.fixture
def raw(load, tmp_path):
    """Packs rows as an xz file of JSON lines; returns the raw folder that holds it."""

    def pack(name, *rows):
        with lzma.open(tmp_path / f"{name}.jsonl.xz", "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        return load("smol_raw").Raw(tmp_path, tmp_path / "scratch")

    return pack


def evidence(record):
    return [record.context[slice(*span)] for span in record.evidence]


# --- sets -------------------------------------------------------------------------------------------------


def test_nq_has_normal_spacing_and_no_training_page_of_the_dev_part(load, raw):
    row = {
        "id": 1,
        "question": "who made it",
        "passage": "Ann 's `` cat '' ( 1907 ) made it .",
        "answers": ["Ann"],
    }
    packed = raw(
        "nq_qed",
        {**row, "split": "train", "title": "Cat"},
        {**row, "split": "train", "title": "Dog"},
        {**row, "split": "dev", "title": "Dog"},
    )
    ((title, record),) = load("smol_sets").nq_qed(packed, "train")
    assert (title, record.prompt, record.answer) == ("Cat", "Who made it?", "Ann")
    assert record.context == 'Ann\'s "cat" (1907) made it.'
    assert evidence(record) == ["Ann"]


def test_boolq_is_answered_with_yes_or_no(load, raw):
    row = {"question": "is it made", "passage": "Made -- It is made."}
    packed = raw("boolq_train2k_dev", {**row, "answer": "True"}, {**row, "answer": "False"})
    found = list(load("smol_sets").boolq(packed))
    assert [record.answer for _, record in found] == ["yes", "no"]
    assert found[0][0] == "Made"
    assert found[0][1].prompt == "Is it made?"


def test_quoref_splits_passage_and_question_and_joins_answers(load, raw):
    packed = raw(
        "quoref_sample", {"input": "Passage: Ann met Bob. \nQuestion: Who met?", "output": ["Ann.", "Bob."]}
    )
    ((_, record),) = load("smol_sets").quoref(packed)
    assert (record.context, record.prompt, record.answer) == ("Ann met Bob.", "Who met?", "Ann, Bob")
    assert evidence(record) == ["Ann", "Bob"]


def test_policyqa_takes_the_shortest_answer(load, raw):
    answers = [{"text": "We keep made data.", "answer_start": 0}, {"text": "made data", "answer_start": 8}]
    qas = [{"question": "What is kept?", "answers": answers}]
    packed = raw("policyqa_dev_test", {"policy": "made.com", "context": "We keep made data.", "qas": qas})
    ((policy, record),) = load("smol_sets").policyqa(packed)
    assert (policy, record.answer, record.references) == ("made.com", "made data", ("We keep made data.",))
    assert evidence(record) == ["made data"]


def test_pubmedqa_joins_the_parts_of_an_abstract(load, raw):
    row = {
        "pmid": "1",
        "QUESTION": "Does it work?",
        "CONTEXTS": ["A made trial.", "It worked."],
        "final_decision": "yes",
    }
    ((_, record),) = load("smol_sets").pubmedqa(raw("pubmedqa_labelled", row))
    assert (record.context, record.answer) == ("A made trial.\n\nIt worked.", "yes")


@pytest.mark.parametrize("has_distractors", [True, False])
def test_hotpotqa_marks_the_supporting_sentences(load, raw, has_distractors):
    row = {
        "id": "1",
        "question": "Where is it?",
        "answer": "Here",
        "context": {"title": ["A", "B", "C"], "sentences": [["One.", " Two."], ["No."], ["Three.", "Here."]]},
        "supporting_facts": {"title": ["A", "C"], "sent_id": [1, 1]},
    }
    ((_, record),) = load("smol_sets").hotpotqa(
        raw("hotpotqa_distractor_1100", row), has_distractors=has_distractors
    )
    assert evidence(record) == ["Two.", "Here."]
    assert ("No." in record.context) == has_distractors


def test_timeqa_finds_the_answer_that_is_meant_and_leaves_out_what_has_none(load, raw):
    page = "Bo led it in 1907 . Later Bo , again , led it ."
    start = page.rindex("Bo")
    row = {
        "idx": "/wiki/It#1",
        "question": "Who led it later?",
        "context": page,
        "targets": ["Bo"],
        "from": [start],
    }
    packed = raw("timeqa_human_train_easy", row, {**row, "targets": [""], "from": [0]})
    raw("timeqa_human_train_hard")
    ((name, record),) = load("smol_sets").timeqa(packed, whole=True)
    assert name == "It"
    assert record.context == "Bo led it in 1907. Later Bo, again, led it."
    assert record.evidence[0][0] == record.context.rindex("Bo")


def test_an_instruction_without_text_is_its_own_context(load, raw):
    row = {"instruction": "Say hello.", "context": "", "response": "Hello.", "category": "open_qa"}
    packed = raw("dolly_15k", row, {**row, "response": "word " * 61}, {**row, "context": "Made [1] text."})
    sets = load("smol_sets")
    ((_, record),) = sets.dolly(packed, has_context=False)
    assert (record.context, record.prompt, record.answer) == ("Say hello.", "Say hello.", "Hello.")
    ((_, record),) = sets.dolly(packed, has_context=True)
    assert record.context == "Made  text."


def test_a_sentence_is_quoted_unless_its_answer_is_known(load, raw):
    rows = [
        {"question": f"Number {number}?", "sentence": f"Sentence {number} is made."} for number in range(8)
    ]
    packed = raw("squad_train_question_sentence", *rows)
    found = load("smol_sets").squad_sentences(packed, {"Number 3?": "made"}, lambda text: "7" in text)
    records = [record for _, record in found]
    assert len(records) == 7
    assert (records[3].context, records[3].answer) == ("Sentence 3 is made.", "made")
    assert all(evidence(record) == [record.answer] for record in records)
    assert not any("Sentence 7" in record.context for record in records)


def test_a_missing_set_is_named(load, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nq_qed.jsonl.xz"):
        list(load("smol_sets").nq_qed(load("smol_raw").Raw(tmp_path, tmp_path), "train"))


def test_a_damaged_set_is_named(load, tmp_path):
    (tmp_path / "nq_qed.jsonl.xz").write_bytes(b"no xz")
    with pytest.raises(E2LLMError, match=r"nq_qed.jsonl.xz: not an xz file"):
        list(load("smol_sets").nq_qed(load("smol_raw").Raw(tmp_path, tmp_path), "train"))


# --- texts ------------------------------------------------------------------------------------------------


def test_a_window_holds_its_span_and_whole_sentences(load):
    text = " ".join(f"Sentence number {number} is here." for number in range(400))
    start = text.index("number 200")
    for seed in range(20):
        cut = load("smol_text").window(text, ((start, start + 10),), random.Random(seed))
        (span,) = cut.spans
        assert cut.text[slice(*span)] == "number 200"
        assert cut.text.startswith("Sentence")
        assert cut.text.endswith(".")
        assert len(cut.text) <= 4000


def test_pieces_do_not_overlap_and_are_of_the_wanted_length(load):
    text = " ".join(f"Sentence number {number} is here." for number in range(4000))
    found = load("smol_text").pieces(text, 6, random.Random(1), 2000, 8000)
    assert len(found) == 6
    assert all(900 <= len(piece) <= 8000 for piece in found)
    places = [text.index(piece) for piece in found]
    assert all(a + len(piece) <= b for a, b, piece in zip(places, places[1:], found, strict=False))


def test_wrapped_lines_are_joined_and_verse_is_kept(load):
    wrapped = "\n".join(["These are the words of a paragraph that was wrapped by hand"] * 3)
    joined = load("smol_text").unwrap(f"{wrapped}\n\nRoses\nare red")
    assert joined == f"{wrapped}\n\nRoses\nare red".replace("hand\nThese", "hand These")


# --- parts ------------------------------------------------------------------------------------------------


def test_parts_follow_the_name_alone_and_keep_contracts_of_a_company_together(load):
    parts = load("smol_parts")
    shares = [parts.part_of("covid_qa", f"paper {number}") for number in range(2000)]
    assert 0.29 < shares.count("test") / 2000 < 0.38
    assert 0.035 < shares.count("validation") / 2000 < 0.065
    assert len({parts.part_of("cuad", f"MADE INC_{number}-EX") for number in range(50)}) == 1
    assert "test" not in {parts.part_of("boolq", f"page {number}") for number in range(500)}


def test_the_guard_tells_pieces_of_held_out_texts(load):
    words = [f"word{number}" for number in range(200)]
    guard = load("smol_prose").Guard([" ".join(words)])
    assert guard.is_held("Once, " + ", ".join(words[50:100]))
    assert guard.is_held("They lived in Avonlea.")
    assert not guard.is_held(" ".join(reversed(words)))


def test_hidden_facts_are_not_in_the_words_of_ruler(load):
    hay = [" ".join(f"Sentence number {number} is here." for number in range(400))]
    for name in load("smol_prose").NEEDLES:
        records = list(load("smol_prose").hidden_facts(name, "validation", hay))
        assert len(records) > 100
        assert not any("special magic" in record.context + record.prompt for record in records)


def test_no_context_is_in_two_parts_and_none_is_of_the_held_out_book(load):
    prepare = load("prepare")
    record = importlib.import_module("e2llm.records").Record
    files = {
        "a": {
            "train": [record("One.", "", ""), record("Two.", "", ""), record("Anne of Avonlea.", "", "")],
            "validation": [record("Two. ", "", "")],
            "test": [record("Three.", "Q?", "A"), record("Three.", "Q?", "A")],
        }
    }
    prepare.clean(files)
    assert {part: [item.context for item in records] for part, records in files["a"].items()} == {
        "train": ["One."],
        "validation": ["Two. "],
        "test": ["Three."],
    }


# --- questions of the demo --------------------------------------------------------------------------------


def test_the_questions_on_the_book_are_answered_where_they_say():
    text = (ROOT / "examples" / "anne_of_green_gables.txt").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in (FOLDER / "anne_questions.jsonl").open(encoding="utf-8")]
    assert len(rows) == 20
    for row in rows:
        quote = " ".join(text[start:end] for start, end in row["evidence"])
        assert quote == row["quote"]
        assert any(answer.lower() in quote.lower() for answer in row["answers"])


def test_the_contract_that_is_asked_about_is_held_out(load):
    rows = [json.loads(line) for line in (FOLDER / "contract_questions.jsonl").open(encoding="utf-8")]
    assert len(rows) == 20
    assert {load("smol_parts").part_of("cuad", row["contract"]) for row in rows} == {"test"}
    assert all(any(answer.lower() in row["quote"].lower() for answer in row["answers"]) for row in rows)
