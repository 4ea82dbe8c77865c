"""Parameters that a batch does not use, and chunks at several places."""

import torch

from e2llm.modeling import lora
from e2llm.modeling.decoder_input import DecoderInput
from tiny_models import TEXT, tiny_decoder, tiny_model, tiny_processor


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
