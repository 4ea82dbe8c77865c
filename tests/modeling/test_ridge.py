"""The linear start of the pooling adapter."""

import pytest
import torch

from e2llm.errors import E2LLMError
from e2llm.modeling.ridge import _overlaps, init_adapter
from tiny_models import TEXT, tiny_decoder, tiny_model, tiny_processor

TEXTS = [f"{TEXT[start : start + 40]} {start}" for start in range(0, 150, 3)]


def fitted(**options):
    model = tiny_model(adapter="pooling", encoder_layers=[0, 2], **options)
    return model, init_adapter(model, tiny_processor(), TEXTS)


def test_soft_tokens_start_near_the_embeddings_of_their_words():
    _, fit = fitted()
    assert fit.r2 > 0.05
    assert fit.num_tokens > 500
    other = tiny_model(adapter="pooling", encoder_layers=[2])
    assert 0 <= init_adapter(other, tiny_processor(), TEXTS).nearest_fraction <= 1


def test_the_fit_is_what_the_adapter_computes():
    model, _ = fitted()
    texts = TEXTS[:4]
    inputs = tiny_processor().encode_chunk_texts(texts)
    states = model.encode_states(inputs["chunk_input_ids"], inputs["chunk_attention_mask"])[0, 1:5]
    one = torch.ones(1, 4)
    model.adapter.finest_rate = 1
    made = model.soften(model.keep(states[None], one), torch.tensor([4]), torch.tensor([4]))
    linear = model.adapter.projection(states)
    torch.testing.assert_close(made, linear, atol=1e-5, rtol=0)


def test_a_wider_decoder_gets_the_nearest_map_of_lower_rank():
    decoder = tiny_decoder(hidden_size=64, num_attention_heads=4)
    model = tiny_model("bert", decoder, adapter="pooling", encoder_layers=[2])
    assert model.adapter.projection.out_features == 32
    assert init_adapter(model, tiny_processor(), TEXTS).r2 > 0
    assert model.adapter.head.skip.weight.shape == (64, 32)


def test_tokens_are_matched_by_their_characters():
    encoder = [(0, 0), (0, 3), (3, 7), (8, 9), (0, 0)]
    decoder = [(0, 4), (4, 7), (7, 9)]
    assert _overlaps(encoder, decoder) == ([1, 2, 3], [[(0, 3)], [(0, 1), (1, 3)], [(2, 1)]])


def test_another_adapter_and_too_few_texts_are_refused():
    with pytest.raises(E2LLMError, match="only the pooling adapter has a linear start, got 'attention'"):
        init_adapter(tiny_model(), tiny_processor(), TEXTS)
    with pytest.raises(E2LLMError, match="needs 10 texts or more, got 3"):
        init_adapter(tiny_model(adapter="pooling"), tiny_processor(), TEXTS[:3])
