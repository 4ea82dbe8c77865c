"""Chunks become soft tokens in bounded passes, with the gradients of one."""

import pytest
import torch
from read_chunks import gradients, plain_soft_tokens

from e2llm.errors import E2LLMError
from e2llm.modeling import lora
from e2llm.modeling.encoding import plan_passes
from tiny_models import WIDTH


@pytest.mark.parametrize("encoder_batch_tokens", [1, 64, 100_000])
def test_chunks_come_back_in_their_order_whatever_the_passes(model, chunks, encoder_batch_tokens):
    model.config.encoder_batch_tokens = encoder_batch_tokens
    with torch.no_grad():
        soft_tokens = model.encode_chunks(**chunks, num_soft_tokens=2)
        expected = plain_soft_tokens(model, chunks)
    torch.testing.assert_close(soft_tokens, expected, atol=2e-4, rtol=1e-3)


def test_passes_hold_similar_lengths_and_at_most_the_tokens_allowed(chunks):
    passes = list(plan_passes(chunks["chunk_attention_mask"], 64))
    assert [(rows.tolist(), length) for rows, length in passes] == [
        ([1], 40),
        ([4], 40),
        ([6, 8], 30),
        ([3, 0, 5, 2, 7], 12),
    ]


@pytest.mark.parametrize("mode", ["frozen", "lora", "full"])
def test_checkpointed_gradients_equal_the_plain_ones(model, chunks, mode):
    lora.set_modes(model, encoder=mode)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.train()
    model.chunk_encoder.eval()  # without dropout, so that the two can be compared
    model.config.encoder_batch_tokens = 64
    checkpointed = gradients(model, chunks)
    model.zero_grad()
    plain_soft_tokens(model, chunks).pow(3).sum().backward()
    plain = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(checkpointed) == set(plain)
    assert any("chunk_encoder" in name for name in plain) == (mode != "frozen")
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-6, rtol=5e-3, msg=name)


def test_dropout_in_a_checkpointed_pass_is_the_same_when_it_is_run_again(model, chunks):
    lora.set_modes(model, encoder="lora", encoder_lora=lora.LoraSettings(dropout=0.5))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.train()
    model.config.encoder_batch_tokens = 64
    torch.manual_seed(0)
    direction = torch.randn(9, 2, WIDTH)
    parameter = next(p for name, p in model.named_parameters() if "lora_B" in name)

    def loss():
        torch.manual_seed(1)
        return (model.encode_chunks(**chunks, num_soft_tokens=2) * direction).sum()

    model.zero_grad()
    loss().backward()
    step, place = 1e-3, (0, 0)
    with torch.no_grad():
        parameter[place] += step
        above = loss()
        parameter[place] -= 2 * step
        below = loss()
    assert ((above - below) / (2 * step)).item() == pytest.approx(
        parameter.grad[place].item(), rel=0.05, abs=0.02
    )


@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_memory_kept_for_the_backward_pass_does_not_grow_with_the_encoder(model, mode):
    """Kept per chunk: at most its token states, not the activations of the layers or the adapter."""
    lora.set_modes(model, encoder=mode)
    model.train()
    model.config.encoder_batch_tokens = 64
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    def bytes_kept(num_chunks):
        kept.clear()
        ids = torch.full((num_chunks, 16), 9)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.encode_chunks(ids, torch.ones_like(ids), num_soft_tokens=2).sum()
        parameters = {p.data_ptr() for p in model.parameters()}
        return sum(t.numel() * t.element_size() for t in kept if t.data_ptr() not in parameters)

    inputs, states = (16 + 16 + 1) * 8, 16 * WIDTH * 4  # ids, mask and place; float32 states
    growth = (bytes_kept(68) - bytes_kept(4)) / 64
    assert growth <= inputs + (states if mode == "frozen" else 0)


def test_only_what_trains_gets_gradients(model, chunks):
    assert all(name.startswith("adapter.") for name in gradients(model.train(), chunks))


def test_a_chunk_that_is_empty_or_too_long_is_refused(model, chunks):
    chunks["chunk_attention_mask"][2] = 0
    with pytest.raises(E2LLMError, match="chunk 2 has no token"):
        model.encode_chunks(**chunks)
    long = torch.full((1, 600), 9)
    with pytest.raises(E2LLMError, match="a chunk has 600 encoder tokens, but the encoder reads at most 512"):
        model.encode_chunks(long, torch.ones_like(long))


def test_no_chunks_give_no_soft_tokens(model):
    none = torch.zeros((0, 5), dtype=torch.long)
    assert model.encode_chunks(none, none, 3).shape == (0, 3, WIDTH)


@pytest.mark.parametrize("count", [0, 5])
def test_the_number_of_soft_tokens_must_be_in_range(model, chunks, count):
    with pytest.raises(E2LLMError, match=f"must be from 1 to 4, got {count}"):
        model.encode_chunks(**chunks, num_soft_tokens=count)
