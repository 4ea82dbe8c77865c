import pytest
import torch

from e2llm import ChunkStore
from e2llm.errors import E2LLMError
from e2llm.modeling import lora
from e2llm.modeling.identity import encoder_fingerprint
from e2llm.modeling.model import E2LLMForConditionalGeneration
from e2llm.modeling.processor import E2LLMProcessor
from e2llm.training.state_cache import EncoderStates

TEXTS = ["The harbour lights went out.", "Seven boats.", "The key was under the blue stone."]


@pytest.fixture
def processor(encoder, decoder):
    return E2LLMProcessor.from_parts(encoder, decoder)


@pytest.fixture
def model(encoder, decoder):
    return E2LLMForConditionalGeneration.from_parts(encoder, decoder, adapter="attention", max_soft_tokens=2)


def inputs_of(processor, texts):
    inputs = processor.encode_chunk_texts(texts)
    return inputs["chunk_input_ids"], inputs["chunk_attention_mask"]


def fresh_states(model, processor, text):
    with torch.no_grad():
        return model.encode_states(*inputs_of(processor, [text]))[0]


@pytest.mark.parametrize("kept", [True, False])
def test_states_are_those_of_a_fresh_encoding(model, processor, kept):
    states_of = EncoderStates(model, 0, max_bytes=10**6 * kept)
    tolerance = {"atol": 4e-3, "rtol": 2e-3} if kept else {"atol": 1e-5, "rtol": 1e-5}
    for _ in range(2):
        states, mask = states_of(*inputs_of(processor, [*TEXTS, TEXTS[0]]))
        for row, row_mask, text in zip(states, mask, [*TEXTS, TEXTS[0]], strict=True):
            expected = fresh_states(model, processor, text)
            assert int(row_mask.sum()) == len(expected)
            torch.testing.assert_close(row[: len(expected)].float(), expected, **tolerance)
    assert (states_of.num_encoded, states_of.num_found) == ((3, 5) if kept else (6, 2))


def test_a_chunks_bits_do_not_depend_on_what_it_was_encoded_with(model, processor):
    together, _ = EncoderStates(model, 0, max_bytes=10**6)(*inputs_of(processor, TEXTS))
    alone, _ = EncoderStates(model, 0, max_bytes=10**6)(*inputs_of(processor, TEXTS[1:2]))
    assert torch.equal(together[1, : alone.shape[1]], alone[0])


@pytest.mark.parametrize("layers", [None, [0, 2]])
def test_a_store_gives_the_next_run_the_same_bits_without_encoding(
    encoder, decoder, processor, tmp_path, layers
):
    model = E2LLMForConditionalGeneration.from_parts(
        encoder, decoder, adapter="attention", encoder_layers=layers
    )
    with ChunkStore(tmp_path) as store:
        first, _ = EncoderStates(model, 0, store=store)(*inputs_of(processor, TEXTS))
        again = EncoderStates(model, 0, store=store)
        second, _ = again(*inputs_of(processor, TEXTS))
    assert torch.equal(first, second)
    assert (again.num_encoded, again.num_found) == (0, 3)


def test_a_run_that_reads_other_layers_finds_nothing_in_the_store(encoder, decoder, processor, tmp_path):
    with ChunkStore(tmp_path) as store:
        for layers in ([0, 2], [1, 2]):
            model = E2LLMForConditionalGeneration.from_parts(encoder, decoder, encoder_layers=layers)
            states_of = EncoderStates(model, 0, store=store)
            states_of(*inputs_of(processor, TEXTS))
            assert states_of.num_encoded == 3


def test_another_encoder_finds_nothing_in_the_store(model, processor, tmp_path):
    with ChunkStore(tmp_path) as store:
        EncoderStates(model, 0, store=store)(*inputs_of(processor, TEXTS))
        next(model.chunk_encoder.parameters()).data[5] += 1
        other = EncoderStates(model, 0, store=store)
        other(*inputs_of(processor, TEXTS))
    assert other.num_encoded == 3


def test_the_least_recently_used_states_go_when_the_limit_is_reached(model, processor):
    texts = ["one boat", "two boat", "red boat"]
    size = 2 * 32 * len(fresh_states(model, processor, texts[0]))  # two bytes a number, 32 a token
    states_of = EncoderStates(model, 0, max_bytes=2 * size)
    for number in (0, 1, 0, 2):
        states_of(*inputs_of(processor, texts[number : number + 1]))
    assert (states_of.num_bytes, states_of.num_encoded) == (2 * size, 3)
    states_of(*inputs_of(processor, [texts[0], texts[2]]))
    assert states_of.num_encoded == 3
    states_of(*inputs_of(processor, [texts[1]]))
    assert states_of.num_encoded == 4


def test_states_larger_than_the_limit_are_made_and_not_kept(model, processor):
    states_of = EncoderStates(model, 0, max_bytes=10)
    states, mask = states_of(*inputs_of(processor, TEXTS[:1]))
    assert states.shape[:2] == mask.shape
    assert states_of.num_bytes == 0


def test_an_encoder_that_trains_is_refused(model):
    model.chunk_encoder.requires_grad_(True)
    with pytest.raises(ValueError, match=r"encoder\.mode: frozen"):
        EncoderStates(model, 0, max_bytes=10)


def test_states_of_another_precision_are_not_taken_from_the_store(model, processor, tmp_path):
    def halved():
        return torch.autocast("cpu", torch.bfloat16)

    with ChunkStore(tmp_path) as store:
        EncoderStates(model, 0, store=store, autocast=halved)(*inputs_of(processor, TEXTS))
        plain = EncoderStates(model, 0, store=store)
        plain(*inputs_of(processor, TEXTS))
        again = EncoderStates(model, 0, store=store, autocast=halved)
        again(*inputs_of(processor, TEXTS))
    assert (plain.num_encoded, again.num_encoded) == (3, 0)


def test_deltas_of_another_scale_are_another_encoder(model):
    lora.set_modes(model, encoder="lora", decoder="frozen", adapter="full")
    before = encoder_fingerprint(model)
    next(lora.lora_layers(model.chunk_encoder))[1].scaling["default"] = 7.0
    assert encoder_fingerprint(model) != before


def test_states_beyond_half_precision_are_refused(model, processor):
    model.chunk_encoder.encoder.layer[-1].output.LayerNorm.weight.data.fill_(1e6)
    with pytest.raises(E2LLMError, match="beyond half precision"):
        EncoderStates(model, 0, max_bytes=100)(*inputs_of(processor, TEXTS))


def test_what_is_too_large_for_the_store_is_encoded_each_time(model, processor, tmp_path, monkeypatch):
    monkeypatch.setattr("e2llm.training.state_cache._MOST_BYTES", 32 * 2 * 15)
    with ChunkStore(tmp_path) as store:
        EncoderStates(model, 0, store=store)(*inputs_of(processor, TEXTS))
        assert len(store) == 1  # the shortest
