import pytest

from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item, TaskRequest
from e2llm.evaluation.tasks.continuations import NEXT_TOKENS, PerplexityTask, RestatementTask
from e2llm.prompts import UNDERSTANDING_PROMPT

LONG = " ".join(f"Sentence {number} of the long text tells a little more." for number in range(2000))
SHORT = [
    " ".join(f"Line {number} of text {name} is here." for number in range(100))
    for name in ("one", "two", "six")
]


def make_items(task, lengths=(100,), limit=5, seed=0, haystacks=(LONG,)):
    request = TaskRequest(lambda text: len(text.split()), limit, seed, None, haystacks, lengths)
    return list(task.items(request))


@pytest.fixture(params=[RestatementTask, PerplexityTask])
def task(request):
    return request.param()


def test_a_restated_text_is_its_own_reference():
    for item in make_items(RestatementTask()):
        assert item.references == (item.context,)
        assert item.context in LONG
        assert item.prompt == UNDERSTANDING_PROMPT
        assert item.groups == {"length_tokens": 100}


def test_a_restated_text_is_whole_sentences_and_no_longer_than_asked_for():
    for item in make_items(RestatementTask(), lengths=(200,)):
        assert item.context.startswith("Sentence")
        assert 100 < len(item.context.split()) <= 200


def test_a_chunk_longer_than_the_length_is_cut():
    for item in make_items(RestatementTask(), lengths=(20,)):
        assert len(item.context.split()) == 20


def test_long_lengths_are_restated_as_one_of_512():
    items = make_items(RestatementTask(), lengths=(600, 100, 4096), limit=2)
    assert [item.id for item in items] == ["512-0", "512-1", "100-0", "100-1"]


def test_the_history_ends_where_the_text_goes_on():
    for item in make_items(PerplexityTask()):
        assert f"{item.context} {item.references[0]}" in LONG
        assert len(item.context.split()) == 100
        assert len(item.references[0].split()) in range(NEXT_TOKENS - 2, NEXT_TOKENS + 1)


def test_a_passage_is_the_same_after_every_length_of_history():
    items = make_items(PerplexityTask(), lengths=(50, 200), limit=2)
    assert [item.id for item in items] == ["50-0", "50-1", "200-0", "200-1"]
    for short, long in zip(items[:2], items[2:], strict=True):
        assert short.references == long.references
        assert long.context.endswith(short.context)


def test_other_texts_stand_before_a_text_that_is_too_short():
    for item in make_items(PerplexityTask(), lengths=(900,), haystacks=SHORT):
        *_, last = item.context.split("\n\n")
        assert any(f"{last} {item.references[0]}" in text for text in SHORT)
        assert len(item.context.split()) in range(890, 901)


def test_a_history_that_no_text_has_is_an_error():
    with pytest.raises(E2LLMError, match=r"tokens before a passage, but a history of 4000 was requested"):
        make_items(PerplexityTask(), lengths=(4000,), haystacks=SHORT)


def test_the_items_are_those_of_the_seed_and_do_not_depend_on_the_limit(task):
    few = make_items(task, limit=3)
    assert few == make_items(task, limit=6)[:3]
    assert few != make_items(task, limit=3, seed=1)
    assert len({item.context for item in few}) == 3


def test_a_length_too_short_is_an_error(task):
    with pytest.raises(E2LLMError, match="at least 16 tokens, got 3"):
        make_items(task, lengths=(3,))


def test_a_generated_restatement_is_scored_also_an_empty_one():
    item = Item("restatement", "1", "", "", ("a text",))
    assert RestatementTask().score(item, "a text") == {"character_error_rate": 0.0, "bleu": 1.0}
    assert RestatementTask().score(item, "") == {"character_error_rate": 1.0, "bleu": 0.0}
    assert PerplexityTask().score(item, "a test") == {}


def test_only_the_restatement_is_generated_too():
    assert (RestatementTask.generates, PerplexityTask.generates) == (True, False)
    assert RestatementTask.kind == PerplexityTask.kind == "continue"
