"""What holds for every data set: a new one gets a row in `SAMPLES` and is tested here."""

from pathlib import Path

import pytest
from made_samples import SAMPLES

from e2llm.data.registry import DATASETS
from e2llm.errors import E2LLMError

everyone = pytest.mark.parametrize("name", list(DATASETS))


def test_every_data_set_has_a_sample():
    assert set(SAMPLES) == set(DATASETS)


@everyone
def test_a_sample_gives_sound_records(name, tmp_path):
    make, count = SAMPLES[name]
    records = list(DATASETS[name]().convert(make(tmp_path)))
    assert len(records) == count
    assert len({record.id for record in records}) == count
    assert {record.source for record in records} <= {name}
    assert all(record.id for record in records)


@everyone
def test_converting_twice_gives_the_same_records(name, tmp_path):
    make, _ = SAMPLES[name]
    converter, source = DATASETS[name](), make(tmp_path)
    first = list(converter.convert(source))
    skipped = dict(converter.skipped)
    assert list(converter.convert(source)) == first
    assert dict(converter.skipped) == skipped


@everyone
def test_an_unknown_split_names_the_known_ones(name, tmp_path):
    make, _ = SAMPLES[name]
    with pytest.raises(E2LLMError, match=f"choose from: {DATASETS[name].splits[0]}"):
        DATASETS[name]().convert(make(tmp_path), "dress-rehearsal")


@everyone
def test_a_missing_folder_is_named_with_the_expected_layout(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*expects"):
        DATASETS[name]().convert(tmp_path / "nowhere")


@everyone
def test_an_empty_folder_is_an_error_that_says_what_is_expected(name, tmp_path):
    with pytest.raises((FileNotFoundError, E2LLMError), match="expects"):
        list(DATASETS[name]().convert(tmp_path))


@everyone
def test_it_says_what_it_is_and_where_it_comes_from(name):
    kind = DATASETS[name]
    assert kind.name == name
    assert all(len(text) > 2 for text in (kind.description, kind.licence, kind.home, kind.layout))


@pytest.mark.parametrize(
    "name",
    [
        "fairytaleqa",
        "qmsum",
        "squality",
        "sgd",
        "squad",
        "qamr",
        "tinystories",
        "govreport",
        "quality",
        "narrativeqa",
        "triviaqa",
    ],
)
def test_a_validation_split_is_read_from_its_own_place(name, tmp_path):
    make, _ = SAMPLES[name]
    converter, source = DATASETS[name](), make(tmp_path)
    split = "all" if name == "squad" else "validation"  # the only made article of squad falls into train
    assert list(converter.convert(source, split))


@pytest.mark.parametrize("name", ["squad", "covid_qa", "sgd", "factbook", "medquad", "qamr"])
def test_the_evidence_of_an_extractive_set_is_the_answer(name, tmp_path):
    make, _ = SAMPLES[name]
    for record in DATASETS[name]().convert(make(tmp_path), "train"):
        start, end = record.evidence[0]
        assert record.context[start:end] == record.answer


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in ("text", "parquet")])
def test_the_documents_list_it_with_its_splits_and_published_counts(name):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
    kind = DATASETS[name]
    assert f"| {', '.join(kind.splits)} |" in row
    counts = [f"{kind.published_counts[split]:,}" for split in kind.splits if split in kind.published_counts]
    assert " / ".join(counts[:3]) in row


@pytest.mark.parametrize("name", ["quality", "longbench_v2"])
def test_a_multiple_choice_set_lists_its_options_and_answers_with_a_letter(name, tmp_path):
    make, _ = SAMPLES[name]
    for record in DATASETS[name]().convert(make(tmp_path)):
        lettered = zip("ABCD", record.options, strict=True)
        assert all(f"\n{letter}. {text}\n" in record.prompt for letter, text in lettered)
        assert record.options["ABCD".index(record.answer)] == "the made one"
