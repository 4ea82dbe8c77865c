import pytest
import torch

from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.training.state_cache import EncoderStateCache

TEXTS = ["The harbour lights went out.", "Seven boats.", "The key was under the blue stone."]


@pytest.fixture
def processor(encoder, decoder):
    return E2LLMProcessor.from_parts(encoder, decoder)


@pytest.fixture
def model(encoder, decoder):
    model = E2LLMForConditionalGeneration.from_parts(encoder, decoder, max_soft_tokens=2)
    model.chunk_encoder.requires_grad_(False)
    return model


def fresh_states(model, processor, text):
    inputs = processor.encode_chunk_texts([text])
    with torch.no_grad():
        return model.encode_states(inputs["chunk_input_ids"], inputs["chunk_attention_mask"])[0]


def test_kept_states_are_those_of_a_fresh_encoding_up_to_half_precision(model, processor):
    cache = EncoderStateCache(model, processor, 10**6)
    for _ in range(2):  # once computed, once remembered
        states, mask = cache([*TEXTS, TEXTS[0]])
        for row, row_mask, text in zip(states, mask, [*TEXTS, TEXTS[0]], strict=True):
            expected = fresh_states(model, processor, text)
            assert int(row_mask.sum()) == len(expected)
            torch.testing.assert_close(row[: len(expected)].float(), expected, atol=4e-3, rtol=2e-3)
    assert (cache.num_misses, cache.num_hits) == (3, 5)


def test_the_least_recently_used_states_go_when_the_limit_is_reached(model, processor):
    same_length = ["one boat", "two boat", "red boat"]
    size = (
        2 * 32 * len(fresh_states(model, processor, same_length[0]))
    )  # two bytes a number, 32 numbers a token
    cache = EncoderStateCache(model, processor, 2 * size)
    for text in (same_length[0], same_length[1], same_length[0], same_length[2]):
        cache([text])
    assert (cache.num_bytes, cache.num_misses) == (2 * size, 3)
    cache([same_length[0], same_length[2]])
    assert cache.num_misses == 3
    cache([same_length[1]])
    assert cache.num_misses == 4


def test_a_text_larger_than_the_limit_is_encoded_and_not_kept(model, processor):
    cache = EncoderStateCache(model, processor, 10)
    states, mask = cache([TEXTS[0]])
    assert states.shape[:2] == mask.shape
    assert cache.num_bytes == 0


def test_an_encoder_that_trains_is_refused(model, processor):
    model.chunk_encoder.requires_grad_(True)
    with pytest.raises(ValueError, match=r"encoder\.mode: frozen"):
        EncoderStateCache(model, processor, 10)
