"""The rate in evaluations: systems, their names on a command line, and lm_eval's requests."""

import pytest
import torch

from e2llm import Engine
from e2llm.errors import E2LLMError
from e2llm.evaluation.items import Item
from e2llm.evaluation.systems import HybridSystem, SoftSystem, create_systems, parse_systems
from e2llm.evaluation.systems.base import Readings
from tiny_models import TEXT, tiny_pooling_model, tiny_processor

LONG = Item("made", "1", TEXT * 6, "Where is the key?", ("under the stone",))


@pytest.fixture(scope="module")
def pooled():
    return Engine(tiny_pooling_model(), tiny_processor())


@pytest.fixture
def untrained():
    return Engine(tiny_pooling_model(trained_on=None), tiny_processor())


@pytest.mark.parametrize(("text", "rate"), [("e2llm:rate=8", 8), ("e2llm:rate=one:expand=1", "one")])
def test_a_system_has_the_rate_of_its_name(pooled, text, rate):
    (spec,) = parse_systems(text)
    assert spec.options["rate"] == rate
    (system,) = create_systems([spec], lambda _: pooled, None).values()
    output = system.answer(LONG, 8)
    assert output.given["rate"] == rate
    assert output.given["soft_tokens_per_chunk"] > 0
    assert system.score(LONG, ["under"])[0].log_likelihood < 0


@pytest.mark.parametrize("value", ["3", "two", "1.5"])
def test_a_rate_that_is_none_is_refused_with_the_systems_name(value):
    with pytest.raises(E2LLMError, match=rf"e2llm:rate={value}: rate must be a power of two"):
        parse_systems(f"e2llm:rate={value}")


def test_a_system_is_refused_before_anything_is_asked(pooled, engine):
    with pytest.raises(E2LLMError, match="use rate"):
        SoftSystem(pooled, Readings(pooled), None, soft_tokens=2)
    with pytest.raises(E2LLMError, match="use soft_tokens"):
        SoftSystem(engine, Readings(engine), None, rate=2)


@pytest.mark.parametrize("system", [SoftSystem, HybridSystem])
def test_no_system_takes_more_positions_than_the_budget(pooled, system):
    output = system(pooled, Readings(pooled), 200).answer(LONG, 8)
    assert 0 < output.cost.decoder_positions + 8 <= 200
    assert output.given["soft_tokens_per_chunk"] > 0
    assert bool(output.given["raw_spans"]) == (system is HybridSystem)


@pytest.mark.filterwarnings("ignore:the adapter of this model")
@pytest.mark.parametrize("system", [SoftSystem, HybridSystem])
def test_an_untrained_adapter_gives_raw_chunks_and_says_so(untrained, system):
    output = system(untrained, Readings(untrained), 200).answer(LONG, 8)
    assert output.given["soft_tokens_per_chunk"] == 0
    assert output.given["raw_spans"]
    assert "not trained" in output.given["note"]


# --- lm_eval ------------------------------------------------------------------------------------------------

pytest.importorskip("lm_eval", reason="lm_eval is not installed; it comes with: pip install 'e2llm[harness]'")
from harness_requests import PROMPT, ROW, STORY, ask, likelihood  # noqa: E402

from e2llm.evaluation import harness  # noqa: E402


def model_of(engine, **settings):
    return harness.E2LLMHarness(engine, **{"min_context_tokens": 0, **settings})


@pytest.mark.parametrize("rate", [2, "8", "one"])
def test_soft_tokens_at_the_rate_stand_where_the_document_stood(pooled, rate):
    model = model_of(pooled, rate=rate)
    laid = model.layout.lay_out(PROMPT, ROW, 400)
    context = pooled.read(STORY, progress=False)
    plan = pooled.lay_out(context, _request(model.settings.rate)).plan
    assert laid.head.count(pooled.processor.chunk_token_id) == len(laid.soft_tokens) == sum(plan.counts)
    assert laid.num_context_positions == sum(plan.counts)


def _request(rate):
    from e2llm.inference.options import AskRequest

    return AskRequest(question="Where is the key?", max_new_tokens=1, rate=rate, expand=0)


def test_the_likelihood_after_soft_tokens_is_the_models_loss(pooled):
    model = model_of(pooled, rate=2)
    laid = model.layout.lay_out(PROMPT, ROW, 400)
    tail = pooled.processor.tokenizer(laid.tail, add_special_tokens=False).input_ids
    answer = pooled.processor.tokenizer(" under", add_special_tokens=False).input_ids
    ids = [*laid.head, *tail]
    labels = torch.tensor([[-100] * len(ids) + answer])
    with torch.no_grad():
        loss = pooled.model(torch.tensor([ids + answer]), labels=labels, chunk_embeds=laid.soft_tokens).loss
    found = likelihood(model, PROMPT, " under", ROW)[0]
    assert found == pytest.approx(-loss.item() * len(answer), abs=1e-3)
    assert found != pytest.approx(
        likelihood(model_of(pooled, rate="one"), PROMPT, " under", ROW)[0], abs=1e-4
    )
    assert ask(model, PROMPT, ROW, max_gen_toks=4) == ask(
        model_of(pooled, rate=2), PROMPT, ROW, max_gen_toks=4
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rate": "3"}, "power of two"),
        ({"rate": 4, "soft_tokens": 2}, "soft_tokens and rate exclude each other"),
        ({"soft_tokens": 2}, "use rate"),
        ({"rate": 1}, "finest_rate=1"),
    ],
)
def test_settings_that_do_not_work_are_refused(pooled, settings, words):
    with pytest.raises(E2LLMError, match=words):
        model_of(pooled, **settings)


@pytest.mark.filterwarnings("ignore:the adapter of this model")
def test_an_untrained_adapter_leaves_the_prompt_as_text(untrained):
    model = model_of(untrained)
    laid = model.layout.lay_out(PROMPT, ROW, 400)
    assert (laid.soft_tokens, laid.num_left_out) == (None, 0)
    assert STORY.split()[-1] in laid.tail
    short = model.layout.lay_out(PROMPT, ROW, 60)
    assert short.soft_tokens is None
    assert short.num_left_out > 0
