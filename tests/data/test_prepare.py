import pytest
from made_long_samples import make_longbench_v2
from made_samples import make_fairytaleqa, make_qmsum, make_squad, make_text

from e2llm.data.prepare import make_converter, prepare_records
from e2llm.errors import E2LLMError
from e2llm.records import Record, read_records, write_records


def test_the_report_counts_what_the_file_holds(tmp_path):
    output = tmp_path / "out" / "squad.jsonl"
    report = prepare_records("squad", make_squad(tmp_path / "in"), output, split="all")
    assert report.num_records == len(list(read_records(output))) == 2
    assert (report.num_contexts, report.num_answers, report.num_references, report.num_text_only) == (
        2,
        2,
        1,
        0,
    )
    assert (report.context_chars.min, report.context_chars.max) == (25, 50)
    assert report.num_with_evidence == 2


def test_text_only_records_are_counted(tmp_path):
    report = prepare_records("text", make_text(tmp_path / "in"), tmp_path / "o.jsonl")
    assert (report.num_text_only, report.num_answers, report.answer_chars.max) == (2, 0, 0)


def test_a_part_of_a_published_set_is_reported_as_incomplete(tmp_path):
    report = prepare_records("fairytaleqa", make_fairytaleqa(tmp_path / "in"), tmp_path / "o.jsonl")
    assert (report.published_count, report.is_complete) == (8548, False)


def test_the_default_split_is_the_first_of_the_data_set(tmp_path):
    report = prepare_records("longbench_v2", make_longbench_v2(tmp_path / "in"), tmp_path / "o.jsonl")
    assert (report.split, report.num_records, report.published_count) == ("test", 2, 503)


def test_with_a_limit_nothing_is_compared(tmp_path):
    source = make_qmsum(tmp_path / "in")
    report = prepare_records("qmsum", source, tmp_path / "o.jsonl", limit=1)
    assert (report.num_records, report.is_complete) == (1, None)


def test_at_most_so_many_questions_of_one_context_are_kept(tmp_path):
    source, output = make_squad(tmp_path / "in"), tmp_path / "o.jsonl"
    options = {"context": "article"}
    prepare_records("squad", source, output, split="all", max_per_context=1, options=options)
    assert [record.prompt for record in read_records(output)] == ["How many floors has the tower?"]


def test_options_are_read_from_text():
    options = {"lengths_chars": "300, 900", "kinds": "word", "seed": "5"}
    assert make_converter("needles", options).options == {
        "lengths_chars": (300, 900),
        "kinds": ("word",),
        "seed": 5,
    }


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("squat", {}, "unknown data set 'squat'; choose from: .*squad"),
        ("squad", {"contxt": "article"}, "its options are: context"),
        ("qmsum", {"a": "b"}, "it has no options"),
        ("needles", {"seed": "one"}, "option seed='one': input should be a valid integer"),
    ],
)
def test_unknown_names_and_values_are_errors(dataset, options, message):
    with pytest.raises(E2LLMError, match=message):
        make_converter(dataset, options)


@pytest.mark.parametrize("name", ["limit", "max_per_context"])
def test_a_limit_below_one_is_an_error(name, tmp_path):
    with pytest.raises(E2LLMError, match=f"{name} must be at least 1"):
        prepare_records("text", make_text(tmp_path / "in"), tmp_path / "o.jsonl", **{name: 0})


def test_an_older_file_stays_when_nothing_comes_out(tmp_path):
    output = tmp_path / "o.jsonl"
    write_records(output, [Record("old", "", "")])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.txt").write_text("")
    with pytest.raises(E2LLMError, match="no records were found"):
        prepare_records("text", tmp_path / "in", output)
    assert [record.context for record in read_records(output)] == ["old"]


def test_a_source_is_never_written_over(tmp_path):
    source = tmp_path / "notes.txt"
    source.write_text("my only copy")
    with pytest.raises(E2LLMError, match="is both --from and the output"):
        prepare_records("text", source, tmp_path / "x" / ".." / "notes.txt")
    assert source.read_text() == "my only copy"


def test_a_file_of_the_source_folder_is_never_written_over(tmp_path):
    (tmp_path / "notes.md").write_text("my only copy")
    with pytest.raises(E2LLMError, match="does not contain records"):
        prepare_records("text", tmp_path, tmp_path / "notes.md")
    assert (tmp_path / "notes.md").read_text() == "my only copy"


def test_records_in_the_source_folder_are_overwritten(tmp_path):
    (tmp_path / "notes.md").write_text("a text")
    for _ in range(2):
        prepare_records("text", tmp_path, tmp_path / "notes.jsonl")
    assert [record.context for record in read_records(tmp_path / "notes.jsonl")] == ["a text"]
