import pytest

from e2llm import Record
from e2llm.evaluation.items import TaskRequest
from e2llm.evaluation.metrics import token_f1
from e2llm.evaluation.tasks.record_tasks import RestatedRecordsTask
from e2llm.evaluation.tasks.stretches import runs_of_chunks
from e2llm.prompts import UNDERSTANDING_PROMPT
from e2llm.records import write_records

SENTENCES = [f"Sentence number {number} of the long story says nothing at all." for number in range(400)]


def count(text):
    return len(text.split())


def make_items(file, limit=100, lengths=(120,)):
    request = TaskRequest(count, limit, lengths=lengths)
    return list(RestatedRecordsTask(file).items(request))


@pytest.fixture
def file(tmp_path):
    long = Record(" ".join(SENTENCES), "", "", id="long")
    asked = Record("A short text. With two sentences.", "Who?", "Nobody", id="short")
    write_records(tmp_path / "records.jsonl", [long, asked, asked])
    return tmp_path / "records.jsonl"


def test_passages_are_spread_over_each_context_and_restated(file):
    items = make_items(file)
    long = sorted(
        (item for item in items if item.id.startswith("long")), key=lambda item: int(item.id.split("/")[2])
    )
    starts = [" ".join(SENTENCES).index(item.context) for item in long]
    assert (len(items), len(long)) == (9, 8)
    assert starts == sorted(starts)
    assert starts[0] < len(" ".join(SENTENCES)) / 8
    assert starts[-1] > len(" ".join(SENTENCES)) * 6 / 8
    for item in items:
        assert item.references == (item.context,)
        assert item.prompt == UNDERSTANDING_PROMPT
        assert 0 < count(item.context) <= 120


def test_every_length_has_its_passages_none_beyond_the_longest(file):
    items = make_items(file, lengths=(40, 120, 512, 4096))
    assert {item.id.split("/")[1] for item in items} == {"40", "120", "512"}
    assert len({item.id for item in items}) == len(items)


def test_a_smaller_limit_chooses_some_of_the_passages(file):
    assert {item.id for item in make_items(file, 3)} < {item.id for item in make_items(file)}


def test_restatements_are_scored_by_characters_and_words(file):
    (item,) = make_items(file, 1)
    assert RestatedRecordsTask(file).score(item, item.context) == {
        "character_error_rate": 0.0,
        "bleu": pytest.approx(1),
    }


def test_runs_of_chunks_leave_out_nothing_that_fits():
    text = " ".join(SENTENCES)
    runs = list(runs_of_chunks(text, 120, count))
    assert token_f1(" ".join(runs), [text]) == 1.0
    assert [count(run) <= 120 for run in runs] == [True] * len(runs)
    assert min(count(run) for run in runs[:-1]) > 60


def test_of_a_chunk_that_is_too_long_the_beginning_is_given():
    runs = list(runs_of_chunks(" ".join(SENTENCES[:20]), 10, count))
    assert runs[0] == "Sentence number 0 of the long story says nothing at"
    assert all(0 < count(run) <= 10 for run in runs)
