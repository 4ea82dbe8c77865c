"""Fixtures for every test folder; the builders are in `tiny_models.py`."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest


@pytest.fixture
def model():
    """A tiny BERT + Llama model with the attention adapter; changed freely by the test that takes it."""
    from tiny_models import tiny_model

    return tiny_model()


@pytest.fixture
def processor():
    """The processor that belongs to `model`."""
    from tiny_models import tiny_processor

    return tiny_processor()


@pytest.fixture
def inputs(processor):
    """A ragged batch of two questions about contexts of unequal length, 2 soft tokens per chunk."""
    from tiny_models import TEXT

    return processor(context=[TEXT, TEXT[:60]], prompt=["Where is the key?", "How many boats?"])


@pytest.fixture(scope="session")
def engine():
    """One tiny engine for all tests; they leave it as they found it."""
    from e2llm import Engine
    from tiny_models import tiny_model, tiny_processor

    return Engine(tiny_model(), tiny_processor())
