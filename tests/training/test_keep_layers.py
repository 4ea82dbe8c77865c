"""Leaving out layers of a decoder."""

import pytest
import torch

from e2llm.errors import E2LLMError
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.training.build import keep_layers
from tiny_models import assert_same_model, tiny_model


def tokens():
    return torch.arange(3, 15)[None]


def test_the_layers_that_stay_are_those_named_and_in_their_order():
    model = tiny_model(decoder="llama")
    layers = list(model.language_model.model.layers)
    keep_layers(model, [1])
    assert list(model.language_model.model.layers) == layers[1:2]
    assert model.config.text_config.num_hidden_layers == 1


def test_a_shallower_model_is_saved_and_loaded_as_such(tmp_path):
    model = tiny_model(decoder="llama")
    keep_layers(model, [1])
    model.save_pretrained(tmp_path / "model", self_contained=True)
    loaded = E2LLMForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert_same_model(model, loaded, {"input_ids": tokens()})


def test_generation_with_a_cache_gives_what_one_without_gives():
    model = tiny_model(decoder="llama")
    keep_layers(model, [1])
    options = {"max_new_tokens": 6, "do_sample": False}
    cached = model.generate(tokens(), use_cache=True, **options)
    assert cached.tolist() == model.generate(tokens(), use_cache=False, **options).tolist()


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(E2LLMError, match=r"layers 0 to 1, got \[0, 7\]"):
        keep_layers(tiny_model(decoder="llama"), [0, 7])


def test_a_decoder_without_a_list_of_layers_is_refused():
    with pytest.raises(E2LLMError, match="no list of layers"):
        keep_layers(tiny_model(decoder="gpt2"), [0])
