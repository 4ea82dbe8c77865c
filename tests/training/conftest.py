"""Fixtures of the tests of training."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from small_parts import make_recipe, save_decoder, save_encoder


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Draw no curves, which takes longer than the runs, unless the test takes the fixture `pictures`."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("e2llm.training.console.has_matplotlib", lambda: False)


@pytest.fixture
def pictures():
    """Curves are drawn in this test."""
    pytest.importorskip("matplotlib")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """Folder of a tiny random encoder."""
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def steady_encoder(tmp_path_factory):
    """The same without dropout, for runs that train it and must agree."""
    folder = tmp_path_factory.mktemp("steady")
    return save_encoder(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.fixture(scope="session")
def decoder(tmp_path_factory):
    """Folder of a tiny random decoder."""
    return save_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture
def recipe_of(tmp_path, encoder, decoder):
    """Makes a small recipe in the test's folder; keyword arguments change its sections."""
    return lambda **sections: make_recipe(tmp_path, encoder, decoder, **sections)
