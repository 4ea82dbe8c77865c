"""Parameters that a batch does not use, shares of gradients, states computed earlier."""

import pytest
import torch
from read_chunks import gradients

from e2llm.errors import E2LLMError
from e2llm.modeling import lora
from e2llm.modeling.decoder_input import DecoderInput
from tiny_models import TEXT, tiny_decoder, tiny_model, tiny_processor

# --- parameters that a batch does not use ------------------------------------------------------------------


def test_a_batch_without_chunks_gives_every_trainable_parameter_a_gradient(model, processor):
    lora.set_modes(model, encoder="lora", decoder="lora")
    model.train()
    batch = processor.collate([DecoderInput([1, 40, 50], [-100, 50, 2])], with_labels=True)
    model(**batch).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    assert all(p.grad.abs().sum() == 0 for p in model.adapter.parameters())


def test_the_dummy_chunk_does_not_change_the_logits(model):
    ids = torch.tensor([[1, 40, 50]])
    alone = model.language_model(input_ids=ids).logits
    assert torch.equal(model.train()(input_ids=ids).logits, alone)


def test_a_frozen_part_stays_in_evaluation_mode(model):
    model.train()
    assert (model.training, model.adapter.training) == (True, True)
    assert (model.chunk_encoder.training, model.language_model.training) == (False, False)
    lora.set_modes(model, encoder="lora")
    model.train()
    assert (model.chunk_encoder.training, model.language_model.training) == (True, False)


def test_a_decoder_of_another_embedding_width_than_its_hidden_size_gets_soft_tokens_of_its_embeddings():
    decoder = tiny_decoder("opt")
    assert decoder.get_input_embeddings().embedding_dim == 24
    model = tiny_model("bert", decoder)
    inputs = tiny_processor()(context=TEXT, prompt="Where?")
    assert model.merge(**inputs).shape[-1] == 24


def test_gradients_through_a_share_of_the_chunks_are_right_in_expectation(model, chunks):
    lora.set_modes(model, encoder="full", decoder="frozen", adapter="full")
    model.eval()  # no dropout
    model.config.encoder_batch_tokens = 64
    whole = gradients(model, chunks)
    sums = {name: torch.zeros_like(value) for name, value in whole.items()}
    for first in range(9):  # every set of three neighbours once, so that each chunk is in three of nine
        mask = torch.zeros(9, dtype=torch.bool)
        mask[[first, (first + 1) % 9, (first + 2) % 9]] = True
        model.zero_grad()
        soft_tokens = model.encode_chunks(**chunks, num_soft_tokens=2, gradient_mask=mask)
        soft_tokens.pow(3).sum().backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                sums[name] += parameter.grad
    largest = max(value.abs().max() for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(sums[name] / 9, value, rtol=1e-3, atol=1e-5 * largest, msg=name)


def test_a_gradient_mask_changes_no_soft_token_and_must_choose_one(model, chunks):
    model.eval()
    mask = torch.zeros(9, dtype=torch.bool)
    with pytest.raises(E2LLMError, match="chooses no chunk"):
        model.encode_chunks(**chunks, gradient_mask=mask)
    mask[4] = True
    torch.testing.assert_close(
        model.encode_chunks(**chunks, gradient_mask=mask), model.encode_chunks(**chunks), atol=2e-4, rtol=1e-3
    )


def test_a_chunk_that_stands_at_several_places_is_read_once(model, processor):
    inputs = processor(context=[TEXT[:50], TEXT[:50]], prompt=["Where?", "Who?"])
    once = dict(inputs)
    half = len(inputs["chunk_input_ids"]) // 2
    once["chunk_input_ids"] = inputs["chunk_input_ids"][:half]
    once["chunk_attention_mask"] = inputs["chunk_attention_mask"][:half]
    once["chunk_index"] = torch.tensor([*range(half), *range(half)])
    with torch.no_grad():
        torch.testing.assert_close(model(**once).logits, model(**inputs).logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.generate(**once, max_new_tokens=4), model.generate(**inputs, max_new_tokens=4))


def test_states_computed_earlier_are_adapted_pass_by_pass_with_the_same_gradients(model, chunks):
    model.chunk_encoder.requires_grad_(False)
    model.eval()
    with torch.no_grad():
        states = model.encode_states(chunks["chunk_input_ids"], chunks["chunk_attention_mask"])
    found = []
    for tokens in (50, 10**6):
        model.config.encoder_batch_tokens = tokens
        model.zero_grad()
        model.keep_in_passes(states, chunks["chunk_attention_mask"], 2).pow(3).sum().backward()
        found.append([p.grad.clone() for p in model.adapter.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
