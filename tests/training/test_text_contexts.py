import pickle
import random
from collections import Counter

import pytest
import torch
from small_parts import STORY, questions, weights

from e2llm.errors import E2LLMError
from e2llm.inference.engine import Engine
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.records import Record, write_records
from e2llm.training.overfit import overfit, overfit_recipe
from e2llm.training.recipe import load_recipe
from e2llm.training.recipes.objectives import ReasoningObjective
from e2llm.training.run import train
from e2llm.training.samples.data_check import open_parts, read_data
from e2llm.training.samples.data_files import load_sources
from e2llm.training.samples.sample_set import SampleSet
from e2llm.training.samples.text_contexts import TextContexts

DIAL = [1, 2, 4, 8]


@pytest.fixture
def text_recipe(recipe_of):
    """A recipe that trains the decoder on raw text; keyword arguments change sections and reasoning keys."""

    def make(reasoning=None, **sections):
        objectives = {
            "understanding": {"fraction": 0.0},
            "soft_tokens": DIAL,
            "reasoning": {"context": "text", **(reasoning or {})},
            **sections.pop("objectives", {}),
        }
        adapter = {"mode": "frozen", **sections.pop("adapter", {})}
        return recipe_of(objectives=objectives, adapter=adapter, **sections)

    return make


@pytest.fixture
def processor(encoder, decoder):
    return E2LLMProcessor.from_parts(encoder, decoder, chunk_size_chars=64)


LONG = Record(f"{STORY * 4}The number of the boat is 1007. {STORY * 4}", "Which number has the boat?", "1007")


def test_views_are_drawn_by_their_weights(processor):
    settings = ReasoningObjective(context="text", text_views={"truncate": 0, "bm25": 3, "closed_book": 1})
    texts = TextContexts(processor, settings, 256)
    named = {
        tuple(texts.lay_out(LONG, view, 256).input_ids): view for view in ("truncate", "bm25", "closed_book")
    }
    assert len(named) == 3
    rng = random.Random(0)
    seen = Counter(named[tuple(texts.draw([LONG], rng).input_ids)] for _ in range(200))
    assert set(seen) == {"bm25", "closed_book"}
    assert 120 < seen["bm25"] < 180


def test_samples_fill_the_drawn_budgets_and_no_more(processor):
    views = {"truncate": 1, "bm25": 0, "closed_book": 0}
    settings = ReasoningObjective(context="text", text_views=views, text_budgets=[128, 400])
    texts = TextContexts(processor, settings, 1024)
    rng = random.Random(0)
    lengths = {len(texts.draw([LONG], rng).input_ids) for _ in range(40)}
    assert max(lengths) <= 400
    assert len(lengths) == 2
    assert 100 < min(lengths) <= 128


def test_a_sample_set_draws_the_same_again_and_travels_to_workers(text_recipe, processor):
    recipe = text_recipe()
    samples = SampleSet(load_sources(recipe.data.train), recipe, processor, 30, window=256)
    drawn = [samples[index] for index in range(30)]
    copy = pickle.loads(pickle.dumps(samples))  # noqa: S301
    assert [copy[index] for index in reversed(range(30))] == drawn[::-1]
    assert all(not sample.decoder_input.chunks for sample in drawn)
    assert len({len(sample.decoder_input.input_ids) for sample in drawn}) > 1


@pytest.mark.parametrize(
    ("reasoning", "sections", "message"),
    [
        ({"max_chunks": 4}, {}, "max_chunks has no effect with context: text; leave it out"),
        (
            {"turns": 2, "max_chunks": 1, "distractor_fraction": 0.2},
            {},
            "max_chunks, distractor_fraction",
        ),
        (
            {"context": "soft_tokens", "text_budgets": [64]},
            {},
            "text_budgets has no effect with context",
        ),
        ({"text_views": dict.fromkeys(("truncate", "bm25", "closed_book"), 0)}, {}, "text_views are all 0"),
        ({"context": "words"}, {}, r"objectives\.reasoning\.context: .*'soft_tokens' or 'text', got 'words'"),
        ({}, {"objectives": {"understanding": {"fraction": 0.2}}}, r"set understanding\.fraction: 0"),
        ({}, {"objectives": {"soft_tokens": [8, 4]}}, r"soft_tokens has no effect with reasoning\.context"),
        (
            {},
            {"encoder": {"mode": "lora"}},
            r"trains the decoder alone, got encoder\.mode: lora",
        ),
        (
            {},
            {"adapter": {"mode": "full"}},
            r"alone, got adapter\.mode: full; set adapter",
        ),
    ],
)
def test_keys_without_a_meaning_beside_raw_text_are_refused(text_recipe, reasoning, sections, message):
    with pytest.raises(E2LLMError, match=message):
        text_recipe(reasoning, **sections)


def test_a_budget_beyond_the_window_is_refused_before_the_weights_are_loaded(text_recipe):
    recipe = text_recipe({"text_budgets": [64, 4096]})
    data = read_data(recipe)
    with pytest.raises(
        E2LLMError, match=r"text_budgets has 4096, but the decoder's window has 1024 positions"
    ):
        data.check_window(*open_parts(recipe))


def test_a_question_beyond_the_smallest_budget_is_found_at_the_start_and_a_long_context_is_not(
    text_recipe, tmp_path
):
    recipe = text_recipe({"text_budgets": [96, 512]}, data={"validation_fraction": 0.0})
    long = Record(STORY * 30, "Which number, " * 20, "1", id="long")
    write_records(tmp_path / "questions.jsonl", [LONG, long, *questions(3)])
    data = read_data(recipe)
    data.check_window(*open_parts(recipe))
    found = data.check.findings["overflow"]
    assert [example.split(" ")[0] for example in found.examples] == [f"{tmp_path / 'questions.jsonl'}:2"]
    with pytest.raises(E2LLMError, match=r"record 'long' need \d+ positions, but the budget is 96; raise"):
        TextContexts(open_parts(recipe)[0], recipe.objectives.reasoning, 1024).lay_out(long, "bm25", 96)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_the_decoder_goes_on_and_the_rest_stays_without_a_pass_of_the_encoder(
    recipe_of, text_recipe, mode, monkeypatch
):
    short = {"steps": 2, "evaluate_samples": 1}
    start = train(recipe_of(stage="start", decoder={"mode": mode}, train=short)).folder
    recipe = text_recipe(
        stage="text", init_from=str(start), decoder={"mode": mode}, train={**short, "packing": mode == "full"}
    )

    def fail(*arguments):
        raise AssertionError("the encoder was run")

    with monkeypatch.context() as patch:
        patch.setattr(E2LLMForConditionalGeneration, "encode_states", fail)
        result = train(recipe)
    assert set(result.eval_losses) == {"reasoning_loss"}
    before, after = weights(start), weights(result.folder)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert not any(name.startswith("adapter.") for name in changed)
    assert set(after) == set(before)
    assert load_recipe(recipe.folder / "recipe.yaml") == [recipe]
    engine = Engine.from_pretrained(result.folder)
    answer = engine.ask(engine.read(STORY, progress=False), "Who?", policy="soft", max_new_tokens=2)
    assert answer.usage.soft_tokens > 0


def test_learning_by_heart_keeps_to_one_view_and_one_budget(text_recipe, tmp_path):
    views = {"truncate": 1, "bm25": 2, "closed_book": 0}
    recipe = text_recipe({"text_budgets": [128, 256], "text_views": views})
    changed = overfit_recipe(recipe, tmp_path / "records.jsonl", 2, 3).objectives.reasoning
    assert changed.text_views == {"bm25": 1.0}
    assert changed.text_budgets == [256]
    assert overfit(recipe, 2, num_steps=2).run.steps == 2
