"""Models of lm_eval."""

import copy

import pytest

from e2llm import Engine
from e2llm.evaluation import harness
from tiny_models import tiny_model, tiny_processor


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_model(), tiny_processor())


@pytest.fixture
def make(engine):
    """Makes the model with settings; documents of any length are compressed."""
    return lambda **settings: harness.E2LLMHarness(engine, **{"min_context_tokens": 0, **settings})


@pytest.fixture
def plain(make):
    """Nothing is compressed, long prompts are cut off."""
    return make(soft_tokens=0, overflow="truncate")


@pytest.fixture(scope="module")
def own(engine):
    """lm_eval's `hf` model on the same decoder."""
    from lm_eval.models.huggingface import HFLM

    tokenizer = copy.deepcopy(engine.processor.tokenizer)
    return HFLM(pretrained=engine.model.language_model, tokenizer=tokenizer, device="cpu", batch_size=1)
