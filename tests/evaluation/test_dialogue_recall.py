from itertools import permutations

import pytest

from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item, TaskRequest
from e2llm.evaluation.tasks import dialogue_recall as wording
from e2llm.evaluation.tasks.dialogue_recall import DialogueRecallTask


def make_items(limit=20, seed=0, lengths=(600,)):
    request = TaskRequest(lambda text: len(text.split()), limit, seed, lengths=lengths)
    return list(DialogueRecallTask().items(request))


@pytest.fixture(scope="module")
def items():
    return make_items()


def turns_of(item):
    return item.context.split("\nUser: ")


def subject_of(item):
    return item.prompt.removeprefix("What is ").split("?")[0]


def test_dialogues_are_as_long_as_asked_for(items):
    assert all(len(item.context.split()) in range(570, 601) for item in items)
    (longer,) = make_items(limit=1, lengths=(5000,))
    assert len(longer.context.split()) in range(4970, 5001)


def test_users_and_assistants_take_turns(items):
    for item in items:
        speakers = [line.split(":")[0] for line in item.context.splitlines()]
        assert speakers == ["User", "Assistant"] * (len(speakers) // 2)


def test_the_answer_is_stated_that_many_turns_ago_and_nowhere_else(items):
    for item in items:
        turns = turns_of(item)
        (place,) = [place for place, turn in enumerate(turns) if item.references[0] in turn]
        assert len(turns) - place == item.groups["turns_ago"]
        assert subject_of(item) in turns[place]


def test_turns_ago_are_powers_of_two_near_and_far(items):
    assert {item.groups["turns_ago"] for item in make_items(limit=60)} == {1, 2, 4, 8, 16}


def test_the_evidence_is_the_statement(items):
    for item in items:
        ((start, end),) = item.evidence
        assert item.context[start:end].startswith("User: ")
        assert item.references[0] in item.context[start:end]
        assert "\n" not in item.context[start:end]


def test_every_other_item_asks_for_what_was_updated(items):
    assert [item.groups["kind"] for item in items[:4]] == ["stated", "updated", "stated", "updated"]
    for item in items:
        told = [turn for turn in turns_of(item) if subject_of(item) in turn]
        assert len(told) == (2 if item.groups["kind"] == "updated" else 1)
        assert item.references[0] in told[-1]
        assert item.references[0] not in "".join(told[:-1])


def test_facts_of_others_are_told_too(items):
    for item in items:
        subjects = [text.format(owner=owner) for owner in wording.OWNERS for _, text in wording.SUBJECTS]
        assert sum(subject in item.context for subject in subjects) >= 2


def test_no_value_is_part_of_another_or_of_small_talk():
    values = [*wording.TOWNS, *wording.FIRST_NAMES, *wording.MONTHS]
    assert not [pair for pair in permutations(wording.TOWNS, 2) if pair[0].lower() in pair[1].lower()]
    said = " ".join(
        [*wording.THINGS, *wording.MOODS, *(part for pair in wording.SMALL_TALK for part in pair)]
    )
    assert not set(said.split()) & set(values)
    assert not any(character.isdigit() for character in said)


def test_no_two_facts_have_one_value(monkeypatch):
    monkeypatch.setattr(wording, "TOWNS", ("Aberdeen", "Bergen", "Cusco", "Dundee"))
    monkeypatch.setattr(wording, "SUBJECTS", [pair for pair in wording.SUBJECTS if pair[0] == "place"])
    for item in make_items(limit=12):
        assert max(item.context.count(town) for town in wording.TOWNS) == 1


def test_the_items_are_those_of_the_seed_and_do_not_depend_on_the_limit(items):
    assert make_items(limit=5) == items[:5]
    assert make_items(limit=5, seed=1) != items[:5]
    assert items[0].context[:60] != items[1].context[:60]


def test_recall_is_whether_the_latest_value_is_in_the_answer():
    item = Item("dialogue_recall", "1", "", "", ("14 May",))
    scores = [DialogueRecallTask().score(item, text)["recall"] for text in ("It is 14 may.", "13 May", "")]
    assert scores == [1.0, 0.0, 0.0]


def test_a_length_too_short_is_an_error():
    with pytest.raises(E2LLMError, match="at least 512 tokens, got 100"):
        make_items(lengths=(4096, 100))


def test_an_item_stays_what_it_is():
    (item,) = make_items(limit=1)
    assert (item.id, item.references, item.groups["turns_ago"]) == ("600-0", ("Havana",), 4)
