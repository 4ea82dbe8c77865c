from made_samples import make_factbook, make_medquad, make_openstax, make_sgd
from sample_files import write_json_lines

from e2llm.data.registry import DATASETS


def test_a_dialogue_asks_for_what_was_said_and_kept(tmp_path):
    converter = DATASETS["sgd"]()
    records = list(converter.convert(make_sgd(tmp_path), "train"))
    assert [(record.id, record.answer) for record in records] == [
        ("train:1_00000:city", "San Jose"),
        ("train:1_00000:seats", "2"),
    ]
    assert converter.skipped == {"wish changed in the dialogue": 1, "yes, no or don't care": 1}


def test_a_number_inside_another_is_not_what_was_said(tmp_path):
    turns = [{"speaker": "USER", "utterance": "At 12, a table for 2.", "slots": {"seats": ["2"]}}]
    write_json_lines(tmp_path / "sgd_train.jsonl", [{"id": "made", "turns": turns}])
    (record,) = DATASETS["sgd"]().convert(tmp_path, "train")
    assert record.context == "User: At 12, a table for 2."
    assert record.evidence == ((25, 26),)


def test_a_country_is_its_fields_under_their_sections(tmp_path):
    records = list(DATASETS["factbook"]().convert(make_factbook(tmp_path), "train"))
    assert records[0].context.startswith(
        "Madeland\n\nGeography\nArea, total: 12 sq km\nArea, land: 10 sq km\nCoastline: 3 km\n\nGovernment\n"
    )
    assert [record.answer for record in records] == ["12 sq km", "10 sq km", "3 km", "Madeland"]
    assert all("Madeland" in record.prompt for record in records)


def test_long_fields_are_not_asked_for(tmp_path):
    converter = DATASETS["factbook"]()
    assert "A made economy. " * 20 not in {
        record.answer for record in converter.convert(make_factbook(tmp_path), "train")
    }
    assert converter.skipped == {"field longer than 150 characters": 1}


def test_fact_book_rows_give_the_same_records_as_the_repository(tmp_path):
    fields = [
        {"field": "Geography > Area > total ", "text": "12 sq km"},
        {"field": "Geography > Area > land", "text": "10 sq km"},
        {"field": "Geography > Coastline", "text": "3 km"},
        {"field": "Government > Country name > conventional short form", "text": "Madeland"},
        {"field": "Economy > Overview", "text": "A made economy. " * 20},
    ]
    rows = write_json_lines(
        tmp_path / "f.jsonl", [{"file": "europe/ml.json", "name": "Madeland", "fields": fields}]
    )
    published = list(DATASETS["factbook"]().convert(make_factbook(tmp_path / "repository"), "train"))
    assert list(DATASETS["factbook"]().convert(rows, "train")) == published


def test_a_health_page_is_its_answers_without_the_questions(tmp_path):
    converter = DATASETS["medquad"]()
    first, second = converter.convert(make_medquad(tmp_path), "train")
    assert first.context == second.context == "Made Flu\n\nA flu\nthat is made up.\n\nRest."
    assert (first.prompt, first.answer) == ("What is Made Flu?", "A flu\nthat is made up.")
    assert converter.skipped == {"answer not published": 1}


def test_a_long_answer_stays_in_the_page(tmp_path):
    long = "made up " * 300
    pairs = [{"question": "What is it?", "answer": long}, {"question": "What helps?", "answer": "Rest."}]
    row = {"source": "Made", "focus": "Made Flu", "qa": pairs}
    converter = DATASETS["medquad"]()
    (record,) = converter.convert(write_json_lines(tmp_path / "m.jsonl", [row]), "train")
    assert record.answer == "Rest."
    assert long.strip() in record.context
    assert converter.skipped == {"answer longer than 2000 characters": 1}


def test_a_multiple_choice_answer_is_the_options_text(tmp_path):
    exercise, term, preface = DATASETS["openstax"]().convert(make_openstax(tmp_path), "train")
    assert exercise.prompt == "What colour are plants?\nA. red\nB. green"
    assert (exercise.answer, exercise.references) == ("green", ("B",))
    assert term.context[slice(*term.evidence[0])] == term.answer == "the juice of plants"
    assert preface.is_text_only
