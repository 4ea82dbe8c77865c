import pytest
from made_samples import make_fairytaleqa, make_storybooks, make_tinystories
from sample_files import write_json_lines, write_text

from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError


def test_tinystories_are_cut_at_the_separator(tmp_path):
    records = list(DATASETS["tinystories"]().convert(make_tinystories(tmp_path), "train"))
    assert [record.context for record in records] == ["One day.\nThe end.", "A made dog ran."]


def test_a_story_cut_off_at_the_end_of_a_shard_is_left_out(tmp_path):
    path = write_text(tmp_path / "train_0.txt", "Whole.\n<|endoftext|>\nThen the made do")
    converter = DATASETS["tinystories"]()
    assert len(list(converter.convert(path, "train"))) == 1
    assert converter.skipped == {"story cut off at the end of its file": 1}


def test_a_file_without_separators_is_not_tinystories(tmp_path):
    path = write_text(tmp_path / "train_0.txt", "Just some text.")
    with pytest.raises(E2LLMError, match=r"train_0\.txt: no <\|endoftext\|>"):
        list(DATASETS["tinystories"]().convert(path, "train"))


def test_a_storybook_is_its_title_and_its_pages(tmp_path):
    (record,) = DATASETS["storybooks"]().convert(make_storybooks(tmp_path), "train")
    assert record.context == "A made tree\n\nHere is a tree.\nIt is made."


def test_storybooks_read_rows_too(tmp_path):
    write_json_lines(tmp_path / "s.jsonl", [{"id": "1", "title": "T", "pages": ["One.", "", "Two."]}])
    (record,) = DATASETS["storybooks"]().convert(tmp_path, "train")
    assert (record.id, record.context) == ("1", "T\n\nOne.\nTwo.")


def test_a_storybook_under_another_licence_is_left_out(tmp_path):
    write_text(tmp_path / "1_x.md", "# T\n\n##\nOne.\n\n##\n* License: [CC-BY-NC]\n")
    converter = DATASETS["storybooks"]()
    assert list(converter.convert(tmp_path, "train")) == []
    assert converter.skipped == {"licence other than CC BY": 1}


def test_fairytaleqa_joins_the_sections_and_marks_the_gold_ones(tmp_path):
    (record,) = DATASETS["fairytaleqa"]().convert(make_fairytaleqa(tmp_path), "train")
    assert record.context == "Once a made king lived.\n\nHe had a made hat.\n\nThe end."
    gold = [record.context[start:end] for start, end in record.evidence]
    assert gold == ["Once a made king lived.", "He had a made hat."]


def test_fairytaleqa_keeps_each_further_answer_once(tmp_path):
    (record,) = DATASETS["fairytaleqa"]().convert(make_fairytaleqa(tmp_path), "train")
    assert (record.answer, record.references) == ("a hat", ("A made hat.",))


def test_a_fairytaleqa_story_that_is_missing_is_named(tmp_path):
    source = make_fairytaleqa(tmp_path)
    (source / "data-by-train-split/section-stories/train/made-tale-story.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"made-tale-story\.csv"):
        list(DATASETS["fairytaleqa"]().convert(source, "train"))


def test_a_fairytaleqa_file_without_its_columns_is_named(tmp_path):
    source = make_fairytaleqa(tmp_path)
    path = source / "data-by-train-split/questions/train/made-tale-questions.csv"
    path.write_text("question_id,question\n1,Why?\n")
    with pytest.raises(E2LLMError, match="no column cor_section, answer1"):
        list(DATASETS["fairytaleqa"]().convert(source, "train"))
