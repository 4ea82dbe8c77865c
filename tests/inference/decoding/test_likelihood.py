import pytest
import torch

from e2llm.errors import ContextOverflowError, E2LLMError
from e2llm.inference.decoding.likelihood import answer_ids


def test_a_score_is_that_of_the_models_own_logits(engine, context):
    (found,) = engine.score(context, "Where is the key?", ["under the stone"], soft_tokens=2, expand=0)
    target = answer_ids(engine.processor, "under the stone")
    chunks = [chunk.text for chunk in context.chunks]
    ids = engine.processor.lay_out(chunks, "Where is the key?", num_soft_tokens=2).input_ids
    inputs = torch.tensor([[*ids, *target]])
    with torch.no_grad():
        logits = (
            engine.model(input_ids=inputs, chunk_embeds=context.kept[:, :2].flatten(0, 1))
            .logits[0]
            .log_softmax(-1)
        )
    steps = logits[len(ids) - 1 : -1].gather(1, torch.tensor(target)[:, None])
    assert found.log_likelihood == pytest.approx(steps.sum().item(), rel=1e-4)
    assert found.num_tokens == len(target)


def test_what_the_decoder_says_itself_is_likelier_per_token_than_another_answer(engine, context):
    text = engine.ask(context, "How many boats?", soft_tokens=1, expand=0, max_new_tokens=6).text
    scored = engine.score(context, "How many boats?", [text, "seven"], soft_tokens=1, expand=0)
    assert scored[0].log_likelihood / scored[0].num_tokens > scored[1].log_likelihood / scored[1].num_tokens


def test_scoring_refuses_what_is_no_option_and_no_answer(engine, context):
    with pytest.raises(E2LLMError, match="at least one answer"):
        engine.score(context, "Where?", [])
    with pytest.raises(E2LLMError, match="no option num_beams"):
        engine.score(context, "Where?", ["here"], num_beams=2)


def test_a_budget_holds_for_asking_and_scoring(engine, context, seen):
    engine.ask(context, "Where is the key?", budget=52, max_new_tokens=8)
    assert len(seen.ids) <= 52
    for call in (engine.ask, lambda *args, **options: engine.score(*args, ["here"], **options)):
        with pytest.raises(ContextOverflowError):
            call(context, "Where is the key?", budget=20)


def test_ranks_are_those_that_choose_what_is_expanded(engine, context):
    ranks = engine.rank(context, "Where is the blue stone?")
    best = max(range(len(ranks)), key=ranks.__getitem__)
    answer = engine.ask(context, "Where is the blue stone?", expand=1, soft_tokens=1, max_new_tokens=2)
    assert answer.expanded_chunks == [best]
