"""A decoder that was trained on raw text is asked with what it was trained on, id for id."""

import pytest

from e2llm.evaluation.items import Item
from e2llm.evaluation.systems import Bm25System, ClosedBookSystem, TruncateSystem
from e2llm.evaluation.systems.base import Readings
from e2llm.inference.decoding.likelihood import likelihood
from e2llm.records import Record
from e2llm.training.recipes.objectives import ReasoningObjective
from e2llm.training.samples.text_contexts import TextContexts
from tiny_models import TEXT

SYSTEMS = {"truncate": TruncateSystem, "bm25": Bm25System, "closed_book": ClosedBookSystem}
CONTEXTS = {
    "long": TEXT * 6,
    "fitting": TEXT[:90],
    "evidence in the middle": f"{'The sea was calm. ' * 30}The key is in the boat.{' They slept well.' * 30}",
}
QUESTIONS = [
    ("Where is the key?", "under the stone"),
    ("Who slept?", "They all did, until ten."),
]


@pytest.fixture
def asked(engine, monkeypatch):
    """What a system gives the decoder before an answer, and the answer's ids."""
    given = []

    def recorded(model, input_ids, soft_tokens, target_ids):
        given.append((input_ids, soft_tokens, target_ids))
        return likelihood(model, input_ids, soft_tokens, target_ids)

    monkeypatch.setattr("e2llm.inference.engine.likelihood", recorded)

    def ask(view, record, budget):
        item = Item("made", "1", record.context, record.prompt, (record.answer,))
        SYSTEMS[view](engine, Readings(engine), budget).score(item, [record.answer])
        input_ids, soft_tokens, target_ids = given.pop()
        assert soft_tokens is None
        return list(input_ids), list(target_ids)

    return ask


@pytest.mark.parametrize("budget", [120, 200, None])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("view", SYSTEMS)
def test_a_sample_is_what_the_system_of_its_view_gives_the_decoder(engine, asked, view, context, budget):
    texts = TextContexts(engine.processor, ReasoningObjective(context="text"), None)
    for prompt, answer in QUESTIONS:
        record = Record(CONTEXTS[context], prompt, answer)
        limit = budget
        if budget is None:
            record = Record(CONTEXTS[context][:300], prompt, answer)
            limit = engine.window
        sample = texts.lay_out(record, view, limit)
        input_ids, answer_ids = asked(view, record, budget)
        assert sample.input_ids == input_ids + answer_ids
        assert sample.labels == [-100] * len(input_ids) + answer_ids
        assert len(sample.input_ids) <= limit
