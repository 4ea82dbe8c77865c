"""Every encoder with every decoder: one step, save, load, generate; every family closely with one partner."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from e2llm.modeling import lora
from tiny_models import (
    DECODERS,
    ENCODERS,
    TEXT,
    assert_same_model,
    tiny_decoder,
    tiny_encoder,
    tiny_model,
    tiny_processor,
)

PROMPTS = ["Where is the key?", "How many boats were there at nine?"]


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def batch(processor):
    return processor(context=[TEXT[:120], TEXT[:40]], prompt=PROMPTS, answer=["Under the stone.", "Seven."])


def inference_inputs(batch):
    return {name: value for name, value in batch.items() if name != "labels"}


def take_step(model, batch):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    model.eval()
    return loss.detach()


def check_brief(model, batch, folder):
    """One step trains the adapter, and what is saved gives the same logits and the same answer."""
    before = {name: value.clone() for name, value in model.adapter.named_parameters()}
    assert torch.isfinite(take_step(model, batch))
    assert any(not torch.equal(value, before[name]) for name, value in model.adapter.named_parameters())
    model.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    inputs = inference_inputs(batch)
    assert_same_model(model, loaded, inputs)
    answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(loaded.generate(**inputs, max_new_tokens=3, do_sample=False), answer)


def check_padding(model, processor):
    """A left-padded batch gives each sample what it gets alone."""
    contexts = [TEXT[:150], TEXT[:40]]
    together = processor(context=contexts, prompt=PROMPTS)
    with torch.no_grad():
        batched = model(**together).logits
        for row, (context, prompt) in enumerate(zip(contexts, PROMPTS, strict=True)):
            alone = processor(context=context, prompt=prompt)
            length = alone["input_ids"].shape[1]
            single = model(**alone).logits[0]
            torch.testing.assert_close(batched[row, -length:], single, atol=2e-4, rtol=1e-3)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    answers = model.generate(**together, **options)[:, -4:]
    for row, (context, prompt) in enumerate(zip(contexts, PROMPTS, strict=True)):
        alone = processor(context=context, prompt=prompt)
        assert torch.equal(model.generate(**alone, **options)[0, -4:], answers[row])


def check_lora(model, batch, folder):
    """LoRA on both parts trains, survives save and load, and equals its merged self."""
    lora.set_modes(model, encoder="lora", decoder="lora", encoder_lora=RANK_2, decoder_lora=RANK_2)
    inputs = inference_inputs(batch)
    with torch.no_grad():
        without = model(**inputs).logits
    take_step(model, batch)
    take_step(model, batch)  # in the first step the deltas' B is zero and A gets no gradient
    for module in (model.chunk_encoder, model.language_model):
        gradients = [p.grad for name, p in module.named_parameters() if "lora_" in name]
        assert gradients
        assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    with torch.no_grad():
        attached = model(**inputs).logits
        assert not torch.allclose(attached, without, atol=1e-4)
        model.save_pretrained(folder / "attached")
        loaded = AutoModelForCausalLM.from_pretrained(folder / "attached")
        assert_same_model(model, loaded, inputs)
        model.save_pretrained(folder / "merged", self_contained=True)
        merged = AutoModelForCausalLM.from_pretrained(folder / "merged")
        torch.testing.assert_close(merged(**inputs).logits, attached, atol=2e-4, rtol=1e-3)
        lora.merge_lora(model)
        torch.testing.assert_close(model(**inputs).logits, attached, atol=2e-4, rtol=1e-3)


RANK_2 = lora.LoraSettings(rank=2, alpha=4)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_works_with_every_decoder(encoder, decoder, batch, tmp_path):
    check_brief(tiny_model(encoder, decoder), batch, tmp_path)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_padded_batch_equals_single_samples_for_every_decoder(decoder, processor):
    check_padding(tiny_model("bert", decoder), processor)


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name != "bert"])
def test_a_padded_batch_equals_single_samples_for_every_encoder(encoder, processor):
    check_padding(tiny_model(encoder, "llama"), processor)


@pytest.mark.parametrize("decoder", DECODERS)
def test_lora_works_on_every_decoder(decoder, batch, tmp_path):
    check_lora(tiny_model("bert", decoder), batch, tmp_path)


@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name != "bert"])
def test_lora_works_on_every_encoder(encoder, batch, tmp_path):
    check_lora(tiny_model(encoder, "llama"), batch, tmp_path)


@pytest.mark.parametrize("decoder", DECODERS)
def test_logits_at_labels_only_equal_the_full_ones_for_every_decoder(decoder, batch):
    model = tiny_model("bert", decoder)
    with torch.no_grad():
        full, brief = model(**batch), model(**batch, only_label_logits=True)
    torch.testing.assert_close(brief.token_losses, full.token_losses, atol=1e-5, rtol=1e-5)
    assert brief.logits.shape == (len(full.token_losses), full.logits.shape[-1])


def test_the_parts_of_the_matrix_are_of_the_families_they_name():
    assert {name: tiny_encoder(name).config.model_type for name in ENCODERS} == {
        name: name for name in ENCODERS
    }
    assert {name: tiny_decoder(name).config.model_type for name in DECODERS} == {
        name: name for name in DECODERS
    }
