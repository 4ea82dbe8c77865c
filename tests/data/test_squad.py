import pytest
from made_samples import make_squad
from sample_files import write_json_lines

from e2llm.data.registry import DATASETS
from e2llm.data.sets.squad import split_of
from e2llm.errors import E2LLMError


def convert(source, split="all", **options):
    return list(DATASETS["squad"](**options).convert(source, split))


def test_a_paragraph_is_the_context_by_default(tmp_path):
    first, second = convert(make_squad(tmp_path))
    assert first.context == "The made tower has 7 floors. It was built in 1907."
    assert (first.answer, first.references, first.evidence) == ("7", ("7 floors",), ((19, 20),))
    assert second.context == "Its made garden is green."


def test_the_article_joins_its_paragraphs_and_moves_the_evidence(tmp_path):
    first, second = convert(make_squad(tmp_path), context="article")
    assert (
        first.context
        == second.context
        == ("The made tower has 7 floors. It was built in 1907.\n\nIts made garden is green.")
    )
    start, end = second.evidence[0]
    assert second.context[start:end] == "green"


def test_every_article_is_in_exactly_one_split():
    parts = {f"article {number}": split_of(f"article {number}") for number in range(1000)}
    assert set(parts.values()) == {"train", "validation"}
    assert 60 < sum(part == "validation" for part in parts.values()) < 140


def test_the_split_never_changes():
    assert split_of("Nikola Tesla") == "validation"
    assert split_of("Yuan dynasty") == "train"


def test_train_and_validation_together_are_all(tmp_path):
    rows = [
        {
            "id": str(number),
            "title": f"t{number}",
            "context": "Made 1.",
            "question": "Which?",
            "answers": ["1"],
        }
        for number in range(40)
    ]
    path = write_json_lines(tmp_path / "made_v1.1_dev.jsonl", rows)
    parts = [{record.id for record in convert(path, split)} for split in ("train", "validation", "all")]
    assert parts[0] | parts[1] == parts[2]
    assert not parts[0] & parts[1]
    assert parts[1]


def test_an_answer_said_twice_is_located_where_the_question_points(tmp_path):
    far = "x" * 150
    text = f"The gate is red. {far} The made roof of the old mill is red."
    row = {
        "id": "1",
        "title": "t",
        "context": text,
        "question": "What is the roof of the mill?",
        "answers": ["red"],
    }
    (record,) = convert(write_json_lines(tmp_path / "v1.1.jsonl", [row]))
    assert record.evidence[0][0] == text.rindex("red")


def test_an_unknown_context_option_is_an_error():
    with pytest.raises(E2LLMError, match="option context='book': input should be 'paragraph' or 'article'"):
        DATASETS["squad"](context="book")


def test_several_files_must_be_told_apart(tmp_path):
    make_squad(tmp_path)
    (tmp_path / "train-v1.1.json").write_text("{}")
    with pytest.raises(E2LLMError, match=r"several SQuAD files \(dev-v1.1.json, train-v1.1.json\)"):
        convert(tmp_path)
