import pytest

from e2llm.errors import ContextOverflowError, E2LLMError

BOATS = "".join(f"Boat number {i} is named after harbour {i * 7}. " for i in range(40))
QUESTION = "What is boat number 23 named after?"


@pytest.fixture(scope="module")
def boats(engine):
    return engine.read(BOATS, progress=False)


def decoded(engine, seen):
    return engine.processor.tokenizer.decode(seen.ids)


def test_the_chunks_that_the_question_points_at_are_given_as_text(engine, boats, seen):
    answer = engine.ask(boats, QUESTION, expand=2, max_new_tokens=2)
    assert len(answer.expanded) == 2
    assert "Boat number 23 is named" in decoded(engine, seen)
    assert answer.expanded == [
        (boats.chunks[index].start, boats.chunks[index].end) for index in answer.expanded_chunks
    ]
    assert answer.expanded_chunks == sorted(answer.expanded_chunks)


def test_a_number_expands_as_the_same_list_does(engine, boats, seen):
    by_number = engine.ask(boats, QUESTION, expand=3, max_new_tokens=5)
    ids = seen.ids
    by_list = engine.ask(boats, QUESTION, expand=by_number.expanded_chunks, max_new_tokens=5)
    assert seen.ids == ids
    assert by_list.text == by_number.text


def test_the_encoder_chooses_by_similarity(engine, boats):
    chunk = boats.chunks[7]
    answer = engine.ask(boats, chunk.text, expand=1, select="encoder", max_new_tokens=1)
    assert answer.expanded_chunks == [7]  # nothing is more similar to a text than itself


def test_a_token_budget_takes_the_place_of_a_number(engine, boats):
    answer = engine.ask(boats, QUESTION, expand_tokens=60, max_new_tokens=1)
    taken = [boats.content.token_counts[index] for index in answer.expanded_chunks]
    assert len(taken) >= 1
    assert sum(taken) <= 60
    assert engine.ask(boats, QUESTION, expand=1, expand_tokens=1000, max_new_tokens=1).expanded_chunks != []


def test_no_shared_word_means_nothing_to_expand(engine, boats):
    assert engine.ask(boats, "Zebra?", expand=3, max_new_tokens=1).expanded == []


def test_streaming_expands_as_asking_does(engine, boats):
    answer = engine.ask(boats, QUESTION, expand=2, max_new_tokens=8)
    assert "".join(engine.stream(boats, QUESTION, expand=2, max_new_tokens=8)) == answer.text


def test_a_context_beyond_the_window_is_an_error_or_reports_what_is_left_out(engine, seen):
    context = engine.read(BOATS * 20, progress=False)
    with pytest.raises(ContextOverflowError, match="overflow='select'"):
        engine.ask(context, QUESTION, max_new_tokens=8)
    answer = engine.ask(context, QUESTION, overflow="select", expand=0, max_new_tokens=8)
    assert answer.left_out > 0
    assert answer.usage.soft_tokens == len(context) - answer.left_out
    assert len(seen.ids) + 8 == engine.window
    assert answer.usage.chunks == len(context)


def test_chosen_chunks_that_do_not_fit_as_text_are_given_back(engine, boats, seen):
    with pytest.raises(ContextOverflowError):
        engine.ask(boats, QUESTION, max_new_tokens=8, expand=500)
    answer = engine.ask(boats, QUESTION, overflow="select", max_new_tokens=8, expand=500)
    assert answer.expanded_chunks
    assert len(seen.ids) + 8 <= engine.window
    with pytest.raises(ContextOverflowError):  # those that the user named are not dropped
        engine.ask(boats, QUESTION, overflow="select", expand=range(len(boats)), max_new_tokens=8)


def test_a_plan_fills_the_window_and_asking_by_it_takes_what_it_says(engine, boats, seen):
    plan = engine.fit(boats, 400, question=QUESTION, max_new_tokens=10)
    assert plan.positions + 10 <= 400
    assert len(plan.expand) >= 1
    engine.ask(boats, QUESTION, soft_tokens=plan.soft_tokens, expand=plan.expand, max_new_tokens=10)
    assert len(seen.ids) == plan.positions


def test_a_plan_for_a_window_that_is_not_there_is_refused(engine, boats):
    with pytest.raises(E2LLMError, match="window must be from 1 to the decoder's 512, got 513"):
        engine.fit(boats, 513)
