import pytest
from made_samples import QAMR_QUESTIONS, make_qamr
from sample_files import write_text

from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError


def test_only_good_questions_are_kept_and_the_others_counted(tmp_path):
    converter = DATASETS["qamr"]()
    (record,) = converter.convert(make_qamr(tmp_path), "train")
    assert (record.prompt, record.answer) == ("Who saw the made dog?", "The made cat")
    assert converter.skipped == {
        "question shorter than 4 words": 1,
        "no agreed answer": 1,
        "question does not end in '?'": 1,
    }


def test_the_authors_readable_files_give_the_same_questions(tmp_path):
    lines = ["#made:1", "The made cat saw the made dog ."]
    lines += [row["question"].ljust(50) + "\t".join(row["answers"]) for row in QAMR_QUESTIONS]
    write_text(tmp_path / "readable" / "data" / "readable" / "train.tsv", "\n".join(lines) + "\n\n")
    published = list(DATASETS["qamr"]().convert(tmp_path / "readable", "train"))
    assert published == list(DATASETS["qamr"]().convert(make_qamr(tmp_path / "rows"), "train"))


def test_all_reads_every_part_that_is_there(tmp_path):
    assert [record.id for record in DATASETS["qamr"]().convert(make_qamr(tmp_path), "all")] == [
        "made:2:1",
        "made:1:1",
    ]


def test_a_question_asked_twice_on_a_sentence_is_kept_once(tmp_path):
    text = "#made:3\nThe made cat ran .\n" + ("Who was it that ran?".ljust(50) + "The made cat\n") * 2
    write_text(tmp_path / "train.tsv", text)
    converter = DATASETS["qamr"]()
    assert len(list(converter.convert(tmp_path, "train"))) == 1
    assert converter.skipped == {"question asked before on the same sentence": 1}


def test_a_file_of_another_layout_is_an_error(tmp_path):
    write_text(tmp_path / "train.tsv", "question\tanswer\nWho?\tme\n")
    with pytest.raises(E2LLMError, match=r"train.tsv: a block is not '#ID'"):
        list(DATASETS["qamr"]().convert(tmp_path, "train"))
