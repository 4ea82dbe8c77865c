from dataclasses import asdict, replace

import pytest

from e2llm.errors import ContextOverflowError
from e2llm.evaluation.items import Item
from e2llm.evaluation.runner import answer_item, likeliest_option
from e2llm.evaluation.systems import SoftSystem
from e2llm.evaluation.systems.base import Readings
from e2llm.evaluation.tasks import TASKS
from e2llm.evaluation.tasks.continuations import PerplexityTask, RestatementTask
from e2llm.inference.decoding.likelihood import Likelihood
from tiny_models import TEXT

CHOICE = Item("quality", "1", TEXT, "Which?", ("stone",), ("boat", "a long stone", "key"), gold=1)
NEXT = Item("perplexity", "1", TEXT, "Continue the text.", (" The key is under the stone.",))


def answered(*asked):
    return asdict(answer_item(*asked))


@pytest.fixture
def system(engine):
    return SoftSystem(engine, Readings(engine), None)


def test_a_choice_is_made_by_words_and_by_the_likelihood_of_a_token(system, monkeypatch):
    # the right option is the least likely one as a whole, and the likeliest per token
    found = [Likelihood(-4.0, 2, 0, []), Likelihood(-5.0, 5, 1, []), Likelihood(-4.5, 2, 0, [])]
    asked = []
    monkeypatch.setattr(SoftSystem, "score", lambda self, item, texts: asked.append(texts) or found)
    monkeypatch.setattr(system.engine.processor, "decode_answer", lambda ids: "C")
    entry = answered(TASKS["quality"](), "mine", system, CHOICE)
    assert entry["scores"] == {"accuracy": 0.0, "accuracy_likelihood": 1.0}
    assert asked == [("boat", "a long stone", "key")]
    assert entry["likelihoods"][1] == {"log_likelihood": -5.0, "num_tokens": 5, "num_greedy": 1}
    assert (entry["prediction"], entry["system"], entry["task"]) == ("C", "mine", "quality")


def test_of_equally_likely_options_the_first_is_chosen():
    assert likeliest_option([Likelihood(-4.0, 2, 0, []), Likelihood(-2.0, 1, 0, [])]) == 0


def test_a_continuation_is_scored_by_the_likelihood_of_its_reference_alone(system):
    entry = answered(PerplexityTask(), "mine", system, NEXT)
    (found,) = system.score(NEXT, NEXT.references)
    assert entry["scores"] == {
        "token_accuracy": pytest.approx(found.token_accuracy),
        "loss_nats": pytest.approx(found.mean_loss_nats),
    }
    assert (entry["prediction"], entry["cost"], entry["given"], entry["error"]) == ("", None, None, None)


def test_a_restatement_is_generated_too_and_no_longer_than_half_as_much_again(system, monkeypatch):
    asked, answer = [], SoftSystem.answer
    monkeypatch.setattr(
        SoftSystem, "answer", lambda self, item, most: asked.append(most) or answer(self, item, most)
    )
    item = replace(NEXT, context=TEXT[:40], references=(TEXT[:40],))
    entry = answered(RestatementTask(), "mine", system, item)
    assert list(entry["scores"]) == ["character_error_rate", "bleu", "token_accuracy", "loss_nats"]
    tokens = entry["likelihoods"][0]["num_tokens"]
    assert asked == [tokens * 3 // 2 + 8]
    assert entry["cost"]["new_tokens"] <= asked[0]


@pytest.mark.parametrize("method", ["answer", "score"])
def test_a_refusal_of_either_way_is_one_of_the_item(system, monkeypatch, method):
    def refuse(*args):
        raise ContextOverflowError("too long")

    monkeypatch.setattr(SoftSystem, method, refuse)
    entry = answered(TASKS["quality"](), "mine", system, CHOICE)
    assert (entry["error"], entry["scores"], entry["prediction"]) == ("too long", {}, "")
    assert (entry["cost"], entry["likelihoods"]) == (None, [])
