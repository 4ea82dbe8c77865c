"""What cannot fit the window is refused before it is read, as it would be after."""

import pytest

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.options import AskRequest
from tiny_models import TEXT

QUESTION = "Who?"


def ask(engine, text, request, chunk_size_chars=None):
    context = engine.read(text, chunk_size_chars=chunk_size_chars, progress=False)
    options = dict(request)
    return engine.ask(context, **options)


def refusal(call):
    try:
        call()
    except ContextOverflowError as error:
        return str(error)
    return None


@pytest.mark.parametrize("soft_tokens", [1, 4])
@pytest.mark.parametrize("budget", [40, 60, 100, 200])
@pytest.mark.parametrize("chunk_size_chars", [None, 16])
def test_without_raw_chunks_it_refuses_what_asking_refuses_in_its_words(
    engine, soft_tokens, budget, chunk_size_chars
):
    request = AskRequest(
        question=QUESTION, max_new_tokens=4, soft_tokens=soft_tokens, budget=budget, expand=0
    )
    before = refusal(lambda: engine.check_room(engine.documents(TEXT), request, chunk_size_chars))
    assert before == refusal(lambda: ask(engine, TEXT, request, chunk_size_chars))


def test_both_answers_occur(engine):
    documents = engine.documents(TEXT)
    requests = [
        AskRequest(question=QUESTION, max_new_tokens=4, soft_tokens=4, budget=budget) for budget in (40, 200)
    ]
    told = [refusal(lambda request=request: engine.check_room(documents, request)) for request in requests]
    assert "too many" in told[0]
    assert told[1] is None


@pytest.mark.parametrize("options", [{"expand": 2}, {"expand": [0, 3]}, {"expand": 99}])
def test_with_raw_chunks_it_refuses_nothing_that_can_be_asked(engine, options):
    for budget in range(30, 160, 4):
        request = AskRequest(question=QUESTION, max_new_tokens=4, soft_tokens=4, budget=budget, **options)
        if refusal(lambda request=request: engine.check_room(engine.documents(TEXT), request)):
            with pytest.raises(ContextOverflowError):
                ask(engine, TEXT, request)


def test_what_is_left_out_by_choice_always_fits(engine):
    engine.check_room(
        engine.documents(TEXT * 50),
        AskRequest(question=QUESTION, max_new_tokens=4, overflow="select"),
    )


def test_soft_tokens_out_of_range_are_told_before_anything_is_read(engine):
    with pytest.raises(E2LLMError, match="soft tokens per chunk must be from 1 to 4, got 9"):
        engine.check_room(
            engine.documents(TEXT), AskRequest(question=QUESTION, max_new_tokens=4, soft_tokens=9)
        )
