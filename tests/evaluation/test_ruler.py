import json
import random

import pytest
from ruler_samples import HAYSTACKS, count_pieces, count_smol, count_words, request, write_hotpot, write_squad

from e2llm.data.needles.hiding import Passage
from e2llm.errors import E2LLMError
from e2llm.evaluation.items import TaskRequest
from e2llm.evaluation.metrics import string_match_any
from e2llm.evaluation.tasks.ruler import RULER_TASKS
from e2llm.evaluation.tasks.ruler.ruler_task import Draft, longest_context

TASKS = {task.name: task for task in RULER_TASKS}
PUBLISHED_TASKS = {name: task for name, task in TASKS.items() if name != "niah_heatmap"}
PUBLISHED = {
    **{f"niah_single_{number}": 128 for number in (1, 2, 3)},
    **{f"niah_multikey_{number}": 128 for number in (1, 2, 3)},
    "niah_multivalue": 128,
    "niah_multiquery": 128,
    "vt": 30,
    "cwe": 120,
    "fwe": 50,
    "qa_1": 32,
    "qa_2": 32,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_squad(folder)
    write_hotpot(folder)
    return folder


def items(name, data, **options):
    return list(TASKS[name]().items(request(data=data, **options)))


def test_the_tasks_have_their_published_names_and_answer_lengths():
    assert {name: task.max_new_tokens for name, task in PUBLISHED_TASKS.items()} == PUBLISHED
    assert all(task.name == name for name, task in PUBLISHED_TASKS.items())
    metrics = {name for name, task in PUBLISHED_TASKS.items() if task.metric == "string_match_part"}
    assert metrics == {"qa_1", "qa_2"}


@pytest.mark.parametrize("count", [count_words, count_pieces, count_smol])
@pytest.mark.parametrize("name", TASKS)
def test_contexts_are_as_long_as_asked_and_never_longer(name, count, data):
    for item in items(name, data, limit=2, count_tokens=count, lengths=(1024, 2000, 4096, 16384)):
        length = item.groups["length_tokens"]
        assert 0.98 * length <= count(item.context) <= length


@pytest.mark.parametrize("name", TASKS)
def test_the_same_request_gives_the_same_items_and_another_seed_others(name, data):
    random.seed(1)
    first = items(name, data, lengths=(1024, 1500))
    random.seed(2)
    assert items(name, data, lengths=(1024, 1500)) == first
    assert [item.context for item in items(name, data, lengths=(1024, 1500), seed=1)] != [
        item.context for item in first
    ]


@pytest.mark.parametrize("name", PUBLISHED_TASKS)
def test_the_first_items_do_not_depend_on_the_limit_or_on_other_lengths(name, data):
    few, many = items(name, data, limit=2), items(name, data, limit=4)
    assert many[: len(few)] == few
    both = items(name, data, limit=2, lengths=(1500, 1024))
    assert [item for item in both if item.groups["length_tokens"] == 1024] == few


@pytest.mark.parametrize("name", TASKS)
def test_ids_and_groups_name_the_length(name, data):
    found = items(name, data, limit=2, lengths=(1024, 1500))
    assert [item.id for item in found[:3]] == [f"{name}-1024-0000", f"{name}-1500-0000", f"{name}-1024-0001"]
    assert len({item.id for item in found}) == len(found)
    assert {item.task for item in found} == {name}
    assert [item.groups["length_tokens"] for item in found[:2]] == [1024, 1500]


@pytest.mark.parametrize("name", PUBLISHED_TASKS)
def test_the_references_are_the_whole_score_and_nothing_is_none(name, data):
    task = TASKS[name]()
    item = items(name, data, limit=1)[0]
    assert task.score(item, " ; ".join(item.references).upper()) == {task.metric: 1.0}
    assert task.score(item, "no idea") == {task.metric: 0.0}


def test_a_part_of_several_values_is_a_part_of_the_score(data):
    item = items("niah_multivalue", data, limit=1)[0]
    assert TASKS["niah_multivalue"]().score(item, item.references[2]) == {"string_match_all": 0.25}


def test_any_reference_counts_where_one_is_enough():
    assert string_match_any("it was BLUE", ["red", "blue"]) == 1.0
    assert string_match_any("it was green", ["red", "blue"]) == 0.0


@pytest.mark.parametrize("name", ["niah_single_2", "niah_multikey_3", "vt", "cwe", "fwe"])
def test_a_million_tokens_take_few_counts(name):
    counted = []

    def count(text):
        counted.append(len(text))
        return len(text) // 4 + text.count("a") // 9

    (item,) = TASKS[name]().items(request(limit=1, count_tokens=count, lengths=(1_000_000,)))
    assert 980_000 <= len(item.context) // 4 + item.context.count("a") // 9 <= 1_000_000
    assert sum(length > 1_000_000 for length in counted) <= 6


@pytest.mark.parametrize("name", ["niah_single_1", "vt", "cwe", "fwe", "qa_1"])
def test_a_length_without_room_is_refused(name, data):
    with pytest.raises(E2LLMError, match=f"{name}: .*(too short|no question fits).*raise --lengths"):
        items(name, data, lengths=(9,))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit and lengths must be at least 1, got 0"),
        ({"lengths": ()}, r"lengths must be at least 1, got 3 and \[\]"),
        ({"lengths": (1024, 0)}, r"and \[1024, 0\]"),
        ({"haystacks": ["", " \n"]}, "the haystacks are empty; give at least"),
        ({"count_tokens": lambda text: 1}, "found no context of 1024 tokens; does count_tokens grow"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused(options, words):
    with pytest.raises(E2LLMError, match=words):
        next(TASKS["niah_single_2"]().items(request(**options)))


def test_a_rough_count_still_ends_at_the_longest_context():
    steps = Draft(lambda size: Passage("x" * size), first_size=1, prompt="", references=("x",))
    passage, size = longest_context(steps, lambda text: 300 * (len(text) // 37), 1024, None, "made")
    assert (len(passage.text), size) == (size, size)
    assert 3 * 37 <= size < 4 * 37
    exact, _ = longest_context(steps, len, 1024, 5000, "made")
    assert 1023 <= len(exact.text) <= 1024


def test_items_need_no_more_than_what_a_request_must_have():
    (item,) = TASKS["niah_single_1"]().items(TaskRequest(count_words, 1))
    assert item.groups["length_tokens"] == 4096
    assert json.dumps(dict(item.groups))
    assert HAYSTACKS[0][:40] not in item.context
